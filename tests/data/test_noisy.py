"""Noisy pairs: drawn by the seed, or from the files of RDE's authors."""

import numpy as np
import pytest
import torch

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.data.item_table import CAPTION
from t2ireid_plugin.data.noisy import noisy_order
from t2ireid_plugin.engine.build import build_datasets
from t2ireid_plugin.errors import DataError


def test_a_share_of_the_captions_moves_to_other_images() -> None:
    order = noisy_order(1000, 0.2, 1, "cuhkpedes")
    assert sorted(order.tolist()) == list(range(1000))
    assert 190 <= (order != torch.arange(1000)).sum() <= 200  # a caption may come back to its own image
    assert torch.equal(order, noisy_order(1000, 0.2, 1, "cuhkpedes"))
    assert not torch.equal(order, noisy_order(1000, 0.2, 2, "cuhkpedes"))
    assert not torch.equal(order, noisy_order(1000, 0.2, 1, "icfgpedes"))


def test_an_index_file_of_the_authors_says_which_captions_move(synthetic, tmp_path) -> None:
    def train(*words):
        words = ("data.root", str(synthetic.root), "data.val", "[]", *map(str, words))
        return build_datasets(load_cfg("recipes/rde", words))["cuhkpedes"].train.columns

    own, file = train(), tmp_path / "CUHK-PEDES_0.2.npy"
    order = np.random.RandomState(0).permutation(len(own))
    np.save(file, order)
    moved = train("data.noisy_file", file)
    assert torch.equal(moved[:, :CAPTION], own[:, :CAPTION])
    assert torch.equal(moved[:, CAPTION:], own[order, CAPTION:])
    np.save(file, order[:-1])
    with pytest.raises(DataError, match=r"191 entries, but must name each of the 192 training pairs once"):
        train("data.noisy_file", file)
    file.write_text("0 1 2")
    with pytest.raises(DataError, match=r"noisy_file: cannot read '.*CUHK-PEDES_0\.2\.npy'"):
        train("data.noisy_file", file)


def test_a_missing_index_file_is_reported_with_other_missing_files(synthetic, capsys) -> None:
    words = f"train --recipe rde data.root {synthetic.root} data.noisy_file gone.npy model.vit_pretrained ./gone"
    assert main(words.split()) == 2
    printed = capsys.readouterr().err
    assert "data.noisy_file: no file 'gone.npy'" in printed
    assert "vit_pretrained" in printed
