"""Weights, checkpoints and epochs, compared bit for bit, and a limit that acts like a full disk."""

import contextlib
import resource

import torch


@contextlib.contextmanager
def largest_file(size):
    """Within, no file of this process can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def train_epoch(engine, epoch=0, **options):
    """Trains an epoch of at most five."""
    engine.epoch, engine.max_epoch = epoch, 5
    engine.train(print_freq=100, **options)


def weights(module, prefix=""):
    """Copies of all parameters and buffers by name."""
    return {prefix + name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(before, after):
    """Names of the tensors that differ."""
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def saved(folder, name="last.pth"):
    """A checkpoint, read by PyTorch's safe loader."""
    return torch.load(folder / name, weights_only=True)


def differences(first, second, where):
    """Places where two nested values are not the same, bit for bit."""
    if type(first) is not type(second):
        return [where]
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [where]
    if isinstance(first, dict):
        if list(first) != list(second):
            return [where]
        return [place for key in first for place in differences(first[key], second[key], f"{where} {key}")]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [where]
        pairs = enumerate(zip(first, second, strict=True))
        return [place for i, (a, b) in pairs for place in differences(a, b, f"{where} {i}")]
    return [] if first == second else [where]
