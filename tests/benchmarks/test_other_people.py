"""People of the other drawer, as `CaptionDataset` reads them."""

import filecmp

import numpy as np
from PIL import Image

from benchmarks.other_people import draw_other_people
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.data.dataset import CaptionDataset


def test_counts_and_texts(tmp_path):
    draw_other_people(tmp_path, (3, 1, 2), photos=4)
    dataset = CaptionDataset(tmp_path, spec=BENCHMARKS["cuhkpedes"], verbose=False)
    assert dataset.counts == {"train": (12, 3, 24), "val": (4, 1, 8), "test": (8, 2, 16)}
    for path, *_, caption, identity, clothing in dataset.train:
        assert len({caption, identity, clothing}) == 3  # the splitter finds both sides
        assert np.asarray(Image.open(path)).std() > 10


def test_a_seed_gives_the_same_bytes_and_the_first_people_do_not_depend_on_how_many_follow(tmp_path):
    for name, people, seed in (("one", 1, 0), ("two", 2, 0), ("other", 1, 1)):
        draw_other_people(tmp_path / name, (people, 0, 0), photos=2, seed=seed)
    folders = [tmp_path / name / "CUHK-PEDES" / "imgs" for name in ("one", "two", "other")]
    files = sorted(path.relative_to(folders[0]) for path in folders[0].rglob("*.jpg"))
    assert len(files) == 2
    assert filecmp.cmpfiles(*folders[:2], files, shallow=False)[0] == files
    captions = [CaptionDataset(f.parents[1], spec=BENCHMARKS["cuhkpedes"]).train.captions() for f in folders]
    assert captions[0] == captions[1][:4] != captions[2]
