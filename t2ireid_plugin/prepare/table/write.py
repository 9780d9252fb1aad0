"""Turns a user's table and folder of images into a dataset: `custom/reid_raw.json` and `custom/imgs/`."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from t2ireid_plugin.data.benchmarks import CUSTOM, SPLITS
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.prepare.table.photos import TablePhoto, check_files, collect_photos, drawn_splits, given_splits
from t2ireid_plugin.prepare.table.table import IDENTITY, SPLIT, read_table
from t2ireid_plugin.utils.progress import show_progress

IDENTITIES = "identities.json"
# How an image gets from the user's folder into ours.
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
    """Write `OUT/custom` from a table of images, identities and captions; all of it or nothing.

    Without a split column the identities are divided by a draw, the same for the same seed and identities; val and
    test then get at least one where there are enough. `link` is copy, symlink or hard; `ignore` names columns.

    Returns `{"root", "images", "ids", "captions", "identities", "splits"}`: the folder, three tables of counts per
    split, whether there was an identity column ("given", else "images"), and whether splits were "given" or "drawn".

    Raises DataError, naming file and line, for a table that cannot be read or contradicts itself, images that are
    missing, unreadable or not inside `images`, shares and a seed out of range, and an `OUT/custom` that exists.
    """
    _check_choices(val_share, test_share, seed, link)
    root = Path(out).expanduser() / CUSTOM.folder
    if os.path.lexists(root):
        raise DataError(f"'{root}' exists already; remove it or choose another --out")
    read = read_table(Path(table).expanduser(), ignore)
    folder = Path(images).expanduser()
    photos = collect_photos(read, folder)
    check_files(photos, folder, read.file)
    given = SPLIT in read.columns
    splits = given_splits(photos, read.file) if given else drawn_splits(photos, val_share, test_share, seed)
    _write_whole(root, photos, splits, folder, link, progress)
    parts = {name: [photo for photo in photos if splits[photo.identity] == name] for name in SPLITS}
    return {
        "root": str(root),
        "images": {name: len(part) for name, part in parts.items()},
        "ids": {name: len({photo.identity for photo in part}) for name, part in parts.items()},
        "captions": {name: sum(len(row.captions) for p in part for row in p.rows) for name, part in parts.items()},
        "identities": "given" if IDENTITY in read.columns else "images",
        "splits": "given" if given else "drawn",
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `t2ireid prepare table`."""
    parser.add_argument("table", metavar="TABLE", help="columns image, identity, caption; .csv, .tsv or .jsonl")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder that the table's image paths start from")
    parser.add_argument("--out", required=True, metavar="ROOT", help="folder to write custom/ into")
    parser.add_argument("--val-share", type=float, default=0.1, metavar="X", help="of the identities, for val (0.1)")
    parser.add_argument("--test-share", type=float, default=0.1, metavar="X", help="of the identities, for test (0.1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same splits (0)")
    parser.add_argument("--link", choices=tuple(_LINKS), default="copy", help="symlink and hard save space (copy)")
    parser.add_argument(
        "--ignore-column", action="append", default=[], metavar="NAME", help="leave a column out; may be repeated"
    )


def run(options: argparse.Namespace, command: str) -> int:
    """`t2ireid prepare table`: writes the dataset, prints its counts and what to do next; returns 0 when done.

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


def _check_choices(val_share: float, test_share: float, seed: int, link: str) -> None:
    if not 0 <= val_share < 1:  # so that nan is refused too
        raise DataError(f"--val-share {val_share} must be at least 0 and less than 1")
    if not 0 < test_share < 1:
        raise DataError(f"--test-share {test_share} must be between 0 and 1; without test people there is no result")
    if not val_share + test_share < 1:
        raise DataError(f"--val-share {val_share} and --test-share {test_share} leave nobody to train on")
    if seed < 0:
        raise DataError(f"--seed {seed} must be at least 0")
    if link not in _LINKS:
        raise DataError(f"--link {link!r} is none of {', '.join(_LINKS)}")


def _write_whole(
    root: Path, photos: Sequence[TablePhoto], splits: Mapping[str, str], folder: Path, link: str, progress: bool
) -> None:
    """Written in a folder next to `root`, which takes its name at the end."""
    draft = None
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
        _write_all(draft, photos, splits, folder, link, progress)
        draft.chmod(0o755)  # mkdtemp's is private to the user
        draft.rename(root)
    except OSError as error:
        hint = "; hard links reach no other disk, use --link copy" if error.errno == errno.EXDEV else ""
        raise DataError(f"'{root}' cannot be written: {error}{hint}") from error
    finally:
        if draft:
            shutil.rmtree(draft, ignore_errors=True)


def _write_all(
    draft: Path, photos: Sequence[TablePhoto], splits: Mapping[str, str], folder: Path, link: str, progress: bool
) -> None:
    for photo in show_progress(photos, len(photos), "images", "image", progress):
        target = draft / CUSTOM.images / photo.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):  # on a disk that does not tell A.jpg from a.jpg
            raise DataError(
                f"two images would share the name {photo.path!r} on the disk of '{draft.parent}'; rename one"
            )
        # The image itself, also where the user's folder holds links.
        _LINKS[link](os.path.realpath(folder / photo.path), str(target))
    numbers = {identity: number for number, identity in enumerate(sorted(splits), 1)}
    rows = [_annotation(photo, numbers[photo.identity], splits[photo.identity]) for photo in photos]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (draft / CUSTOM.annotations[0]).write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    (draft / IDENTITIES).write_text(json.dumps(numbers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _annotation(photo: TablePhoto, pid: int, split: str) -> dict[str, Any]:
    """The image's row of reid_raw.json."""
    captions = [text for row in photo.rows for text in row.captions]
    row: dict[str, Any] = {
        "split": split,
        "captions": captions,
        "file_path": photo.path,
        "processed_tokens": [re.findall(r"\w+", text.lower()) for text in captions],
        "id": pid,
    }
    optional = {
        "camera": photo.rows[0].camera,
        "id_captions": [text for own in photo.rows for text in own.id_texts],
        "cloth_captions": [text for own in photo.rows for text in own.cloth_texts],
    }
    return row | {key: value for key, value in optional.items() if value}


def _report(summary: Mapping[str, Any], out: str, seed: int) -> list[str]:
    ids, root = summary["ids"], shlex.quote(out)
    lines = [f"{'split':<6} {'images':>8} {'ids':>8} {'captions':>9}"]
    lines += [
        f"{name:<6} {summary['images'][name]:>8} {ids[name]:>8} {summary['captions'][name]:>9}" for name in SPLITS
    ]
    if summary["identities"] == "images":
        lines.append("There is no identity column, so each image counts as a person of its own.")
    if summary["splits"] == "drawn":
        lines.append(f"There is no split column, so the identities were divided by a draw with seed {seed}.")
    for name, remark in (
        ("train", "training needs more people, or others in the split column"),
        ("val", "training will hold out some of its people to choose the checkpoint on"),
        ("test", "testing needs more people, or others in the split column"),
    ):
        if not ids[name]:
            lines.append(f"There is nobody in {name}: {remark}.")
    lines += [
        f"'{summary['root']}' is written; '{IDENTITIES}' there tells which number is whom. Next:",
        f"  t2ireid prepare check {root} --dataset {CUSTOM.name}",
        f"  python tools/train_net.py --config-file configs/t2i_vit_mamba.yaml data.root {root} "
        f"data.sources {CUSTOM.name} data.targets {CUSTOM.name}",
    ]
    return lines
