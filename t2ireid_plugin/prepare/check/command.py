"""``t2ireid prepare check``: the whole check, and its command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from t2ireid_plugin.data.annotations import find_annotation
from t2ireid_plugin.data.benchmarks import BENCHMARKS, WITHOUT_CAPTIONS, BenchmarkSpec
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.prepare.check import texts
from t2ireid_plugin.prepare.check.images import check_images
from t2ireid_plugin.prepare.check.report import CheckReport, Findings
from t2ireid_plugin.prepare.check.rows import check_counts, check_identities, read_all
from t2ireid_plugin.prepare.check.sheet import write_sheet
from t2ireid_plugin.utils.atomic_io import atomic_write

_SPECS = {**BENCHMARKS, **WITHOUT_CAPTIONS}
_MIN_LENGTH = 3  # tokens: a special one at either end and one between


def check_dataset(
    root: str | Path,
    spec: BenchmarkSpec,
    *,
    tokenizer: str | None = None,
    max_length: int = 64,
    workers: int | None = None,
    progress: bool = True,
) -> CheckReport:
    """Checks every row, image and caption of a dataset.

    Args:
        root: folder that contains the benchmark's folder.
        spec: the benchmark.
        tokenizer: folder or hub id of the pretrained text encoder; None learns a vocabulary from the training captions
            as training does.
        max_length: tokens that the model reads of a caption.
        workers: processes that read images; None for one per core. The report does not depend on it.
        progress: print progress on standard error.

    Raises:
        DataError: when there is no such dataset, its annotation cannot be read at all, or a number is too small.
        EncoderError: when the tokenizer cannot be loaded.
    """
    minimum = {"max_length": (max_length, _MIN_LENGTH), "workers": (workers, 1)}
    for name, (value, least) in minimum.items():
        if value is not None and value < least:
            raise DataError(f"{name}: must be at least {least}, not {value}")
    file = find_annotation(root, spec)
    findings = Findings()
    images = spec.image_folder(root)
    rows = read_all(file, images, spec, findings)
    reader = texts.load_tokenizer(tokenizer) if tokenizer else texts.learn_tokenizer(rows)
    description = tokenizer or "none, as there are no captions to learn a vocabulary from"
    if reader is not None and not tokenizer:
        description = f"WordPiece, {len(reader):,} tokens learned from the training captions as training does"
    # A photo may be in several composed queries, and is searched by none of them.
    searched = [row for row in rows if not (spec.composed and row.captions)]
    facts = check_images(images, rows, findings, workers, progress, searched)
    texts.check_repeated(rows, findings)
    texts.check_scripts(rows, findings)
    tokens = texts.check_tokens(rows, reader, max_length, findings)
    check_identities(rows, findings)
    return CheckReport(
        spec=spec,
        annotation=file,
        images=images,
        counts=check_counts(rows, spec, findings),
        tokenizer=description,
        max_length=max_length,
        tokens=tokens,
        findings=findings.sorted(),
        rows=rows,
        facts=facts,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``prepare check``."""
    parser.add_argument("root", metavar="ROOT", help="folder that contains the dataset's folder, as data.root")
    parser.add_argument("--dataset", choices=sorted(_SPECS), default="cuhkpedes", help="its name (cuhkpedes)")
    parser.add_argument(
        "--tokenizer",
        metavar="DIR_OR_ID",
        help="pretrained text encoder, as model.bert_base_path (learns a vocabulary from the training captions)",
    )
    parser.add_argument("--max-length", type=int, default=64, metavar="N", help="tokens read of a caption (64)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read images (one per core)")
    parser.add_argument("--out", metavar="DIR", help="folder for report.json and sheet.jpg (log/check_DATASET)")
    parser.add_argument("--photos", type=int, default=36, metavar="N", help="photos on the sheet (36)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="selects the photos on the sheet (0)")
    parser.add_argument("--font", metavar="FILE", help="font for Chinese captions (searches the system's fonts)")


def run(options: argparse.Namespace, command: str) -> int:
    """Checks the dataset, prints a table and writes the files; returns 1 if there is an error, else 0.

    Raises:
        DataError, EncoderError: as `check_dataset`, and when a file cannot be written.
    """
    report = check_dataset(
        options.root,
        _SPECS[options.dataset],
        tokenizer=options.tokenizer,
        max_length=options.max_length,
        workers=options.workers,
    )
    print(report.table())
    out = Path(options.out or Path("log") / f"check_{options.dataset}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out '{out}' cannot be written: {error.strerror}; choose another folder") from error
    # Python represents file names that are not UTF-8 by lone surrogates, which cannot be encoded.
    content = json.dumps(report.as_dict(), ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace")
    atomic_write(out / "report.json", lambda draft: draft.write_bytes(content + b"\n"))
    hint = write_sheet(report, out / "sheet.jpg", photos=options.photos, seed=options.seed, font=options.font)
    if hint:
        print(f"sheet: {hint}")
    print(f"written to {out}")
    return report.status
