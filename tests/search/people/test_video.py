import logging
import re
from datetime import datetime, timezone

import cv2
import numpy as np
import pytest

from t2ireid_plugin.errors import ConfigError, DataError
from t2ireid_plugin.search.people import parse_start, people_in_video, video
from t2ireid_plugin.search.people.video import read_frames

START = "2026-11-01T08:00:00+01:00"


@pytest.fixture(scope="module")
def entries(walkers):
    return entries_of(walkers, start=parse_start(START))


def entries_of(walkers, **options):
    parts = list(people_in_video(walkers.path, walkers.detect, walkers.embed, **{"fps": 5, **options}))
    assert parts[-1].end == np.inf
    return [entry for part in parts for entry in part.entries]


def person_of(entry, walkers):
    """Who the crop shows: the drawing with the nearest colours."""
    drawings = [cv2.resize(np.ascontiguousarray(figure), entry.crop.shape[1::-1]) for figure in walkers.figures]
    return int(np.argmin([np.abs(entry.crop.astype(float) - drawing).mean() for drawing in drawings]))


def test_one_entry_per_person_although_two_pass_each_other(entries, walkers):
    assert sorted(person_of(entry, walkers) for entry in entries) == [0, 1, 2]
    assert len({entry.track for entry in entries}) == 3


def test_boxes_crops_and_times_are_those_of_the_true_frames(entries, walkers):
    start = datetime(2026, 11, 1, 7, tzinfo=timezone.utc).timestamp()
    for entry in entries:
        assert entry.box == walkers.boxes(entry.frame)[person_of(entry, walkers)]
        left, top, right, bottom = map(int, entry.box)
        capture = cv2.VideoCapture(str(walkers.path))
        frame = [capture.read()[1] for _ in range(entry.frame + 1)][-1]
        np.testing.assert_array_equal(entry.crop, frame[top:bottom, left:right, ::-1])
        assert entry.offset == pytest.approx(entry.frame / walkers.rate)
        assert entry.time == pytest.approx(start + entry.frame / walkers.rate)


def test_best_crop_shows_the_whole_person_alone(entries, walkers):
    for entry in entries:
        person, boxes = person_of(entry, walkers), walkers.boxes(entry.frame)
        left, _, right, _ = boxes[person]
        assert left > 0
        assert right < walkers.width
        assert all(right <= other[0] or other[2] <= left for who, other in boxes.items() if who != person)


def test_vector_is_that_of_the_person(entries, walkers):
    drawn = walkers.embed(walkers.figures)
    for entry in entries:
        assert (drawn @ entry.vector).argmax() == person_of(entry, walkers)


@pytest.mark.parametrize(
    ("fps", "expected"), [(5, range(0, 90, 3)), (2, [0, 8, 15, 23, 30, 38, 45, 53, 60, 68, 75, 83])]
)
def test_the_first_frame_of_every_interval(fps, expected, walkers):
    frames = list(read_frames(walkers.path, fps))
    assert [frame.number for frame in frames] == list(expected)
    assert [walkers.number_of(frame.image) for frame in frames] == list(expected)


def test_all_frames_when_the_video_has_fewer_than_asked_for(walkers):
    assert [frame.number for frame in read_frames(walkers.path, 60)] == list(range(90))


def test_tracks_of_few_frames_are_dropped(walkers):
    assert entries_of(walkers, min_frames=31) == []
    assert len(entries_of(walkers, min_frames=20)) == 2


def test_progress_with_an_eta(walkers, capsys):
    assert len(entries_of(walkers, progress=True)) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert re.search(r"walk.avi: 3 of 30, eta \d:\d\d:\d\d$", lines[0])


def test_a_truncated_video_gives_what_it_has_with_a_warning(walkers, tmp_path, caplog):
    content = walkers.path.read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        numbers = [frame.number for frame in read_frames(tmp_path / "cut.avi", 60)]
    assert numbers == list(range(len(numbers)))
    assert 30 < len(numbers) < 60
    assert re.search(r"'.*cut.avi' ends after \d\.\d of 6.0 seconds", caplog.text)


@pytest.mark.parametrize("content", [None, b"", b"no video" * 100])
def test_what_is_not_a_video_is_one_line(content, tmp_path, walkers, capfd):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"^(missing video|video) '.*a.mp4'.*$"):
        list(people_in_video(path, walkers.detect, walkers.embed))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", ["2026-11-01T08:00:00", "2026-11-01", "eight o'clock", ""])
def test_start_needs_a_time_zone(text):
    with pytest.raises(ConfigError, match="as in 2026-11-01T08:00:00"):
        parse_start(text)


def test_start_in_utc():
    assert parse_start("2026-11-01T07:00:00Z") == parse_start(START)


def test_parts_end_when_nobody_is_in_view_and_can_be_continued(walkers):
    """Nobody is detected from 2 to 4.5 s; patience is 2 s."""

    def detect(image):
        people = walkers.detect(image)
        return people if not 30 <= walkers.number_of(image) < 68 else (people.boxes[:0], people.scores[:0])

    first, second = people_in_video(walkers.path, detect, walkers.embed)
    assert len(first.entries) == 2
    assert 3.8 < first.end < 4.5
    assert second.end == np.inf
    (rest,) = people_in_video(walkers.path, detect, walkers.embed, begin=first.end)
    assert [entry.frame for entry in rest.entries] == [entry.frame for entry in second.entries]
    assert [entry.box for entry in rest.entries] == [entry.box for entry in second.entries]
    assert min(entry.frame for entry in rest.entries) >= 68


def test_a_part_ends_after_its_longest_time_with_people_in_view(walkers, monkeypatch):
    monkeypatch.setattr(video, "_LONGEST_PART", 3.0)
    first, second = people_in_video(walkers.path, walkers.detect, walkers.embed)
    assert first.end == pytest.approx(3.2)
    assert max(entry.offset for entry in first.entries) <= 3.2 < min(entry.offset for entry in second.entries)
