import gc
import os
import pickle
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from preloaded import run_python
from torch.utils.data import DataLoader, Dataset

from t2ireid_plugin.data.item_table import CAPTION, CLOTH_TEXT, OUTFIT, PID, ItemTable, Texts, labels
from t2ireid_plugin.modeling.instructions import split_caption

TEXT = st.text(max_size=8)


@given(st.lists(TEXT), st.lists(TEXT))
def test_texts_round_trip(first, second):
    texts = Texts(first)
    assert len(texts) == len(first) + 1
    assert [texts[i] for i in range(len(texts))] == ["", *first]
    joined = texts + Texts(second)
    assert [joined[i] for i in range(len(joined))] == ["", *first, *second]


def test_a_path_that_is_not_utf8_round_trips():
    assert Texts(["caf\udce9/a.jpg"])[1] == "caf\udce9/a.jpg"


def table(captions, start=1):
    """Items with numbered paths and pids, an own identity text, and the clothing text split from the caption."""
    strings = [text for i, caption in enumerate(captions) for text in (f"{i}.jpg", caption, f"who {i}")]
    rows = [[3 * i + 1, start + i, i % 3, 0, i - 1, 3 * i + 2, 3 * i + 3, -1] for i in range(len(captions))]
    return ItemTable(Texts(strings), torch.tensor(rows, dtype=torch.int64).reshape(-1, 8))


def expected(captions, start=1):
    return [(f"{i}.jpg", start + i, i % 3, 0, c, f"who {i}", split_caption(c)[1]) for i, c in enumerate(captions)]


CAPTIONS = ["A man in a red coat.", "一个穿蓝色外套的女人", "A woman with long hair wears a dress."]


def test_a_table_equals_a_list_of_tuples():
    items = table(CAPTIONS)
    assert items == expected(CAPTIONS)
    assert list(items) == [items[i] for i in range(3)] == expected(CAPTIONS)
    assert items[-1] == expected(CAPTIONS)[-1]
    assert items[1:] == expected(CAPTIONS)[1:]
    assert items not in (expected(CAPTIONS[:2]), table(CAPTIONS, start=2))
    assert pickle.loads(pickle.dumps(items)) == items
    with pytest.raises(IndexError):
        items[3]


def test_labels_and_texts():
    items = table(CAPTIONS)
    assert labels(items) == [("", 1, 0, 0), ("", 2, 1, 0), ("", 3, 2, 0)]
    assert items.all_texts() == {*CAPTIONS, "who 0", "who 1", "who 2"}
    assert items[:1].all_texts() == {CAPTIONS[0], "who 0"}
    assert items.distinct(PID) == items.distinct(CAPTION) == 3
    assert items.images() == [(f"{i}.jpg", i + 1, i % 3, 0, "", "", "") for i in range(3)]
    assert items.paths() == ["0.jpg", "1.jpg", "2.jpg"]
    assert items.images().columns[:, OUTFIT].tolist() == items.columns[:, OUTFIT].tolist() == [-1, 0, 1]
    assert items.digest() == items.with_column(OUTFIT, 5).digest()  # so that a run resumes with a completed annotation


@given(st.lists(TEXT, min_size=1), st.lists(TEXT, min_size=1))
def test_joining(first, second):
    joined = table(first).joined(table(second), (10, 20, 30))
    moved = [(path, pid + 10, camid + 20, dsetid + 30, *texts) for path, pid, camid, dsetid, *texts in expected(second)]
    assert joined == expected(first) + moved


def test_changing_a_column_leaves_the_old_table():
    items = table(CAPTIONS)
    assert [item[1] for item in items.with_column(PID, 7)] == [7, 7, 7]
    assert items == expected(CAPTIONS)


class Reader(Dataset):
    """Reads every item in a worker and returns the growth of the worker's private memory, in bytes."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return 2

    def __getitem__(self, index):
        gc.freeze()  # as the data manager's workers do; garbage collection would copy the parent's memory
        before = _private_bytes()
        assert sum(len(item[4]) for item in self.items) > 0
        return _private_bytes() - before


def _private_bytes():
    with open(f"/proc/{os.getpid()}/smaps_rollup") as lines:
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_share_the_memory_of_a_table(method):
    """Two workers read 30 MB of captions; with a list of strings each would copy all of it."""
    here = os.path.dirname(__file__)
    code = f"import sys; sys.path += [{here!r}, {os.path.dirname(here)!r}]\n"
    code += f"import test_item_table as t\nt.measure({method!r})"
    cost, size = map(int, run_python(["-c", code]).stdout.split())
    # Reading creates Python objects for a moment, and a forked process copies pages that it touches, so the bound
    # leaves room; copied strings would take more than `size`.
    assert cost < 0.8 * size


def measure(method):
    """Prints a worker's private memory and the size of the captions; runs in a process of its own."""
    items = table([f"{i:06} " * 70 for i in range(60_000)])
    items = items.with_column(CLOTH_TEXT, 0)
    size = 60_000 * 7 * 70
    used = list(DataLoader(Reader(items), num_workers=2, batch_size=1, multiprocessing_context=method))
    print(max(int(cost) for cost in used), size)
