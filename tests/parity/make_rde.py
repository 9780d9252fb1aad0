"""Runs the authors' code of RDE on tiny weights and writes the numbers that test_rde.py compares with ours.

    git clone https://github.com/QinYang79/RDE
    PYTHONPATH=tests python tests/parity/make_rde.py RDE/2024-CVPR-RDE tests/parity/rde.npz

`half` and `cuda` do nothing, the widths of the second embedding are tiny, and in float64 `float()` is `double()`.
"""

import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from parity import irra_weights as tiny
from parity import rde_weights as rde


def model_of(precision):
    """The authors' model with the tiny weights."""
    torch.set_default_dtype(precision)
    clip, _ = tiny.shapes()
    args = Namespace(img_size=(tiny.HEIGHT, tiny.IMAGE_WIDTH), stride_size=tiny.STRIDE, temperature=0.02)
    args.loss_names, args.select_ratio, args.tau, args.margin = "TAL", rde.RATIO, rde.TAU, rde.MARGIN
    with tempfile.TemporaryDirectory() as folder:
        args.pretrain_choice = f"{folder}/clip.pt"
        torch.save({k: torch.tensor(v, dtype=precision) for k, v in tiny.weights(clip).items()}, args.pretrain_choice)
        model = build.RDE(args)
    heads = {k: torch.tensor(v, dtype=precision) for k, v in rde.weights().items()}
    assert not model.load_state_dict(heads, strict=False).unexpected_keys
    return model


def losses_of(model, precision, short):
    """Vectors and losses."""
    images, tokens = rde.batch(short)
    images, tokens = torch.tensor(images, dtype=precision), torch.tensor(tokens)
    batch = {"images": images, "caption_ids": tokens, "pids": torch.tensor(tiny.PIDS)}
    batch["label_hat"] = torch.tensor(rde.LABELS)
    values = {name: value for name, value in model(batch).items() if name.endswith("loss")}
    if not model.training:
        values["bge_pair"], values["tse_pair"], *_ = model.compute_per_loss(batch)
        values |= {"image": model.encode_image(images), "text": model.encode_text(tokens)}
        values |= {"image_tse": model.encode_image_tse(images), "text_tse": model.encode_text_tse(tokens)}
    return values


def division():
    """Which pairs count, by `get_loss` and the lines after it in `do_train`, for both sets of settings."""
    given = torch.tensor(rde.losses())

    class Pairs:
        real_correspondences = None

        def __len__(self):
            return len(given)

    class Loader(list):
        dataset = Pairs()

    for name, rate in (("few", 0.2), ("many", 0.5)):
        model = torch.nn.Module()
        model.args = Namespace(noisy_rate=rate, dataset_name="CUHK-PEDES")
        model.compute_per_loss = lambda batch: (*given.T, *given.T)
        np.random.seed(5)
        torch.manual_seed(5)
        first, second = processor.get_loss(model, Loader([{"index": torch.arange(len(given))}]))
        yield f"{name} parts", torch.stack([first, second], 1)
        both = first + second
        both[both == 1] += torch.randint(0, 2, size=(((both == 1) + 0).sum(),))
        yield f"{name} clean", (both > 1).float()


def main(file):
    """Writes everything."""
    numbers = {}
    torch.set_default_dtype(torch.float32)
    to, torch.Tensor.to = torch.Tensor.to, lambda tensor, *_: tensor
    numbers |= dict(division())
    torch.Tensor.to = to
    for bits, precision in ((32, torch.float32), (64, torch.float64)):
        if bits == 64:
            clip_model.LayerNorm.forward = torch.nn.LayerNorm.forward
            torch.Tensor.float = torch.Tensor.double
        model = model_of(precision)
        for name, value in losses_of(model.eval(), precision, True).items():
            numbers[f"{name}{bits}"] = value
        values = losses_of(model.train(), precision, False)
        numbers |= {f"train {name}{bits}": value for name, value in values.items()}
    sys.argv = ["train.py"]
    args = get_args()
    optimizer = solver.build_optimizer(args, model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    sum(values.values()).backward()
    optimizer.step()  # at the full rate
    for name, parameter in model.named_parameters():
        step = (parameter - before[name]).detach().flatten()
        numbers[f"step {name}"] = torch.stack([step.sum(), step.abs().sum(), *step[:2]])
    for name, value in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            numbers[f"after {name}"] = value
    optimizer = solver.build_optimizer(args, model)
    scheduler = solver.build_lr_scheduler(args, optimizer)
    rates = []
    for _ in range(args.num_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    numbers["rates"] = np.array(rates) / args.lr
    np.savez_compressed(file, **{name: np.asarray(torch.as_tensor(value).detach()) for name, value in numbers.items()})


if __name__ == "__main__":
    sys.path.insert(0, str(Path(sys.argv[1])))
    import solver
    from model import CrossEmbeddingLayer_tse, build, clip_model
    from processor import processor
    from utils.options import get_args

    for layer in (CrossEmbeddingLayer_tse.VisualEmbeddingLayer, CrossEmbeddingLayer_tse.TexualEmbeddingLayer):
        layer.__init__.__defaults__ = (tiny.WIDTH, rde.DIM, rde.RATIO)
    torch.Tensor.half = torch.Tensor.cuda = lambda tensor: tensor
    main(Path(sys.argv[2]))
