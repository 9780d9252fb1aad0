"""Drawn people in the layouts of LTCC, PRCC, ITCPR and SynCPR; that the datasets read them is tested with these."""

import json

import pytest
from PIL import Image

from t2ireid_plugin.cli import main
from t2ireid_plugin.errors import DataError
from t2ireid_plugin.synthetic import write_synthetic
from t2ireid_plugin.synthetic.layouts import LAYOUTS

SMALL = ["--train-ids", "1", "--val-ids", "1", "--test-ids", "2", "--photos", "4", "--captions", "1"]


def test_itcpr_asks_for_the_other_outfit(two_outfits):
    """The clothing text of a query is one of its matches', and no photo of a query is searched."""
    drawn = json.loads((two_outfits / "CUHK-PEDES" / "reid_raw.json").read_text())
    outfits = {(row["id"], text): row["outfit"] for row in drawn for text in row["cloth_captions"]}
    queries, gallery = (json.loads((two_outfits / "ITCPR" / f"{n}.json").read_text()) for n in ("query", "gallery"))
    assert len(queries) == 8 * 2
    for query in queries:
        matches = [row for row in gallery if row["instance_id"] == query["instance_id"]]
        wanted = outfits[query["person_id"], query["caption"]]
        assert {row["person_id"] for row in matches} == {query["person_id"]}
        assert [row["file_path"].rpartition("_")[0][-2] for row in matches] == [str(wanted)]
        assert query["file_path"].rpartition("_")[0][-2] == str(1 - wanted)
    assert sum(row["instance_id"] == -1 for row in gallery) == 8 * 4
    assert not {row["file_path"] for row in gallery} & {row["file_path"] for row in queries}
    for row in (*queries, *gallery):
        assert (two_outfits / "ITCPR" / row["file_path"]).is_file()
    assert {row["datasets"] for row in gallery} == {"Celeb-reID", "PRCC", "LAST"}


def test_ltcc_has_png_files(two_outfits):
    folder = two_outfits / "LTCC_ReID"
    assert [len(list((folder / part).glob("*.png"))) for part in ("train", "query", "test")] == [24 * 4, 16, 16]
    assert Image.open(next((folder / "query").iterdir())).format == "PNG"


def test_on_the_command_line(tmp_path, capsys):
    words = ["prepare", "synthetic", str(tmp_path), *SMALL, "--layouts", *LAYOUTS, "--outfits", "2"]
    assert main(words) == 2
    assert "layouts: syncpr needs two outfits and two photos of each; set train_outfits" in capsys.readouterr().err
    assert (tmp_path / "ITCPR" / "gallery.json").is_file()
    before = (tmp_path / "ITCPR" / "synthetic.json").stat().st_mtime_ns
    assert main([*words[:-2], "--outfits", "2", "--layouts", "itcpr"]) == 0  # there already
    assert (tmp_path / "ITCPR" / "synthetic.json").stat().st_mtime_ns == before
    (tmp_path / "prcc" / "synthetic.json").unlink()
    assert main([*words[:-2], "--outfits", "2", "--layouts", "prcc"]) == 2
    assert f"'{tmp_path / 'prcc'}' was not drawn from" in capsys.readouterr().err


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(DataError, match="layouts: unknown 'celeb'; valid: ltcc, prcc, itcpr, syncpr"):
        write_synthetic(tmp_path, train_ids=1, val_ids=0, test_ids=0, photos=1, layouts=["celeb"], progress=False)
