"""Videos in an index."""

import datetime
import os
import signal

import cv2
import numpy as np
import pytest

from t2ireid_plugin.errors import ConfigError, DataError, EncoderError
from t2ireid_plugin.search import Gallery

START = "2026-11-01T08:00:00+01:00"


@pytest.fixture
def encoder(walkers):
    class Colours:
        dim, fingerprint = 96, "colours"

        def encode_images(self, crops):
            return walkers.embed(crops)

    return Colours()


def rows(gallery):
    """All rows, by the frame of the crop."""
    hits = gallery.search_embedding(np.ones(96), k=99)
    return sorted(hits, key=lambda hit: (hit.path, hit.frame, hit.track))


def test_a_row_per_track_with_its_crop_box_and_time(walkers, encoder, tmp_path):
    with Gallery.open(tmp_path / "people.idx", encoder) as gallery:
        assert gallery.add_video(walkers.path, camera="3", start=START, detector=walkers.detect, progress=False) == 3
        for person, figure in enumerate(walkers.figures):
            hit = gallery.search_embedding(walkers.embed([figure])[0], k=1)[0]
            assert (hit.path, hit.camera) == (str(walkers.path), "3")
            assert hit.box == walkers.boxes(hit.frame)[person]
            seconds = hit.frame / walkers.rate
            start = datetime.datetime(2026, 11, 1, 7, tzinfo=datetime.timezone.utc)
            assert abs(hit.time - start - datetime.timedelta(seconds=seconds)).total_seconds() < 0.001
            crop = cv2.imdecode(np.frombuffer(hit.crop, np.uint8), cv2.IMREAD_COLOR_RGB)
            assert np.abs(crop.astype(float) - cv2.resize(np.ascontiguousarray(figure), crop.shape[1::-1])).mean() < 8


def test_tracks_have_numbers_of_their_own_in_several_videos(walkers, encoder, tmp_path):
    other = tmp_path / "other.avi"
    other.write_bytes(walkers.path.read_bytes())
    with Gallery.open(None, encoder) as gallery:
        for path in (walkers.path, other):
            gallery.add_video(path, detector=walkers.detect, progress=False)
        assert len({hit.track for hit in rows(gallery)}) == len(gallery) == 6
        assert gallery.delete(track=rows(gallery)[0].track) == 1
        assert len(gallery) == 5


def test_a_known_video_is_not_read_again_and_a_changed_one_replaces_its_rows(walkers, encoder, tmp_path):
    path, read = tmp_path / "a.avi", []

    def detect(image):
        read.append(walkers.number_of(image))
        return walkers.detect(image)

    path.write_bytes(walkers.path.read_bytes())
    with Gallery.open(tmp_path / "people.idx", encoder) as gallery:
        assert gallery.add_video(path, detector=detect, progress=False) == 3
        os.utime(path, (1, 1))
        assert gallery.add_video(path, detector=detect, progress=False) == 0
        assert read == list(range(0, 90, 3))
        path.write_bytes(path.read_bytes() + b"more")
        assert gallery.add_video(path, detector=detect, progress=False) == 3
        assert len(gallery) == 3


def test_photos_of_the_folder_leave_videos_alone(walkers, encoder, tmp_path):
    path = tmp_path / "photos" / "a.avi"
    path.parent.mkdir()
    path.write_bytes(walkers.path.read_bytes())
    cv2.imwrite(str(path.with_name("a.png")), walkers.figures[0])
    encoder.read = lambda photo: photo
    with Gallery.open(tmp_path / "people.idx", encoder) as gallery:
        gallery.add_video(path, detector=walkers.detect, progress=False)
        gallery.add_images(path.parent, progress=False)
        assert len(gallery) == 4
        path.unlink()
        gallery.add_images(path.parent, progress=False)
        assert len(gallery) == 1


def gap(walkers):
    """Detector that finds nobody from 2 to 4.5 s."""

    def detect(image):
        people = walkers.detect(image)
        return people if not 30 <= walkers.number_of(image) < 68 else (people.boxes[:0], people.scores[:0])

    return detect


@pytest.mark.parametrize("stop", [3, 40, 72])
def test_killed_anywhere_it_continues_to_the_same_rows(stop, walkers, encoder, tmp_path):
    detect = gap(walkers)

    def deadly(image):
        if walkers.number_of(image) >= stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return detect(image)

    with Gallery.open(tmp_path / "whole.idx", encoder) as gallery:
        gallery.add_video(walkers.path, detector=detect, progress=False)
        expected = rows(gallery)
    if (child := os.fork()) == 0:
        Gallery.open(tmp_path / "people.idx", encoder).add_video(walkers.path, detector=deadly, progress=False)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with Gallery.open(tmp_path / "people.idx", encoder) as gallery:
        committed = len(gallery)
        assert committed == (2 if stop > 68 else 0)
        assert gallery.add_video(walkers.path, detector=detect, progress=False) == len(expected) - committed
        continued = rows(gallery)
        assert gallery.add_video(walkers.path, detector=detect, progress=False) == 0
    for ours, whole in zip(continued, expected, strict=True):
        assert (ours.frame, ours.box, ours.crop) == (whole.frame, whole.box, whole.crop)
        assert ours.score == pytest.approx(whole.score, abs=1e-5)


def test_bad_options_are_one_line_and_leave_no_rows(walkers, encoder, tmp_path):
    with Gallery.open(tmp_path / "people.idx", encoder) as gallery:
        for error, options in (
            (ConfigError, {"start": "2026-11-01"}),
            (ConfigError, {"fps": 0}),
            (EncoderError, {"detector": "./nowhere"}),
        ):
            with pytest.raises(error):
                gallery.add_video(walkers.path, **{"detector": walkers.detect, **options}, progress=False)
        (tmp_path / "no.avi").write_bytes(b"no video")
        for name in ("no.avi", "missing.avi"):
            with pytest.raises(DataError, match=name):
                gallery.add_video(tmp_path / name, detector=walkers.detect, progress=False)
        assert len(gallery) == 0
