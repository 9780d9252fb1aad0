"""Runs the authors' code of IRRA on tiny weights and writes the numbers that test_irra.py compares with ours.

    git clone https://github.com/anosorae/IRRA
    python tests/parity/make_irra.py IRRA tests/parity/irra.npz

In float64, LayerNorm does not convert to float32 and `float()` is `double()`. `build_model` and `IRRA.forward` would
use half precision; the calls below are those of the latter.
"""

import gzip
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import irra_weights as tiny
import numpy as np
import torch


def model_of(precision):
    """The authors' model with the tiny weights."""
    torch.set_default_dtype(precision)
    clip, heads = tiny.shapes()
    args = Namespace(img_size=(tiny.HEIGHT, tiny.IMAGE_WIDTH), stride_size=tiny.STRIDE, temperature=0.02)
    args.loss_names, args.cmt_depth, args.vocab_size = "sdm+mlm+id", tiny.BLOCKS, tiny.VOCAB
    with tempfile.TemporaryDirectory() as folder:
        args.pretrain_choice = f"{folder}/clip.pt"
        torch.save({k: torch.tensor(v, dtype=precision) for k, v in tiny.weights(clip).items()}, args.pretrain_choice)
        model = build.IRRA(args, tiny.CLASSES)
    missing = model.load_state_dict(
        {k: torch.tensor(v, dtype=precision) for k, v in tiny.weights(heads).items()}, strict=False
    )
    assert not missing.unexpected_keys
    for name, array in tiny.weights(clip).items():  # the authors' loader prints and goes on where one does not fit
        own = model.base_model.state_dict()[name]
        assert own.shape != array.shape or torch.equal(own, torch.tensor(array, dtype=precision)), name
    return model


def losses_of(model, precision):
    """Vectors and losses, as `IRRA.forward` computes them."""
    images, tokens, labels = tiny.batch()
    images, tokens, labels = torch.tensor(images, dtype=precision), torch.tensor(tokens), torch.tensor(labels)
    pids = torch.tensor(tiny.PIDS)
    image_feats, text_feats = model.base_model(images, tokens)
    i_feats, t_feats = image_feats[:, 0], text_feats[torch.arange(len(tokens)), tokens.argmax(dim=-1)]
    logits = model.classifier(i_feats), model.classifier(t_feats)
    words = model.mlm_head(model.cross_former(model.base_model.encode_text(tokens), image_feats, image_feats))
    return {
        "image": i_feats,
        "text": t_feats,
        "sdm": objectives.compute_sdm(i_feats, t_feats, pids, model.logit_scale),
        "id": objectives.compute_id(*logits, pids),
        # different people only: their targets for several photos of a person do not add up to 1
        "cmpm": objectives.compute_cmpm(i_feats, t_feats, torch.arange(len(tokens))),
        "mlm": objectives.compute_mlm(words.reshape(-1, tiny.VOCAB), labels.reshape(-1)),
    }


def main(file):
    """Writes everything."""
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocabulary.gz"
        vocabulary.write_bytes(gzip.compress("\n".join(["#version", *tiny.MERGES]).encode()))
        tokenizer = SimpleTokenizer(str(vocabulary))
        texts = [tokenizer.encode(text) for text in tiny.TEXTS]
    with torch.no_grad():
        numbers = {f"{name}32": value for name, value in losses_of(model_of(torch.float32), torch.float32).items()}
    clip_model.LayerNorm.forward = torch.nn.LayerNorm.forward
    torch.Tensor.float = torch.Tensor.double
    model = model_of(torch.float64)
    values = losses_of(model, torch.float64)
    numbers |= {f"{name}64": value for name, value in values.items()}
    sys.argv = ["train.py"]
    args = get_args()
    optimizer = solver.build_optimizer(args, model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    (values["sdm"] + values["id"] + values["mlm"]).backward()
    optimizer.step()  # at the full rate
    for name, parameter in model.named_parameters():
        step = (parameter - before[name]).detach().flatten()
        numbers[f"step {name}"] = torch.stack([step.sum(), step.abs().sum(), *step[:2]])
    optimizer = solver.build_optimizer(args, model)
    scheduler = solver.build_lr_scheduler(args, optimizer)
    rates = []
    for _ in range(args.num_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step()
    numbers["rates"] = np.array(rates) / args.lr
    numbers |= {f"text {i}": torch.tensor(ids) for i, ids in enumerate(texts)}
    np.savez_compressed(file, **{name: np.asarray(torch.as_tensor(value).detach()) for name, value in numbers.items()})


if __name__ == "__main__":
    sys.path.insert(0, str(Path(sys.argv[1])))
    import solver
    from model import build, clip_model, objectives
    from utils.options import get_args
    from utils.simple_tokenizer import SimpleTokenizer

    main(Path(sys.argv[2]))
