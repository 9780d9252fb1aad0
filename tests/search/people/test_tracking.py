from itertools import permutations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from t2ireid_plugin.search.people import Detections
from t2ireid_plugin.search.people.tracking import Tracker, box_overlap

IMAGE = np.zeros((400, 600, 3), np.uint8)


def boxes_at(places):
    return np.array([(x, y, x + 60, y + 150) for x, y in places], np.float32).reshape(-1, 4)


def seen(people):
    """A frame of people (x, y, colour), which shows the lower left corner of each, and its detections."""
    image = IMAGE.copy()
    for x, y, colour in people:
        image[int(y) + 149, int(x)] = colour
    return image, Detections(boxes_at([person[:2] for person in people]), np.ones(len(people), np.float32))


def run(frames, embed_colour):
    """The tracks of frames with a list of people each, 5 frames per second."""
    tracker, ended = colour_tracker(embed_colour), []
    for number, people in enumerate(frames):
        ended += tracker.update(*seen(people), number / 5, number)
    return [*ended, *tracker.finish()]


def colour_tracker(embed_colour):
    return Tracker(lambda crops: np.stack([embed_colour(int(crop[-1, 0, 0])) for crop in crops]))


def one_hot(colour):
    return np.eye(8, dtype=np.float32)[colour]


def test_box_overlap_is_torchvisions():
    rng = np.random.default_rng(0)
    a, b = (np.sort(rng.uniform(0, 99, (n, 2, 2)), axis=1).reshape(n, 4).astype(np.float32) for n in (7, 5))
    expected = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    np.testing.assert_allclose(box_overlap(a, b), expected, rtol=1e-4, atol=1e-6)
    assert box_overlap(a[:0], b).shape == (0, 5)


def turning_back(embed):
    """Two people meet and turn back, which by overlap and movement alone looks like passing each other."""
    there = [(100 + 15 * k, 100, 0) for k in range(9)]
    other = [(340 - 15 * k, 104, 1) for k in range(9)]
    frames = [[a, b] for a, b in zip(there + there[-2::-1], other + other[-2::-1])]
    return run(frames, embed)


def test_embedding_decides_between_people_who_overlap():
    tracks = turning_back(lambda colour: one_hot(colour) * 3)  # the norm does not matter
    assert [track.frames for track in tracks] == [17, 17]
    assert sorted(track.vector.argmax() for track in tracks) == [0, 1]
    assert all(track.vector.max() == 3 for track in tracks)  # nobody else's crop


def test_without_an_embedding_they_would_be_swapped():
    """Shows that the scene of the test above needs the embedding."""
    ends = [track._box[0] for track in turning_back(lambda colour: one_hot(0))]
    assert [round(float(end)) for end in ends] == [340, 100]


def naive_tracks(frames, min_overlap=0.2):
    """Every possible assignment is tried; all detections are embedded; the box is predicted from the last two."""
    tracks = []
    for number, people in enumerate(frames):
        boxes = boxes_at([person[:2] for person in people])
        best, choice = -1.0, ()
        slots = [*range(len(tracks)), *[None] * len(people)]
        for candidate in set(permutations(slots, len(people))):
            total = 0.0
            for i, t in enumerate(candidate):
                if t is None:
                    continue
                predicted = torch.from_numpy(tracks[t]["expected"][None] + 0.0)
                overlap = float(box_iou(predicted, torch.from_numpy(boxes[i : i + 1]))[0, 0])
                total += overlap + tracks[t]["colour"][people[i][2]] if overlap >= min_overlap else -9
            if total > best:
                best, choice = total, candidate
        for i, t in enumerate(choice):
            if t is None:
                tracks.append({"seen": [], "colour": one_hot(people[i][2]), "speed": 0.0})
                t = len(tracks) - 1
            track = tracks[t]
            if track["seen"]:
                step = boxes[i] - track["box"]
                track["speed"] = step if len(track["seen"]) == 1 else (track["speed"] + step) / 2
            track["seen"].append((number, people[i][2]))
            track.update(box=boxes[i], expected=boxes[i] + track["speed"])
    return sorted(track["seen"] for track in tracks)


@pytest.mark.parametrize("seed", range(12))
def test_assignment_is_the_best_of_all_on_random_walks(seed):
    rng = np.random.default_rng(seed)
    starts, steps = rng.uniform((100, 100), (300, 180), (3, 2)), rng.uniform(-9, 9, (3, 2))
    frames = []
    for k in range(12):
        places = (starts + k * steps + rng.uniform(-3, 3, (3, 2))).round()
        frames.append([(x, y, who) for who, (x, y) in enumerate(places.tolist())])
    tracker, lists = colour_tracker(one_hot), {}
    for number, people in enumerate(frames):
        tracker.update(*seen(people), number / 5, number)
        for track in tracker.tracks:
            if track.last_seen == number / 5:
                who = next(colour for x, y, colour in people if (x, y) == tuple(track._box[:2].tolist()))
                lists.setdefault(track.number, []).append((number, who))
    assert sorted(lists.values()) == naive_tracks(frames)


def test_a_gap_within_the_patience_is_bridged_and_a_longer_one_is_not():
    walk = [[(100 + 5 * k, 100, 0)] for k in range(30)]
    for gap, tracks in ((8, 1), (12, 2)):  # of 5 frames per second, patience 2 s
        frames = [people if not 10 <= k < 10 + gap else [] for k, people in enumerate(walk)]
        assert len(run(frames, one_hot)) == tracks


def test_somebody_else_in_the_same_place_begins_a_track():
    """The usual similarity is known after enough sure pairs, here of five people who stand apart."""
    standing = [(100 * who, 100, who) for who in range(5)]
    other = (25, 100, 5)
    for before, tracks in ((3, 5), (10, 6)):
        frames = [standing] * before + [standing[1:]] + [[other]] * 5
        assert len(run(frames, one_hot)) == tracks


def test_few_embeddings_and_a_mean_over_the_whole_track():
    """Somebody stands still for 500 frames; the embedding of a frame is its direction on a quarter circle."""
    embedded, number = [], 0

    def embed(crops):
        embedded.append(number)
        angle = np.pi / 2 * number / 499
        return np.array([[np.cos(angle), np.sin(angle)]], np.float32)

    tracker = Tracker(embed)
    for number in range(500):
        tracker.update(*seen([(100, 100, 0)]), number / 5, number)
    (track,) = tracker.finish()
    assert len(embedded) < 60
    halfway = np.arctan2(track.vector[1], track.vector[0]) / (np.pi / 2)
    assert 0.35 < halfway < 0.6
    assert np.linalg.norm(track.vector) < 0.95  # of directions far apart


def test_best_view_is_large_sure_whole_and_alone():
    tracker = Tracker(lambda crops: np.ones((len(crops), 1), np.float32))
    views = [  # box, score
        ((0, 100, 100, 390), 1.0),  # cut by the border
        ((40, 100, 130, 330), 0.9),
        ((60, 100, 152, 340), 0.5),
        ((70, 110, 150, 310), 0.9),
    ]
    for number, (box, score) in enumerate(views):
        people = Detections(np.array([box], np.float32), np.array([score], np.float32))
        tracker.update(IMAGE, people, number / 5, number)
    (track,) = tracker.finish()
    assert track.best.frame == 1
    assert track.best.box == views[1][0]
    assert track.best.crop.shape == (230, 90, 3)
