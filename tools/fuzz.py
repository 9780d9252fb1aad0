"""Feeds damaged and strange input to what reads files of strangers: ``python tools/fuzz.py TARGET [--runs N]``.

A target takes bytes and may refuse them with one of our errors; any other exception, and more than `SLOW` seconds of
the processor, is a finding, which is written to a file and printed with its traceback. Every finding becomes a test in
``tests/hostile``. Inputs are good files changed at random, the same for the same seed. With ``--atheris``, where that
package is installed, libFuzzer chooses the changes by which lines of ours and of PyYAML they reach.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SLOW = 5.0  # seconds
ODD: list[Any] = [None, True, 0, -1, 2**63, 10**400, 0.5, 1e308, float("nan"), float("-inf"), "", " ", "\0", "\ud800"]
ODD += [
    "../../x",
    "/etc/passwd",
    "a" * 20_000,
    "1e999",
    "[",
    "{a: 1",
    "!!python/name:os.system",
    [],
    {},
    [[[[]]]],
    [None],
]
BYTES = [
    b"\0",
    b"\xff",
    b"\xff\xd8",
    b"\x80\x02",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\n",
    b"\r",
    b"&a",
    b"*a",
    b"<<",
    b"NaN",
]
BYTES += [
    b"9" * 5000,
    b"[" * 2000,
    b'{"a":' * 2000,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b'"',
    b"\\",
    b"- ",
]
ROW = {"split": "train", "captions": ["A man in red."], "file_path": "a/1.png", "id": 1, "id_captions": ["a man"]}
WORDS = (
    "a the man woman he she his red black hair shirt jeans bag wearing with in holding and is of walking who , . ; ( )"
)
WORDS += " 一 名 男子 穿 红色 外套 背 包 的 ， 。 - ' 1.5 \n \0 \ud800 \u202e é \u0301"

Read = Callable[[bytes], None]
Change = Callable[[random.Random], bytes]
Target = Callable[[Path], tuple[Read, Change]]


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """Up to eight small damages."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        at = rng.randint(0, len(data))
        length = rng.choice((1, 1, 2, 4, 16, 64))
        how = rng.randrange(5)
        if how == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif how == 1:
            del data[at : at + length]
        elif how == 2:
            data[at:at] = rng.choice(BYTES)
        elif how == 3:
            other = rng.randint(0, len(data))
            data[at:at] = data[other : other + length]
        else:
            data[at : at + length] = rng.choice(BYTES)
    return bytes(data)


