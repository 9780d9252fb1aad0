"""Checkpoints that would run code, lie about their size or are no checkpoints at all."""

import json
import os
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
import torch

from t2ireid_plugin.engine.training_state import load_training_state
from t2ireid_plugin.errors import CheckpointError, EncoderError
from t2ireid_plugin.modeling.checkpoint import read_state_dict
from t2ireid_plugin.modeling.encoders.tokenizer import tokenizer_from_json


class Creates:
    """Unpickled carelessly, it creates a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


class Nested:
    """A harmless looking call of NumPy, one of those that checkpoints of torchreid need, around the pickle."""

    def __init__(self, inner):
        self.inner = inner

    def __reduce__(self):
        return np.float64(0).__reduce__()[0], (np.dtype("O"), pickle.dumps(self.inner))


def write_zip(content, file):
    torch.save({"state_dict": {"w": torch.zeros(2)}, "extra": content}, file)


def write_legacy(content, file):
    torch.save({"w": torch.zeros(2), "extra": content}, file, _use_new_zipfile_serialization=False)


def write_pickle(content, file):
    file.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_pickle])
@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: [{"deep": (c,)}], Nested], ids=["bare", "deep", "scalar"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_pickle_that_would_create_a_file_does_not(tmp_path, write, wrap, suffix):
    mark, file = tmp_path / "created", tmp_path / f"x{suffix}"
    write(wrap(Creates(mark)), file)
    with pytest.raises(CheckpointError) as error:
        read_state_dict(file)
    assert str(file) in str(error.value)
    assert not mark.exists()
    if write is write_pickle and wrap(0) == 0:  # the test itself: the same bytes, read carelessly
        pickle.loads(file.read_bytes()).close()
        assert mark.exists()


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "archive"])
@pytest.mark.parametrize(
    ("letter", "message"), [(b"a", r"a class's name of 100,00. characters"), (b"\xc3\xa9", "is not ASCII")]
)
def test_a_name_of_a_class_that_takes_hours_to_print(tmp_path, bare, letter, message):
    """PyTorch's message about it is searched in quadratic time."""
    file, content = tmp_path / "x.pth", b"\x80\x02c" + letter * 100_000 + b"\nb\n."
    if bare:
        file.write_bytes(content)
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x/data.pkl", content)
            archive.writestr("x/version", "3\n")
    start = time.process_time()
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(file)
    assert time.process_time() - start < 5  # it would be minutes


def test_the_command_line_runs_no_code_of_a_checkpoint(refused, tiny_settings, tmp_path):
    mark = tmp_path / "created"
    write_zip(Creates(mark), tmp_path / "x.pth")
    line = refused("test", *tiny_settings(tmp_path / "log", model__load_weights=tmp_path / "x.pth"))
    assert "x.pth' holds Python objects besides tensors, which could run code; nothing was executed" in line
    assert not mark.exists()


def test_a_folder_of_an_encoder_runs_no_code(tmp_path, encoders, refused, tiny_settings, monkeypatch):
    """Neither the Python files that its configuration names nor a pickle in place of its weights."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # the library would ask
    mark = tmp_path / "created"
    for name in ("vit", "bert"):
        folder = tmp_path / name
        folder.mkdir()
        for file in getattr(encoders, name).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "model.safetensors").unlink()
        torch.save({"w": Creates(mark)}, folder / "pytorch_model.bin")
        names = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoTokenizer": [None, "own.Tokenizer"]}
        for file in ("config.json", "tokenizer_config.json"):
            if (folder / file).exists():
                settings = json.loads((folder / file).read_text())
                settings.update(auto_map=names, model_type="stranger", tokenizer_class="Tokenizer")
                (folder / file).write_text(json.dumps(settings))
        (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: pass\n")
    for key, name in (("model__vit_pretrained", "vit"), ("model__bert_base_path", "bert")):
        refused("train", *tiny_settings(tmp_path / "log", **{key: tmp_path / name}))
        settings = json.loads((getattr(encoders, name) / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(settings))  # an honest one, so the weights are reached
        refused("train", *tiny_settings(tmp_path / "log", **{key: tmp_path / name}))
    assert not mark.exists()


def rewritten(source, target, **how):
    """The same archive with its parts compressed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path):
    torch.save({"w": torch.zeros(2**24)}, tmp_path / "large.pth")
    rewritten(tmp_path / "large.pth", tmp_path / "bomb.pth")
    assert (tmp_path / "bomb.pth").stat().st_size < 2**17
    assert read_state_dict(tmp_path / "large.pth")["w"].shape == (2**24,)
    with pytest.raises(CheckpointError, match=r"bomb\.pth' is .*it unpacks to 67,1\d\d,\d\d\d bytes"):
        read_state_dict(tmp_path / "bomb.pth")
    with pytest.raises(CheckpointError, match=r"bomb\.pth' is .*it unpacks to 67,1\d\d,\d\d\d bytes"):
        load_training_state(tmp_path / "bomb.pth")


def header(content, length=None, body=b""):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def tensor(shape=(1,), offsets=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        header({}, 2**63),
        header({}, 99_000_000),
        header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        header(b'{"__metadata__":{"a":"' + b"a" * 101_000_000 + b'"}}'),
        header({"a": tensor([10**9, 10**9])}, body=b"0000"),
        header({"a": tensor(offsets=(0, 2**60))}, body=b"0000"),
        header({"a": tensor([-1])}, body=b"0000"),
        header({"a": tensor(), "b": tensor()}, body=b"0000"),
        header({"a": tensor(dtype="OBJECT")}, body=b"0000"),
        header(b"\xff\xfe{}"),
        b"\x01",
    ],
    ids=["length", "long", "deep", "huge", "shape", "offset", "negative", "overlap", "dtype", "utf8", "short"],
)
def test_a_safetensors_header_that_lies(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.safetensors' is damaged or no safetensors file"):
        read_state_dict(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "strange",
    [
        torch.eye(2).to_sparse(),
        torch.zeros(2, device="meta"),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    ],
    ids=["sparse", "meta", "quantized"],
)
def test_tensors_without_plain_values(tmp_path, strange):
    torch.save({"fine": torch.zeros(1), "odd": strange}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="'odd' is not a plain tensor with values but"):
        read_state_dict(tmp_path / "x.pth")


def test_names_that_no_file_has_and_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    for name in (tmp_path / "pipe.pth", "/dev/zero", "a\0b.pth", "a" * 5000, "\ud800.pth"):
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            read_state_dict(name)


@pytest.mark.parametrize("stored", [5, None, "", "[", "[]", "{}", '{"model": 3}', b"\xff", ["a"], "[" * 10**5])
def test_a_stored_vocabulary_that_is_none(stored):
    with pytest.raises(EncoderError, match="the stored vocabulary is none"):
        tokenizer_from_json(stored)
