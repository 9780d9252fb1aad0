import numpy as np
import pytest

from benchmarks.main import main
from benchmarks.search import make_photos, make_sentences
from benchmarks.search_kills import kill_writers


def test_vectors_are_like_photos_and_sentences():
    """Photos of a person are near each other; sentences are further from all photos, but nearest to their person's."""
    photos, sentences = np.concatenate(list(make_photos(2000))), make_sentences(50)
    np.testing.assert_allclose(np.linalg.norm(photos, axis=1), 1, atol=1e-5)
    people = photos.reshape(100, 20, -1)
    same = np.einsum("pid,pjd->pij", people, people)[:, 0, 1:].mean()
    other = (people[:-1, 0] * people[1:, 0]).sum(axis=1).mean()
    assert same > 0.6 > 0.3 > other
    assert (sentences @ photos.T).max(axis=1).mean() < same


@pytest.mark.slow
def test_search_benchmark_runs(tmp_path, capsys):
    options = ["--rows", "2000", "--queries", "3", "--kills", "0", "--json", str(tmp_path / "out.json")]
    assert main(["search", *options]) == 0
    printed = capsys.readouterr().out
    assert "recall_at_10" in printed
    assert "≥ 0.995" in printed


@pytest.mark.slow
def test_killed_writers_lose_nothing(tmp_path):
    assert kill_writers(tmp_path, kills=5)["kills"] == 5
