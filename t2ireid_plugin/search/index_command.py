"""``t2ireid index``: makes, changes and describes an index of photos and videos."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.search.command import report, save_encoder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the sub-commands and their options."""
    commands = parser.add_subparsers(dest="what", required=True)

    def sub(name: str, description: str, act: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=description, description=description)
        command.set_defaults(act=act)
        return command

    build = sub("build", "make an index of folders, lists, tar archives and videos, or bring it up to date", _build)
    add = sub("add", "add photos and videos to an index", _add)
    add.add_argument("index", metavar="INDEX")
    for command in (build, add):
        command.add_argument("sources", nargs="+", metavar="SOURCE", help="folder, photo, LIST.csv, .tar or video")
        command.add_argument("--camera", metavar="C", help="camera of all that is added")
        text = r"expression that finds the camera in a path, as 'cam(?P<camera>\d+)'"
        command.add_argument("--camera-from", metavar="REGEX", help=text)
        command.add_argument("--start", metavar="TIME", help="time of a video's first frame: 2026-11-01T08:00:00+01:00")
        command.add_argument("--fps", type=float, default=5.0, metavar="N", help="frames per second to look at (5)")
        text = "find people with this object-detection model of transformers, or with hog"
        command.add_argument("--detector", metavar="FOLDER_OR_ID", help=text)
        text = "run, checkpoint or export; by default the index's own encoder"
        command.add_argument("--model", required=command is build, metavar="RUN_OR_EXPORT", help=text)
    build.add_argument("--out", required=True, metavar="INDEX", help="folder, or milvus://HOST:PORT/NAME")
    build.add_argument("--root", metavar="DIR", help="paths beneath it are stored relative to it")
    text = "build part i of n, as INDEX.iofn, for `merge`; by default the rank of torchrun or SLURM"
    build.add_argument("--shard", metavar="i/n", help=text)

    delete = sub("delete", "delete the rows that fulfil all conditions; purge erases their bytes", _delete)
    purge = sub("purge", "erase the bytes of deleted rows from all files", _purge)
    info = sub("info", "print counts, sizes and format", _info)
    export = sub("export", "copy an index to FAISS or Milvus", _export)
    for command in (delete, purge, info, export):
        command.add_argument("index", metavar="INDEX")
    for name, text in (("path", "a file, or a folder with all in it"), ("camera", "of this camera")):
        delete.add_argument(f"--{name}", help=text)
    delete.add_argument("--track", type=int, help="of this track")
    delete.add_argument("--after", metavar="TIME", help="from this time on")
    age = delete.add_mutually_exclusive_group()
    age.add_argument("--before", metavar="TIME", help="before this time")
    age.add_argument("--keep-days", type=float, metavar="N", help="older than N days")
    info.add_argument("--verify", action="store_true", help="read everything and compare checksums")
    target = export.add_mutually_exclusive_group(required=True)
    target.add_argument("--faiss", metavar="FILE", help="a flat index of inner products, and FILE.csv with its rows")
    target.add_argument("--milvus", metavar="URI", help="milvus://HOST:PORT/NAME")
    merge = sub("merge", "put indexes of one model, such as shards, into a new one", _merge)
    merge.add_argument("out", metavar="OUT", type=Path)
    merge.add_argument("parts", nargs="+", metavar="INDEX")


def run(options: argparse.Namespace, command: str) -> int | None:
    """Runs ``t2ireid index``."""
    return options.act(options)


def _build(options: argparse.Namespace) -> None:
    from t2ireid_plugin.search import Encoder, Gallery
    from t2ireid_plugin.search.sources import Shard

    shard = Shard.parse(options.shard)
    name = shard.name(options.out)
    with Gallery.open(name, Encoder.load(options.model), root=options.root) as gallery:
        _add_sources(gallery, options, shard)
        if shard.number == 1:
            save_encoder(gallery, Path(name))
        print(f"{len(gallery):,} rows in '{name}'")
    if shard.parts > 1:
        print(f"when all parts are there: t2ireid index merge {options.out} {options.out}.*of{shard.parts}")


def _add(options: argparse.Namespace) -> None:
    from t2ireid_plugin.search import Encoder, Gallery
    from t2ireid_plugin.search.sources import Shard

    encoder = None if options.model is None else Encoder.load(options.model)
    with Gallery.open(options.index, encoder, create=False) as gallery:
        _add_sources(gallery, options, Shard())
        print(f"{len(gallery):,} rows in '{options.index}'")


