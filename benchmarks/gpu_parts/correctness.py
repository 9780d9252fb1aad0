"""The same outputs, gradients, weights and ranks as on the CPU in float64."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders import make_task
from benchmarks.gpu_parts.common import PRECISIONS, Row, Setup, attempt, autocast, precision, relative, row
from benchmarks.tiny import in_subprocess, tiny_cfg, watch_steps
from benchmarks.workloads import build, captions, clothing
from t2ireid_plugin.engine.build import build_run, run_options, set_deterministic
from t2ireid_plugin.engine.training_state import LAST, load_training_state
from t2ireid_plugin.evaluation.ranks import positive_ranks
from t2ireid_plugin.losses import LOSSES, LossInputs, LossTerms
from t2ireid_plugin.modeling import mamba

REPOSITORY = Path(__file__).resolve().parents[2]
MOST = 1e-5  # relative error of float32
MOST_GRADIENT = 1e-4
LENGTHS = (1, 8, 64)
_CLASSES, _WORDS, _WIDTH = 64, 20, 64  # of the losses' inputs


def tests(setup: Setup) -> Iterator[Row]:
    """The tests that need a GPU."""
    what = "tests marked cuda"
    if not setup.cuda:
        yield row(what, note="left out: no GPU")
        return
    files = [str(file) for file in (REPOSITORY / "tests").rglob("test_*.py") if "mark.cuda" in file.read_text("utf-8")]
    words = ["-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", *files]
    done = subprocess.run([sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    print(done.stdout[-5000:], done.stderr[-2000:], file=sys.stderr)
    counts = {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|error)", done.stdout[-500:])}
    bad = counts.get("failed", 0) + counts.get("error", 0)
    if done.returncode and not bad:
        yield row(what, note=f"failed: {(done.stderr or done.stdout).strip().splitlines()[-1][:200]}")
    else:
        yield row(f"{what}, {counts.get('passed', 0)} passed", bad, "failed", 0)


def agreement(setup: Setup) -> Iterator[Row]:
    """Outputs, the mixer, losses and ranks."""
    yield from attempt(setup, "outputs", lambda: _outputs(setup))
    for path in ("plain path", "mamba_ssm's kernel"):
        yield from attempt(setup, f"Mamba, {path}", functools.partial(_mixer, setup, path))
    for name in LOSSES:
        yield from attempt(setup, f"loss {name}", functools.partial(_loss, setup, name))
    yield from attempt(setup, "ranks", lambda: _ranks(setup))


@torch.no_grad()
def _outputs(setup: Setup) -> Iterator[Row]:
    model = build("tiny" if setup.quick else "base").model
    inputs = torch.randn(4, 3, *model.preprocess[:2]), clothing(4), captions(4)
    exact = copy.deepcopy(model).double()(inputs[0].double(), *inputs[1:])
    model.to(setup.device)
    for name in PRECISIONS:
        with precision(name), autocast(name, setup.device):
            output = model(inputs[0].to(setup.device), *inputs[1:])
        errors = {
            field: relative(value, wanted)
            for field, value, wanted in zip(exact._fields, output, exact, strict=True)
            if wanted is not None
        }
        worst = max(errors, key=errors.__getitem__)
        most = MOST if name == "fp32" else None
        yield row(f"outputs, {name}", errors[worst], "relative error", most, f"largest in {worst}")


def _mixer(setup: Setup, path: str) -> Iterator[Row]:
    plain = path == "plain path"
    if not plain and not (setup.cuda and mamba._selective_scan_kernel()):
        yield row(f"Mamba, {path}", note="left out: mamba_ssm is not installed, or there is no GPU")
        return
    torch.manual_seed(0)
    mixer = mamba.Mamba(256)
    for length in LENGTHS:
        hidden = torch.randn(4 if setup.quick else 64, length, 256)
        exact = _value_and_gradients(copy.deepcopy(mixer).double(), hidden.double())
        none = mock.patch.object(mamba, "_selective_scan_kernel", return_value=None)
        with precision("fp32"), none if plain else contextlib.nullcontext():
            found = _value_and_gradients(copy.deepcopy(mixer).to(setup.device), hidden.to(setup.device))
        for name, value, wanted, most in zip(("output", "gradients"), found, exact, (MOST, MOST_GRADIENT)):
            yield row(f"Mamba, {path}, length {length}, {name}", relative(value, wanted), "relative error", most)


def _value_and_gradients(module: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the gradients of input and parameters in one vector."""
    hidden = hidden.requires_grad_()
    output = module(hidden)
    output.square().sum().backward()
    return output, _gradients([hidden, *module.parameters()])


def _gradients(leaves: Sequence[Tensor]) -> Tensor:
    return torch.cat([leaf.grad.flatten() for leaf in leaves if leaf.grad is not None])


