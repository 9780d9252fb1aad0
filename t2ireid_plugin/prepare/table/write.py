"""Writes a dataset from a user's table and folder of images: ``custom/reid_raw.json`` and ``custom/imgs/``."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from t2ireid_plugin.data.annotations import check_images
from t2ireid_plugin.data.benchmarks import CUSTOM, SPLITS
from t2ireid_plugin.errors import DataError, check_choice
from t2ireid_plugin.prepare.table.photos import TablePhoto, collect_photos, drawn_splits, given_splits
from t2ireid_plugin.prepare.table.table import IDENTITY, SPLIT, read_table
from t2ireid_plugin.utils.atomic_io import atomic_folder
from t2ireid_plugin.utils.progress import show_progress
from t2ireid_plugin.utils.text import CJK, text_table

IDENTITIES = "identities.json"
# Ways to put an image into the dataset's folder.
_LINKS: dict[str, Callable[[str, str], object]] = {"copy": shutil.copyfile, "symlink": os.symlink, "hard": os.link}


def write_table(
    table: str | os.PathLike,
    images: str | os.PathLike,
    out: str | os.PathLike,
    *,
    val_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
    link: str = "copy",
    ignore: Sequence[str] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Writes ``OUT/custom`` from a table of images, identities and captions, completely or not at all.

    Images without a caption are in the gallery of val or test; those of people in train are left out.

    Args:
        table: CSV, TSV or JSON lines.
        images: folder that the table's image paths are relative to.
        out: folder to write ``custom`` into.
        val_share, test_share: of the identities, for a table without a split column. Where there are enough
            identities, each split gets at least one.
        seed: the same seed and identities give the same splits.
        link: copy, symlink or hard.
        ignore: names of columns to skip.
        progress: print progress on standard error.

    Returns:
        ``{"root", "images", "ids", "captions", "identities", "splits", "undescribed", "chinese"}``: the folder, three
        counts per split, "given" or "images" for whether there was an identity column, "given" or "drawn" for the
        splits, the number of images without a caption, and whether most captions are Chinese.

    Raises:
        ConfigError: for an unknown ``link``, and when another process is writing the same folder.
        DataError: for a table that cannot be read or contradicts itself, images that are missing, unreadable or not
            inside ``images``, shares and a seed out of range, an existing ``OUT/custom``, and when it cannot be
            written.
    """
    _check_options(val_share, test_share, seed, link)
    root = Path(os.path.expanduser(out)) / CUSTOM.folder
    if os.path.lexists(root):
        raise DataError(f"'{root}' already exists; remove it or choose another --out")
    content = read_table(Path(os.path.expanduser(table)), ignore)
    folder = Path(os.path.expanduser(images))
    photos = collect_photos(content, folder)
    check_images([photo.source for photo in photos])
    captions = [caption for photo in photos for caption in photo.texts]
    undescribed = sum(not photo.texts for photo in photos)
    given = SPLIT in content.columns and bool(captions)
    splits = given_splits(photos, content.file) if given else drawn_splits(photos, val_share, test_share, seed)
    photos = [photo for photo in photos if photo.texts or splits[photo.identity] != "train"]
    with atomic_folder(root, "--out") as draft:
        _write_dataset(draft, photos, splits, link, progress)
    parts = {name: [photo for photo in photos if splits[photo.identity] == name] for name in SPLITS}
    return {
        "root": str(root),
        "images": {name: len(part) for name, part in parts.items()},
        "ids": {name: len({photo.identity for photo in part}) for name, part in parts.items()},
        "captions": {name: sum(len(photo.texts) for photo in part) for name, part in parts.items()},
        "identities": "given" if IDENTITY in content.columns else "images",
        "splits": "given" if given else "drawn",
        "undescribed": undescribed,
        "chinese": 2 * sum(bool(re.search(f"[{CJK}]", caption)) for caption in captions) > len(captions),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``prepare table``."""
    parser.add_argument("table", metavar="TABLE", help="columns image, identity, caption; .csv, .tsv or .jsonl")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder that image paths are relative to")
    parser.add_argument("--out", required=True, metavar="ROOT", help="folder to write custom/ into")
    parser.add_argument("--val-share", type=float, default=0.1, metavar="X", help="share of identities in val (0.1)")
    parser.add_argument("--test-share", type=float, default=0.1, metavar="X", help="share of identities in test (0.1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same splits (0)")
    parser.add_argument("--link", choices=tuple(_LINKS), default="copy", help="symlink and hard save space (copy)")
    parser.add_argument(
        "--ignore-column", action="append", default=[], metavar="NAME", help="skip this column (repeatable)"
    )


def run(options: argparse.Namespace, command: str) -> int:
    """Writes the dataset and prints its counts and the next commands; returns 0.

    Raises:
        DataError: as `write_table`.
    """
    summary = write_table(
        options.table,
        options.images,
        options.out,
        val_share=options.val_share,
        test_share=options.test_share,
        seed=options.seed,
        link=options.link,
        ignore=options.ignore_column,
    )
    print("\n".join(_report(summary, options.out, options.seed)))
    return 0


def _check_options(val_share: float, test_share: float, seed: int, link: str) -> None:
    if not (0 <= val_share < 1 and 0 < test_share < 1 and val_share + test_share < 1):  # also refuses NaN
        raise DataError(
            f"--val-share {val_share} must be at least 0, --test-share {test_share} above 0, and their sum less than 1"
        )
    if seed < 0:
        raise DataError(f"--seed {seed} must be at least 0")
    check_choice("--link", link, _LINKS)


def _write_dataset(
    draft: Path, photos: Sequence[TablePhoto], splits: Mapping[str, str], link: str, progress: bool
) -> None:
    for photo in show_progress(photos, len(photos), "images", "image", progress):
        target = draft / CUSTOM.images / photo.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):  # on a file system that ignores case
            raise DataError(f"two images have the name {photo.path!r} on the disk of '{draft.parent}'; rename one")
        try:
            _LINKS[link](os.path.realpath(photo.source), str(target))
        except OSError as error:
            hint = "; hard links must stay on one disk, use --link copy" if error.errno == errno.EXDEV else ""
            raise DataError(f"'{target}' cannot be written: {error}{hint}") from error
    numbers = {identity: number for number, identity in enumerate(sorted(splits), 1)}
    rows = [_annotation_row(photo, numbers[photo.identity], splits[photo.identity]) for photo in photos]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (draft / CUSTOM.annotations[0]).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    (draft / IDENTITIES).write_text(json.dumps(numbers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _annotation_row(photo: TablePhoto, pid: int, split: str) -> dict[str, Any]:
    """The image's row in CUHK-PEDES's format."""
    captions = list(photo.texts)
    row: dict[str, Any] = {
        "split": split,
        "captions": captions or None,
        "file_path": photo.path,
        "processed_tokens": [re.findall(r"\w+", text.lower()) for text in captions],
        "id": pid,
    }
    optional = {
        "camera": photo.row.camera,
        "id_captions": [text for _, text, _ in photo.texts.values() if text],
        "cloth_captions": [text for _, _, text in photo.texts.values() if text],
    }
    return row | {key: value for key, value in optional.items() if value}


def _report(summary: Mapping[str, Any], out: str, seed: int) -> list[str]:
    root, columns = shlex.quote(out), ("images", "ids", "captions")
    rows = [[name, *(str(summary[column][name]) for column in columns)] for name in SPLITS]
    lines = [text_table(("split", *columns), rows)]
    if summary["identities"] == "images":
        lines.append("Without an identity column each image counts as a different person.")
    written = f"Written to '{summary['root']}'; '{IDENTITIES}' there lists the number of each identity."
    if not any(summary["captions"].values()):
        photos = shlex.quote(str(Path(summary["root"]) / CUSTOM.images))
        return [
            *lines,
            f"{written} Without captions there is nothing to train or test on.",
            "Next, with a trained model (a run's folder):",
            f'  t2ireid search "a woman in a red jacket" {photos} --model RUN',
        ]
    if summary["splits"] == "drawn":
        lines.append(f"Without a split column the identities were split at random with seed {seed}.")
    if count := summary["undescribed"]:
        lines.append(
            f"Photos without a caption: {count}; those in val and test are in the gallery, others are left out."
        )
    for name, advice in (
        ("train", "training needs more identities, or others in the split column"),
        ("val", "training will hold out some of its identities to select the checkpoint"),
        ("test", "testing needs more identities, or others in the split column"),
    ):
        if not summary["captions"][name]:
            lines.append(f"The split {name} {'has no captions' if summary['images'][name] else 'is empty'}: {advice}.")
    chinese = summary["chinese"]
    return [
        *lines,
        f"{written} Next:",
        f"  t2ireid prepare check {root} --dataset {CUSTOM.name}",
        "On a laptop, with pretrained encoders that are not trained further:",
        f"  t2ireid train --config-file t2i_frozen data.root {root}"
        + " model.bert_base_path bert-base-chinese" * chinese,
        "On a GPU, at full size:",
        f"  t2ireid train --config-file t2i_vit_mamba{'_zh' * chinese} data.root {root} "
        f"data.sources {CUSTOM.name} data.targets {CUSTOM.name}",
    ]