def _add_sources(gallery: Any, options: argparse.Namespace, shard: Any) -> None:
    """Adds each source by its kind."""
    from t2ireid_plugin.search.indexing import describe_photos
    from t2ireid_plugin.search.sources import PHOTO, Shard, add_photos

    detect = None
    if options.detector:
        from t2ireid_plugin.search.people import load_detector

        detect = load_detector(options.detector)
    files = [s for s in options.sources if not os.path.isdir(s) and not s.lower().endswith((*PHOTO, ".csv"))]
    own = set(shard.of(files))  # of several archives and videos, a shard takes some; of photos, some of each source
    find = None if detect is None else (lambda pixels: _boxes(detect, pixels))
    for source in options.sources:
        if source not in files or (source in own and source.endswith(".tar")):
            part = Shard() if source in own else shard
            how = {"camera_from": options.camera_from, "find_people": find}
            added = add_photos(gallery, source, part, options.camera, **how)
            report(added)
            if added.unchanged and (options.camera or source.lower().endswith(".csv")):
                kept = f"{added.unchanged:,} photos of '{source}' were in the index and keep their camera and time"
                print(f"index: {kept}", file=sys.stderr)
        elif source in own:
            (about,) = describe_photos([source], options.camera, None, options.camera_from).values()
            video = {"start": options.start, "fps": options.fps, "detector": detect}
            tracks = gallery.add_video(source, camera=about.camera, **video)
            print(f"index: {tracks:,} tracks of {source}", file=sys.stderr)


def _boxes(detect: Any, pixels: Any) -> list[tuple[float, ...]]:
    from t2ireid_plugin.search.people import find_people

    return [tuple(box) for box in find_people(pixels, detect).boxes.tolist()]


@contextlib.contextmanager
def _opened(index: str) -> Any:
    from t2ireid_plugin.search import Gallery

    with Gallery.open(index, create=False) as gallery:
        yield gallery


def _delete(options: argparse.Namespace) -> None:
    if options.keep_days is not None and not options.keep_days >= 0:
        raise ConfigError(f"--keep-days: {options.keep_days:g} is not a number of days; give 0 or more")
    before = options.before if options.keep_days is None else time.time() - 86_400 * options.keep_days
    about = {name: getattr(options, name) for name in ("path", "track", "camera", "after")}
    with _opened(options.index) as gallery:
        deleted = gallery.delete(before=before, **about)
    rest = "; `t2ireid index purge` erases their bytes" if deleted else ": no row fulfils these conditions"
    print(f"{deleted:,} rows deleted{rest}")


def _purge(options: argparse.Namespace) -> None:
    with _opened(options.index) as gallery:
        gallery.purge()
    if options.index.startswith("milvus://"):
        print("purged: Milvus rewrote its segments; their earlier files stay until its garbage collection removes them")
    else:
        print("purged: no file of the index holds bytes of deleted rows")


def _info(options: argparse.Namespace) -> int:
    with _opened(options.index) as gallery:
        figures = gallery.info(options.verify)
    problems = figures.pop("problems", [])
    for name, value in figures.items():
        print(f"{name:<22} {', '.join(value) if isinstance(value, list) else value}")
    for problem in problems:
        print(f"problem: {problem}")
    if options.verify and not problems:
        print("verified: all checksums agree")
    return 1 if problems else 0


def _merge(options: argparse.Namespace) -> None:
    from t2ireid_plugin.search.transfer import merge

    print(f"{merge(options.out, options.parts):,} rows in '{options.out}'")


def _export(options: argparse.Namespace) -> None:
    from t2ireid_plugin.search.transfer import copy_rows, export_faiss

    with _opened(options.index) as gallery:
        if options.faiss:
            count = export_faiss(gallery, Path(options.faiss))
        else:
            from t2ireid_plugin.search.store import open_store

            with contextlib.closing(open_store(options.milvus, gallery.store.dim, gallery.store.fingerprint)) as out:
                if out.count():
                    raise ConfigError(f"'{options.milvus}' has rows already; name a new collection")
                count = copy_rows(gallery.store, out)
    print(f"{count:,} rows in '{options.faiss or options.milvus}'")