def changed_value(value: Any, rng: random.Random) -> Any:
    """The value with something odd in one place of it."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        others = {k: v for k, v in value.items() if k != key or rng.random() < 0.95}
        name = key if rng.random() < 0.95 else str(rng.choice(ODD))
        return {**others, name: changed_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        return [*value[:at], changed_value(value[at], rng), *value[at + rng.randrange(2) :]]
    return rng.choice(ODD)


def changed_text(value: Any, rng: random.Random) -> bytes:
    """As JSON, odd in its values or in its bytes."""
    for _ in range(rng.randrange(3)):
        value = changed_value(value, rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return text if rng.random() < 0.5 else changed_bytes(text, rng)


def annotation(folder: Path) -> tuple[Read, Change]:
    """`annotations.read_photos` with a companion file of the same kind."""
    from t2ireid_plugin.data.annotations import read_photos
    from t2ireid_plugin.data.benchmarks import BENCHMARKS

    base = folder / "CUHK-PEDES"
    (base / "imgs" / "a").mkdir(parents=True)
    (base / "imgs" / "a" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    def read(content: bytes) -> None:
        (base / "reid_raw.json").write_bytes(content)
        read_photos(folder, BENCHMARKS["cuhkpedes"])

    return read, lambda rng: changed_text([ROW, ROW, {**ROW, "camera": 3}], rng)


def table(folder: Path) -> tuple[Read, Change]:
    """`custom.table.read_table`, as CSV or as lines of JSON by the first byte."""
    from t2ireid_plugin.data.custom.table import read_table

    csv = b'image,identity,caption,camera,split\na.jpg,1,"a ""red"" coat",c,train\nb.jpg,2,x;y,,test\n'
    lines = {"image": "a.jpg", "id": 3, "caption": ["x", "y"], "id_text": ["x", "y"], "split": "val"}

    def read(content: bytes) -> None:
        file = folder / ("x.csv" if content[:1] == b"c" else "x.jsonl")
        file.write_bytes(content[1:])
        read_table(file)

    def change(rng: random.Random) -> bytes:
        return b"c" + changed_bytes(csv, rng) if rng.random() < 0.5 else b"j" + changed_text(lines, rng)

    return read, change


def config(folder: Path) -> tuple[Read, Change]:
    """`config.load_cfg`: the content as a YAML file, its first words as settings; what is taken is dumped and read."""
    from t2ireid_plugin.config import dump, get_cfg, load_cfg, to_dict

    defaults = {**to_dict(get_cfg()), "loss": {"terms": {"sdm": {"weight": 1.0, "tau": 0.02}}}}
    yaml = b"train: &t {lr: 1e-4, stepsize: [1, 2]}\nmodel:\n  vit_config:\n    <<: *t\n    a: [*t, *t]\n"

    def read(content: bytes) -> None:
        (folder / "x.yaml").write_bytes(content)
        words = content[:200].decode("utf-8", "replace").split()[:6]
        for source in ((folder / "x.yaml", []), (None, words)):
            with refusals():
                cfg = load_cfg(*source)
                (folder / "again.yaml").write_text(dump(cfg), encoding="utf-8")
                if to_dict(load_cfg(folder / "again.yaml")) != to_dict(cfg):
                    raise AssertionError("what was dumped is not what was loaded")

    def change(rng: random.Random) -> bytes:
        return changed_bytes(yaml, rng) if rng.random() < 0.4 else changed_text(defaults, rng)

    return read, change


def splitter(folder: Path) -> tuple[Read, Change]:
    """`instructions.split_caption`: both texts have words, and only those of the caption."""
    from t2ireid_plugin.data.instructions import split_caption

    words = WORDS.split(" ")

    def read(content: bytes) -> None:
        try:
            caption = content.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            caption = content.decode("utf-8", "replace")
        for text in split_caption(caption):
            if caption.strip() and not text.strip():
                raise AssertionError("an empty text")
            if set(text) - set(caption) - set(" ,.，。"):
                raise AssertionError("letters that the caption does not have")

    def change(rng: random.Random) -> bytes:
        between = rng.choice((" ", " ", ""))
        text = between.join(rng.choices(words, k=rng.randint(0, 40))).encode("utf-8", "surrogatepass")
        return text if rng.random() < 0.8 else changed_bytes(text, rng).decode("utf-8", "replace").encode()

    return read, change


def checkpoint(folder: Path) -> tuple[Read, Change]:
    """`checkpoint.read_state_dict`, by the first byte as ``.pth`` or ``.safetensors``, and its vocabulary."""
    import torch
    from safetensors.torch import save

    from t2ireid_plugin.modeling.checkpoint import read_state_dict, read_vocabulary

    content = {
        "state_dict": {"a.b": torch.ones(2, 3), "c": torch.zeros(1)},
        "epoch": 3,
        "tokenizer": "{}",
        "x": (1.5, [None]),
    }
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(content, new)
    torch.save(content, old, _use_new_zipfile_serialization=False)
    safe = save({"a.b": torch.ones(2, 3), "c": torch.zeros(1)}, {"format": "pt"})

    def read(content: bytes) -> None:
        file = folder / ("x.safetensors" if content[:1] == b"s" else "x.pth")
        file.write_bytes(content[1:])
        read_state_dict(file)
        read_vocabulary(file)

    def change(rng: random.Random) -> bytes:
        kind = rng.randrange(4)
        if kind == 0:
            return b"s" + changed_bytes(safe, rng)
        return b"p" + (in_archive(new.getvalue(), rng) if kind < 3 else changed_bytes(old.getvalue(), rng))

    return read, change


def in_archive(content: bytes, rng: random.Random) -> bytes:
    """Damage inside a part of a zip archive, whose check sums are right again, or to the archive itself."""
    if rng.random() < 0.2:
        return changed_bytes(content, rng)
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(written, "w") as target:
        chosen = rng.choice(source.namelist()) if rng.random() < 0.3 else "data.pkl"
        for name in source.namelist():
            part = source.read(name)
            target.writestr(name, changed_bytes(part, rng) if name.endswith(chosen) else part)
    return written.getvalue()


def image(folder: Path) -> tuple[Read, Change]:
    """`transforms.read_pixels`: a picture within the limit or a refusal."""
    import cv2
    import numpy as np

    from t2ireid_plugin.data.image_size import MOST_PIXELS
    from t2ireid_plugin.data.transforms import read_pixels

    noise = np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    options = {".jpg": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]}
    good = [
        cv2.imencode(kind, noise, options.get(kind, []))[1].tobytes()
        for kind in (".jpg", ".png", ".bmp", ".webp", ".tiff")
    ]
    good.append(cv2.imencode(".jpg", noise)[1].tobytes())

    def read(content: bytes) -> None:
        (folder / "x.img").write_bytes(content)
        if read_pixels(folder / "x.img").size > 3 * MOST_PIXELS:
            raise AssertionError("more pixels than are taken")

    return read, lambda rng: changed_bytes(rng.choice(good), rng)


def records(folder: Path) -> tuple[Read, Change]:
    """`records.load_records`."""
    import numpy as np

    from t2ireid_plugin.evaluation.records import QueryRecord, load_records, save_records

    record = QueryRecord(*(np.ones(3, kind) for kind in (np.int32, float, float, np.int64, np.uint64)))
    save_records(folder / "good.npz", "x", {"t2i": record})
    good = (folder / "good.npz").read_bytes()

    def read(content: bytes) -> None:
        (folder / "x.npz").write_bytes(content)
        load_records(folder / "x.npz")

    return read, lambda rng: in_archive(good, rng)


TARGETS: dict[str, Target] = {
    target.__name__: target for target in (annotation, table, config, splitter, checkpoint, image, records)
}


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Our own errors are what bad input is to end in; they must be short and on one line."""
    from t2ireid_plugin.errors import T2IReIDError

    try:
        yield
    except T2IReIDError as error:
        if len(str(error)) > 2500 or not str(error).isprintable():
            raise AssertionError(f"a message of {len(str(error))} characters, or one that no terminal shows") from error


