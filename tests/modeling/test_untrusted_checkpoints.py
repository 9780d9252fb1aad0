"""Weight files, encoder folders and stored tokenizers from other people: no code is run, errors name the file."""

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from t2ireid_plugin.cli import main
from t2ireid_plugin.errors import CheckpointError, EncoderError
from t2ireid_plugin.modeling.checkpoint import Checkpoint, read_checkpoint, read_state_dict
from t2ireid_plugin.modeling.encoders.tokenizer import tokenizer_from_json


class Call:
    """Unpickled carelessly, it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def scalar_around(content):
    """The NumPy call that torchreid's checkpoints need, here with a pickle inside."""
    return Call(np.float64(0).__reduce__()[0], np.dtype("O"), pickle.dumps(content))


WRITERS = {
    "zip": lambda content, file: torch.save({"state_dict": {"w": torch.zeros(2)}, "extra": content}, file),
    "legacy": lambda content, file: torch.save(content, file, _use_new_zipfile_serialization=False),
    "pickle": lambda content, file: file.write_bytes(pickle.dumps(content)),
}
CALLS = {
    "os.system": lambda mark: Call(os.system, f"touch '{mark}'"),
    "Path.touch": lambda mark: Call(Path.touch, mark),
    "nested": lambda mark: [{"deep": (Call(open, str(mark), "w"),)}],
    "numpy scalar": lambda mark: scalar_around(Call(open, str(mark), "w")),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_code_in_a_file_is_not_run(tmp_path, write, call):
    mark = tmp_path / "mark"
    for suffix in (".pth", ".safetensors"):
        file = tmp_path / f"x{suffix}"
        write(call(mark), file)
        with pytest.raises(CheckpointError, match=rf"x\{suffix}"):
            read_state_dict(file)
    assert not mark.exists()
    if write is WRITERS["pickle"] and call is not CALLS["numpy scalar"]:  # a real attack: pickle.loads runs it
        pickle.loads((tmp_path / "x.pth").read_bytes())
        assert mark.exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickled_module_is_refused_with_the_reason(tmp_path, zipped):
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="contains Python objects besides tensors"):
        read_state_dict(tmp_path / "x.pth")


def test_reading_leaves_torchs_list_of_safe_classes_unchanged(tmp_path):
    torch.save({"scale": torch.ones(1), "rank1": np.float64(1)}, tmp_path / "x.pth")
    before = set(torch.serialization.get_safe_globals())
    read_state_dict(tmp_path / "x.pth")
    assert set(torch.serialization.get_safe_globals()) == before


def refused(capsys, *words):
    """The error line of the command line, which exits with status 2."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_the_command_line_runs_no_code_of_a_checkpoint(capsys, tiny_settings, tmp_path):
    mark, file = tmp_path / "mark", tmp_path / "x.pth"
    WRITERS["zip"](Call(open, str(mark), "w"), file)
    line = refused(capsys, "test", *tiny_settings(tmp_path / "log", model__load_weights=file))
    assert "x.pth' contains Python objects besides tensors, which could run code; nothing was executed" in line
    assert not mark.exists()


@pytest.mark.parametrize(("key", "name"), [("vit_pretrained", "vit"), ("bert_base_path", "bert")])
def test_an_encoder_folder_runs_no_code(tmp_path, encoders, capsys, tiny_settings, monkeypatch, key, name):
    """Neither the Python files that its configuration names nor a pickle in place of its weights."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # the library would ask
    mark, folder = tmp_path / "mark", tmp_path / name
    folder.mkdir()
    for file in getattr(encoders, name).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.safetensors").unlink()
    torch.save({"w": Call(open, str(mark), "w")}, folder / "pytorch_model.bin")
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: pass\n")
    config = (folder / "config.json").read_text()
    names = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoTokenizer": [None, "own.Tokenizer"]}
    for file in folder.glob("*config.json"):
        changes = {"auto_map": names, "model_type": "stranger", "tokenizer_class": "Tokenizer"}
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    words = tiny_settings(tmp_path / "log", **{f"model__{key}": folder})
    refused(capsys, "train", *words)
    (folder / "config.json").write_text(config)  # without the Python files, so that the pickle is reached
    refused(capsys, "train", *words)
    assert not mark.exists()


def header(content, length=None, body=b""):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


@pytest.mark.parametrize(
    "content",
    [
        header({}, length=2**63),
        header(b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
        header({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}, body=b"0000"),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]}}, body=b"0000"),
    ],
    ids=["length", "deep", "shape", "offset"],
)
def test_a_false_safetensors_header_is_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.safetensors' is damaged or not a safetensors file"):
        read_state_dict(tmp_path / "x.safetensors")


def test_pipes_and_devices_are_refused_without_reading_them(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    for name in (tmp_path / "pipe.pth", "/dev/zero"):
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            read_state_dict(name)


@pytest.mark.parametrize("stored", [5, None, "", "[", "[]", "{}", '{"model": 3}', b"\xff", "[" * 10**5])
def test_an_invalid_stored_tokenizer_is_refused(stored):
    with pytest.raises(EncoderError, match="the tokenizer stored in the checkpoint is invalid"):
        tokenizer_from_json(stored)


ENTRIES = ["state_dict", "digest", "epoch", "best", "config", "held_out", "data", "preprocess", "net_config", "classes"]
ENTRIES += ["step", "evaluated", "steps", "log", "bad_images", "losses", "optimizer", "scaler", "scheduler"]


@pytest.mark.parametrize("key", ENTRIES)
def test_an_entry_of_another_type_is_named(tiny_run, tmp_path, key):
    state = torch.load(tiny_run.folder / "last.pth", weights_only=True)
    file, kind = tmp_path / "last.pth", dict if isinstance(state[key], dict) else type(state[key])
    for value in (-1, 1.5, "text", None, [1], {"a": 1}, torch.zeros(2)):
        if isinstance(value, kind) and value != -1:
            continue
        torch.save({**state, key: value}, file)
        with pytest.raises(CheckpointError, match=rf"last\.pth': the entry '{key}' is not as a run writes it"):
            read_checkpoint(file)


def test_the_same_names_in_files_of_others_are_no_concern_of_ours(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "best": 0.93, "epoch": -1}, tmp_path / "other.pth")
    checkpoint = Checkpoint.read(tmp_path / "other.pth")
    assert checkpoint.content["epoch"] == -1
    assert checkpoint.best == {}
