"""``t2ireid prepare check``: the whole check, and its command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from t2ireid_plugin.data.annotations import find_annotation
from t2ireid_plugin.data.benchmarks import BENCHMARKS, BenchmarkSpec
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.prepare.check.findings import Findings
from t2ireid_plugin.prepare.check.identities import check_counts, check_identities
from t2ireid_plugin.prepare.check.images import check_images
from t2ireid_plugin.prepare.check.report import CheckReport, table, write_json
from t2ireid_plugin.prepare.check.rows import read_all
from t2ireid_plugin.prepare.check.sheet import write_sheet
from t2ireid_plugin.prepare.check.texts import (
    TokenCounts,
    check_repeated,
    check_tokens,
    learn_tokenizer,
    load_tokenizer,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LEARNED = "WordPiece, {:,} tokens learned from the training captions, as training does without a pretrained encoder"
_LEAST_LENGTH = 3  # a special token at either end and one between


def check_dataset(
    root: str | Path,
    spec: BenchmarkSpec,
    *,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    max_length: int = 64,
    workers: int | None = None,
    progress: bool = True,
    examples: int = 10,
) -> CheckReport:
    """Looks at every row, image and caption of a dataset.

    Args:
        root: the folder that holds the benchmark's folder.
        spec: the benchmark.
        tokenizer: that of the text encoder to be used, or the encoder's folder or hub id; None learns a vocabulary
            from the training captions as training does.
        max_length: tokens that the model reads of a caption.
        workers: processes that read images; None for one a core. The report is the same for any number.
        progress: whether to say on standard error how far it is.
        examples: how many are kept of each kind of finding.

    Raises:
        DataError: when there is no such dataset, its annotation as a whole cannot be read, or a number is too small.
        EncoderError: when the tokenizer cannot be had.
    """
    least = {"max_length": (max_length, _LEAST_LENGTH), "workers": (workers, 1), "examples": (examples, 1)}
    for name, (value, limit) in least.items():
        if value is not None and value < limit:
            raise DataError(f"{name} must be at least {limit}, got {value}")
    file = find_annotation(root, spec)
    chosen = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    findings = Findings(examples)
    rows = read_all(file, spec, findings)
    reader = chosen if chosen is not None else learn_tokenizer(rows)
    images = file.parent / spec.images
    facts = check_images(images, rows, findings, workers=workers, progress=progress)
    check_repeated(rows, findings)
    tokens = TokenCounts() if reader is None else check_tokens(rows, reader, max_length, findings)
    check_identities(rows, findings)
    return CheckReport(
        spec=spec,
        annotation=file,
        images=images,
        counts=check_counts(rows, spec, findings),
        tokenizer=_named(tokenizer, reader),
        max_length=max_length,
        tokens=tokens,
        findings=findings.sorted(),
        rows=rows,
        facts=facts,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``prepare check``."""
    parser.add_argument("root", metavar="ROOT", help="folder that holds the dataset's folder, as data.root")
    parser.add_argument("--dataset", choices=sorted(BENCHMARKS), default="cuhkpedes", help="which one (cuhkpedes)")
    parser.add_argument(
        "--tokenizer",
        metavar="DIR_OR_ID",
        help="pretrained text encoder, as model.bert_base_path (learns a vocabulary from the training captions)",
    )
    parser.add_argument("--max-length", type=int, default=64, metavar="N", help="tokens read of a caption (64)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read images (one a core)")
    parser.add_argument("--examples", type=int, default=10, metavar="N", help="examples kept of each finding (10)")
    parser.add_argument("--out", metavar="DIR", help="folder for report.json and sheet.jpg (log/check_DATASET)")
    parser.add_argument("--photos", type=int, default=36, metavar="N", help="photos on the sheet (36)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws the sheet's photos (0)")
    parser.add_argument("--font", metavar="FILE", help="font for Chinese captions on the sheet (searched for)")


def run(options: argparse.Namespace, command: str) -> int:
    """Checks, prints the table and writes the files; returns 1 when there is any error, else 0.

    Raises:
        DataError, EncoderError: as `check_dataset`, and when a file cannot be written.
    """
    report = check_dataset(
        options.root,
        BENCHMARKS[options.dataset],
        tokenizer=options.tokenizer,
        max_length=options.max_length,
        workers=options.workers,
        examples=options.examples,
    )
    _print(table(report))
    out = Path(options.out or Path("log") / f"check_{options.dataset}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"'{out}' cannot be written: {error.strerror}") from error
    write_json(report, out / "report.json")
    problem = write_sheet(report, out / "sheet.jpg", photos=options.photos, seed=options.seed, font=options.font)
    if problem:
        _print(f"sheet: {problem}")
    _print(f"written to {out}")
    return report.status


def _named(given: PreTrainedTokenizerBase | str | None, used: PreTrainedTokenizerBase | None) -> str:
    if used is None:
        return "none: there is no caption to learn a vocabulary from"
    if given is None:
        return _LEARNED.format(len(used))
    return given if isinstance(given, str) else used.name_or_path or type(used).__name__


def _print(text: str) -> None:
    """Prints; what the console's encoding lacks is escaped instead of an error."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
