"""Runs the authors' code of TBPS-CLIP on tiny weights and writes the numbers that test_tbps_clip.py compares with ours.

    git clone https://github.com/Flame-Chasers/TBPS-CLIP
    pip install easydict ftfy regex
    PYTHONPATH=tests python tests/parity/make_tbps_clip.py TBPS-CLIP tests/parity/tbps_clip.npz

It is their whole forward pass, without its random parts: dropout, deleted words and back-translation. In float64,
`float()` is `double()`.
"""

import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from parity import irra_weights as clip
from parity import tbps_clip_weights as tiny


def settings(folder):
    """The authors' full objective."""
    config = parse_config(folder / "config" / "config.yaml")
    config.device, config.model.use_gather = "cpu", False
    config.experiment.dropout, config.experiment.back_trans = 0.0, False
    config.experiment.simclr_mlp, config.experiment.text_length = [clip.WIDTH, tiny.HIDDEN, clip.WIDTH], clip.CONTEXT
    config.schedule.niter_per_ep = tiny.STEPS_PER_EPOCH
    return config


def model_of(config, precision):
    """The authors' model with the tiny weights."""
    torch.set_default_dtype(precision)
    sizes = {"layers": clip.LAYERS, "heads": 1, "embed_dim": clip.WIDTH, "checkpoint": False}
    image = VisualTransformer(tiny.SIDE, clip.PATCH, clip.WIDTH, **sizes)
    text = TextTransformer(
        config,
        embed_dim=clip.WIDTH,
        context_length=clip.CONTEXT,
        transformer_width=clip.WIDTH,
        transformer_heads=1,
        transformer_layers=clip.LAYERS,
        positional_embedding_flag=True,
        checkpoint=False,
    )
    text.token_embedding = torch.nn.Embedding(clip.VOCAB, clip.WIDTH)
    model = tbps_model.CLIP(config, image, text, eps=config.experiment.ritc_eps)
    model.eda.random_deletion = lambda text, share: text
    model.load_state_dict({name: torch.tensor(array, dtype=precision) for name, array in tiny.weights().items()})
    return model.train()


def losses_of(model, precision):
    """Vectors and weighted losses."""
    images, tokens = tiny.batch()
    tbps_model.tokenize = lambda texts, context_length: torch.tensor(tokens)
    inputs = {name: torch.tensor(array, dtype=precision) for name, array in images.items()}
    inputs |= {"caption": ["a"] * len(tokens), "caption_bt": None, "id": torch.tensor(clip.PIDS)}
    losses = model(inputs, tiny.SOFT)
    return {"image": model.encode_image(inputs["image"]), "text": model.encode_text(torch.tensor(tokens)), **losses}


def main(folder, file):
    """Writes everything."""
    config = settings(folder)
    with torch.no_grad():
        values = losses_of(model_of(config, torch.float32), torch.float32)
        numbers = {f"{name}32": value for name, value in values.items()}
    torch.Tensor.float = torch.Tensor.double
    model = model_of(config, torch.float64)
    optimizer = build_optimizer(config, model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for number in range(2):  # at the full rate; the first step of Adam does not depend on its betas
        values = losses_of(model, torch.float64)
        if number == 0:
            numbers |= {f"{name}64": value for name, value in values.items()}
        optimizer.zero_grad()
        sum(value for name, value in values.items() if name.endswith("loss")).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        step = (parameter - before[name]).detach().flatten()
        numbers[f"step {name}"] = torch.stack([step.sum(), step.abs().sum(), *step[:2]])
    numbers["rates"] = cosine_scheduler(config)
    np.savez_compressed(file, **{name: np.asarray(torch.as_tensor(value).detach()) for name, value in numbers.items()})


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    sys.modules |= {"nltk": mock.MagicMock(), "nltk.corpus": mock.MagicMock()}  # of text changes that are not used
    from misc.build import build_optimizer, cosine_scheduler
    from misc.utils import parse_config
    from model import tbps_model
    from model.text_transformer import TextTransformer
    from model.visual_transformer import VisualTransformer

    main(Path(sys.argv[1]), Path(sys.argv[2]))