def _loss(setup: Setup, name: str) -> Iterator[Row]:
    sizes = {"feature_dim": _WIDTH, "num_classes": _CLASSES, "vocab_size": _CLASSES, "num_words": _WORDS}
    inputs = _loss_inputs(2 * _WIDTH)  # of as many rows as features `leak` explains everything and has no slope
    torch.manual_seed(0)
    terms = LossTerms({name: {"weight": 1.0}}, **sizes).eval()
    exact = _loss_and_gradients(copy.deepcopy(terms).double(), inputs, "cpu", torch.float64)
    with precision("fp32"):
        found = _loss_and_gradients(terms.to(setup.device), inputs, setup.device, torch.float32)
    for kind, value, wanted, most in zip(("value", "gradients"), found, exact, (MOST, MOST_GRADIENT)):
        yield row(f"loss {name}, {kind}", relative(value, wanted), "relative error", most)


def _loss_and_gradients(terms: LossTerms, inputs: LossInputs, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    moved: dict[str, Any] = {}
    leaves: list[Tensor] = list(terms.parameters())
    for field, value in inputs._asdict().items():
        if isinstance(value, Tensor):
            value = value.detach().clone().to(device)
            if value.is_floating_point():
                leaves.append(value := value.to(dtype).requires_grad_())
        moved[field] = value
    total, _ = terms(LossInputs(**moved))
    total.backward()
    return total, _gradients(leaves)


def _loss_inputs(batch: int) -> LossInputs:
    """Random inputs of every loss in float64; each person has two photos in different outfits."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(batch)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, dtype=torch.float64)

    def unit(width: int = 256) -> Tensor:
        return F.normalize(normal(width), dim=1)

    def words(high: int, width: int) -> Tensor:
        return torch.randint(high, (batch, width), generator=generator)

    return LossInputs(
        pids=rows // 2, photos=rows, outfits=rows % 2, composed_outfits=1 - rows % 2,
        image_embeds=unit(), id_text_embeds=unit(), cloth_image_embeds=unit(), cloth_text_embeds=unit(),
        fused_embeds=unit(), composed_embeds=unit(512), view_embeds=unit(),
        simclr_features=normal(2, _WIDTH), selected_image_embeds=normal(_WIDTH), selected_text_embeds=normal(_WIDTH),
        id_logits=normal(_CLASSES), id_embeds=normal(_WIDTH),
        id_text_features=normal(_WIDTH), cloth_embeds=normal(_WIDTH), gate=normal(_WIDTH).sigmoid(),
        gate_weights=normal(2).softmax(dim=1), scale=torch.ones(1, dtype=torch.float64),
        image_tokens=normal(9, _WIDTH), word_tokens=normal(6, _WIDTH),
        word_mask=(torch.arange(6) < 6 - rows[:, None] % 2).long(),
        hidden_words=torch.where(torch.arange(6) == 1, words(_CLASSES, 6), -100),
        id_words=words(2, _WORDS).double(), cloth_words=words(2, _WORDS).double(), epoch=3.0, progress=0.5,
    )  # fmt: skip


def _ranks(setup: Setup) -> Iterator[Row]:
    task = make_task(200, 300, 40) if setup.quick else make_task(3000, 6000, 500)
    queries, gallery = torch.from_numpy(task.queries), torch.from_numpy(task.gallery)
    expected = positive_ranks(queries, gallery, *task[2:])
    found = positive_ranks(queries.to(setup.device), gallery.to(setup.device), *task[2:])
    differ = sum(ours != theirs for ours, theirs in zip(found, expected, strict=True))
    yield row(f"ranks of {len(expected):,} queries", differ, "queries differ", 0)


class _Interrupted(Exception):
    """Ends a training in the middle of an epoch."""


def resume(setup: Setup) -> Iterator[Row]:
    """Bit for bit, in a process of its own on a GPU: cuBLAS reads its deterministic setting when it is first used."""

    def measure() -> list[Row]:
        arguments: dict[str, Any] = {
            "root": str(setup.folder),
            "use_gpu": setup.cuda,
            "batch": 16 if setup.quick else 64,
        }
        return [in_subprocess(__name__, **arguments) if setup.cuda else compare_resumed(**arguments)]

    yield from attempt(setup, "resume", measure)


def compare_resumed(root: str, use_gpu: bool, batch: int) -> Row:
    """Trains an epoch, and again with an interruption and a new engine; compares the weights."""
    weights = []
    for name, steps in (("whole", None), ("resumed", 3)):
        folder = Path(root) / "resume" / name
        folder.mkdir(parents=True)
        settings = {"batch_size": batch, "max_epoch": 1, "deterministic": True, "save_steps": 2}
        cfg = tiny_cfg(Path(root), folder, **settings)
        cfg.use_gpu = use_gpu
        engine = build_run(cfg)
        if steps is not None:
            left = iter(range(steps))

            def stop(step: Callable[[], Any], left: Iterator[int] = left) -> Any:
                if next(left, None) is None:
                    raise _Interrupted
                return step()

            watch_steps(engine, stop)
            try:
                engine.run(**run_options(cfg, folder))
            except _Interrupted:
                engine = build_run(cfg, load_training_state(folder / LAST), described=True)
                engine.resume(folder / LAST)
        engine.run(**run_options(cfg, folder))
        weights.append({key: value.cpu() for key, value in engine.model.state_dict().items()})
    set_deterministic(False)
    differ = sum(not torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    return row("resumed training, train.deterministic true", differ, "tensors differ", 0)


if __name__ == "__main__":
    print("\n" + json.dumps(compare_resumed(**json.loads(sys.argv[1]))))