def try_one(read: Read, content: bytes) -> str | None:
    """None where the input was taken or refused; else the traceback."""
    start = time.process_time()
    try:
        with refusals():
            read(content)
    except Exception:
        return traceback.format_exc()
    seconds = time.process_time() - start
    return f"{seconds:.1f} s of the processor\n" if seconds > SLOW else None


def smallest(read: Read, content: bytes, found: str, tries: int = 400) -> bytes:
    """A part of the input that ends in the same last line of traceback."""
    step = len(content) // 2
    while step and tries:
        for at in range(0, len(content), step):
            tries -= 1
            shorter = content[:at] + content[at + step :]
            again = try_one(read, shorter)
            if again and again.splitlines()[-1] == found.splitlines()[-1]:
                content = shorter
                break
            if not tries:
                break
        else:
            step //= 2
    return content


def fuzz(name: str, runs: int, seed: int, out: Path) -> int:
    """Tries ``runs`` inputs; returns the number of different findings, which lie in ``out``."""
    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read, change = TARGETS[name](Path(folder))
        taken = 0
        for number in range(runs):
            content = change(random.Random(f"{seed} {number}"))
            problem = try_one(read, content)
            taken += problem is None
            if problem is None:
                continue
            place = "\n".join(problem.splitlines()[-3:-1])  # the innermost line of code
            found[place] = found.get(place, 0) + 1
            if found[place] == 1:
                content = smallest(read, content, problem)
                out.mkdir(parents=True, exist_ok=True)
                file = out / f"{name}-{hashlib.sha1(content).hexdigest()[:12]}"
                file.write_bytes(content)
                print(f"input {number}, smallest form in '{file}':\n{problem}", flush=True)
    print(f"{name}: {runs:,} inputs, {len(found)} findings")
    return len(found)


def fuzz_with_atheris(name: str, runs: int, seed: int) -> None:
    """The same with libFuzzer, which ends the process itself: on the first finding, or after ``runs`` inputs."""
    import atheris

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with atheris.instrument_imports(include=["t2ireid_plugin", "yaml"]):
            read, change = TARGETS[name](Path(folder))
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number in range(50):
            (corpus / str(number)).write_bytes(change(random.Random(number)))

        def one(content: bytes) -> None:
            with refusals():
                read(content)

        words = [
            sys.argv[0],
            f"-runs={runs}",
            f"-seed={seed + 1}",
            "-max_len=8192",
            f"-timeout={SLOW * 20:.0f}",
            str(corpus),
        ]
        atheris.Setup(words, one)
        atheris.Fuzz()


def main() -> int:
    """Returns 1 when something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=10_000, metavar="N", help="inputs (10000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same inputs (0)")
    parser.add_argument("--out", type=Path, default=Path("log/fuzz"), metavar="DIR", help="for findings (log/fuzz)")
    parser.add_argument("--atheris", action="store_true", help="let libFuzzer choose the inputs; --out is not used")
    options = parser.parse_args()
    if options.atheris:
        fuzz_with_atheris(options.target, options.runs, options.seed)
    return int(fuzz(options.target, options.runs, options.seed, options.out) > 0)


if __name__ == "__main__":
    sys.exit(main())
