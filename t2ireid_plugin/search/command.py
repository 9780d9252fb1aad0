"""``t2ireid search``: one sentence, photo or both against a folder of photos or an index."""

from __future__ import annotations

import argparse
import getpass
import hashlib
import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.utils.language import say

if TYPE_CHECKING:
    from t2ireid_plugin.search.gallery import Gallery
    from t2ireid_plugin.search.hits import Hits

INDEX = ".t2ireid"  # in the folder of the photos
_EXAMPLES = """examples:
  %(prog)s "a woman in a red jacket with a black bag" photos --model log/run
  %(prog)s "a woman in a red jacket with a black bag" photos
  %(prog)s "a woman in a red jacket" --index people.idx --camera cam3 --after 2026-11-01T08:00 --per track
  %(prog)s "with a black bag" --image person.jpg --index people.idx --out result.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.epilog, parser.formatter_class = _EXAMPLES, argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("words", nargs="*", metavar="SENTENCE DIR", help="the sentence, and a folder of photos unless --index is given")
    add("--index", metavar="INDEX", help="an index of `t2ireid index`, or milvus://HOST:PORT/NAME, instead of a folder")
    add("--model", metavar="RUN_OR_EXPORT", help="a run or an export; not needed once the index has its own")
    add("--image", metavar="PHOTO", help="search for this person, with a sentence for what is different")
    add("--minus", metavar="SENTENCE", help="subtract the score of this sentence")
    add("--weight", type=float, metavar="W", help="share of the identity in the score, 0 to 1 (chosen in training)")
    add("-k", type=int, default=20, help="number of hits (20)")
    add("--camera", nargs="+", metavar="C", help="only these cameras")
    add("--after", metavar="TIME", help="only from this time on, as 2026-11-01T08:00")
    add("--before", metavar="TIME", help="only before this time")
    add("--per", default="photo", help="best hit of each photo (default), track or file")
    add("--min-score", type=float, metavar="S", help="leave out hits below this similarity")
    add("--exact", action="store_true", help="compare all vectors, also in a large index")
    add("--camera-from", metavar="REGEX", help=r"camera of new photos from their paths, as 'cam(?P<camera>\d+)'")
    add("--root", metavar="DIR", help="with --index: where the photos are, if they have moved")
    add("--out", metavar="FILE", help="draw the hits, as .html or .png")
    add("--audit", metavar="FILE", help="append a line about this search: time, user, digest of the sentence, filter")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--paths", action="store_true", help="print paths only, one per line")


def run(options: argparse.Namespace, command: str) -> None:
    """Runs ``t2ireid search``."""
    sentence, folder = _split_words(options)
    from t2ireid_plugin.search import Encoder, Gallery

    where = options.index if folder is None else folder / INDEX
    if folder is not None and not (where / "index.json").exists() and options.model is None:
        raise ConfigError(f"'{folder}' has no index yet; name a run or an export once with --model")
    encoder = None if options.model is None else Encoder.load(options.model)
    with Gallery.open(where, encoder, root=options.root, create=folder is not None) as gallery:
        if folder is not None:
            added = gallery.add_images(folder, camera_from=options.camera_from)
            report(added)
            if added.new or find_spec("onnx") is not None:  # without it, what is missing is said once
                save_encoder(gallery, where)
        hits = gallery.search(
            sentence,
            options.k,
            image=options.image,
            minus=options.minus,
            weight=options.weight,
            camera=options.camera,
            after=options.after,
            before=options.before,
            per=options.per,
            min_score=options.min_score,
            exact=options.exact,
        )
    if options.audit:
        _audit(Path(options.audit), options, sentence, str(where), len(hits))
    if options.out:
        hits.draw(options.out)
    print(hits.to_json() if options.json else "\n".join(_shown(hits, options.paths)))
    if options.out and Path(options.out).suffix == ".html":
        print(say("Open in a browser: {address}", address=Path(options.out).resolve().as_uri()), file=sys.stderr)


def _split_words(options: argparse.Namespace) -> tuple[str | None, Path | None]:
    """The sentence and the folder.

    Raises:
        ConfigError: for too many words or too few, or ``--root`` with a folder, whose photos would be added twice.
    """
    words = list(options.words)
    folder = Path(words.pop()) if words and options.index is None else None
    if len(words) > 1 or (folder is None and options.index is None) or not (words or options.image):
        raise ConfigError("give a sentence in quotes (or --image PHOTO) and a folder of photos (or --index INDEX)")
    if folder is not None and not folder.is_dir():
        raise DataError(f"no folder '{folder}'; the last word is a folder of photos, unless --index is given")
    if folder is not None and options.root is not None:
        raise ConfigError("--root goes with --index; the index in a folder of photos moves with them")
    return (words[0] if words else None), folder


def report(added: Any) -> None:
    """Says on standard error what was done with files, and names those that could not be read."""
    if added.new or added.replaced or added.moved or added.removed:
        print(f"index: {added}", file=sys.stderr)
    for path, reason in list(added.damaged.items())[:5]:
        print(f"skipped: {reason if path in reason else f'{path}: {reason}'}", file=sys.stderr)
    if len(added.damaged) > 5:
        print(f"skipped: {len(added.damaged) - 5:,} more", file=sys.stderr)


def save_encoder(gallery: Gallery, where: Path) -> None:
    """Writes the encoder into an index that has none, so that a query needs neither the model nor PyTorch."""
    from t2ireid_plugin.errors import DependencyError, EncoderError

    if gallery.encoder is None or (where / "encoder").exists() or not where.is_dir():
        return
    print("index: writing the encoder as ONNX", file=sys.stderr)
    try:
        gallery.encoder.save(where / "encoder")  # type: ignore[attr-defined]
    except (DependencyError, EncoderError) as error:
        print(f"index: not written, so later searches need --model as well ({error})", file=sys.stderr)


def _shown(hits: Hits, paths_only: bool) -> list[str]:
    """Lines for a terminal."""
    if paths_only:
        return [hit.path for hit in hits]
    from t2ireid_plugin.utils.text import text_table

    if not hits.searched:
        return [f"0 of {hits.total:,} rows match the filter"]
    rows = []
    for rank, hit in enumerate(hits, 1):
        moment = "" if hit.time is None else hit.time.astimezone().isoformat(sep=" ", timespec="seconds")
        track = "" if hit.track is None else str(hit.track)
        rows.append([str(rank), f"{hit.score:.3f}", hit.camera or "", moment, track, os.path.relpath(hit.path)])
    counts = f"{len(hits):,} of {hits.searched:,} rows. Scores are similarities; hits are candidates to check."
    columns = [column for column in zip(["", "score", "camera", "time", "track", "path"], *rows) if any(column[1:])]
    if not rows:
        return [counts]
    header, *body = zip(*columns)
    return [text_table(header, body, len(header)), counts]


def _audit(file: Path, options: argparse.Namespace, sentence: str | None, where: str, count: int) -> None:
    """Appends one line of JSON, which holds a digest of the sentences instead of them.

    Raises:
        DataError: when the file cannot be written.
    """
    names = ("image", "camera", "after", "before", "per", "min_score", "k")
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "user": getpass.getuser(),
        "index": where,
        "sentence": hashlib.blake2b(json.dumps([sentence, options.minus]).encode(), digest_size=16).hexdigest(),
        **{name: getattr(options, name) for name in names if getattr(options, name) is not None},
        "hits": count,
    }
    try:
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
    except OSError as error:
        raise DataError(f"--audit: '{file}' cannot be written: {error.strerror}") from error
