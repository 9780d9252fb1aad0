"""The comparison of image heads: drawn people in Market-1501's layout; its trainings take minutes and are not run."""

from torchreid import data as torchreid_data

from benchmarks.image_heads import write_market1501


def test_people_are_market1501(synthetic, tmp_path):
    write_market1501(synthetic.root, tmp_path, people=10)
    dataset = torchreid_data.datasets.init_image_dataset("market1501", root=str(tmp_path), verbose=False)
    train, query, gallery = ({item[1] for item in part} for part in (dataset.train, dataset.query, dataset.gallery))
    assert len(train) == 10
    assert len(dataset.train) == 40
    assert query == gallery
    assert len(dataset.query) == len(query) == 8
    assert len(dataset.gallery) == 24
    cameras = {(pid, camera) for _, pid, camera, *_ in dataset.query}
    assert not cameras & {(pid, camera) for _, pid, camera, *_ in dataset.gallery}  # no match is left out
