"""Tracking: which detections of successive frames are the same person, by overlap and by the encoder's embedding."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from t2ireid_plugin.data.images import Pixels
from t2ireid_plugin.search.people.detectors import Boxes, Detections

Vectors = npt.NDArray[np.float32]  # [N, D]
Embed = Callable[[Sequence[Pixels]], Vectors]  # crops uint8 [h, w, 3] RGB -> embeddings

SAMPLES = 5  # embeddings whose mean is a track's


class View(NamedTuple):
    """A person in one frame."""

    crop: Pixels
    box: tuple[float, float, float, float]
    offset: float  # seconds since the start of the video
    frame: int


class Track:
    """Detections of one person.

    Attributes:
        number: in the order of first detections, from 1.
        frames: number of detections.
        last_seen: offset of the latest detection, in seconds.
        best: the largest and surest view, of those that neither the frame's border nor another person cuts if any.
    """

    def __init__(self, number: int) -> None:
        self.number, self.frames, self.last_seen = number, 0, 0.0
        self.best: View | None = None
        self._quality = (False, -1.0)
        self._box, self._velocity = np.zeros(4, np.float32), np.zeros(4, np.float32)
        self._samples: list[npt.NDArray[np.float32]] = []
        self._stride = 1

    def predict(self, offset: float) -> npt.NDArray[np.float32]:
        """The box [4] expected at a time, if the person keeps moving."""
        return self._box + self._velocity * (offset - self.last_seen)

    @property
    def due(self) -> bool:
        """True when the next detection's embedding is to be kept."""
        return self.frames % self._stride == 0

    @property
    def vector(self) -> npt.NDArray[np.float32]:
        """Mean embedding [D] of at most `SAMPLES` detections spread over the track."""
        spread = np.linspace(0, len(self._samples) - 1, min(SAMPLES, len(self._samples))).round().astype(int)
        return np.mean([self._samples[i] for i in spread], axis=0, dtype=np.float32)

    def add(self, view: View, quality: tuple[bool, float], vector: npt.NDArray[np.float32] | None) -> None:
        """Appends a detection.

        Args:
            view: of the person.
            quality: whether the person is whole and alone in the box, and how good the view is.
            vector: embedding [D] of the crop; needed when `due`.
        """
        box = np.array(view.box, np.float32)
        if self.frames:
            moved = (box - self._box).reshape(2, 2).mean(axis=0)  # of the centre: sizes are noisier
            velocity = np.tile(moved / (view.offset - self.last_seen), 2)
            self._velocity = velocity if self.frames == 1 else (self._velocity + velocity) / 2
        if vector is not None and self.due:
            self._samples.append(vector)
            if len(self._samples) == 2 * SAMPLES:  # so that long tracks need few embeddings
                self._samples, self._stride = self._samples[::2], 2 * self._stride
        if quality > self._quality:
            self.best, self._quality = view._replace(crop=view.crop.copy()), quality
        self._box, self.last_seen = box, view.offset
        self.frames += 1


class Tracker:
    """Assigns detections to tracks, frame by frame.

    A detection can continue a track whose predicted box it overlaps. Where several are possible, the assignment with
    the largest sum of overlap (intersection over union) and cosine of embeddings is chosen. Where the overlap is
    small, the similarity must be usual for one person, which is learned from the pairs with a large overlap, since it
    depends on the encoder. Only these detections are embedded, those that begin a track, and some for tracks' means.

    Args:
        embed: crops to embeddings.
        patience: seconds that a track waits for its next detection.
        min_overlap: intersection over union of a detection with the predicted box.
        sure_overlap: from which on one person is taken for granted, if nobody else is near.

    Attributes:
        tracks: those that have not ended.
    """

    def __init__(
        self, embed: Embed, patience: float = 2.0, min_overlap: float = 0.2, sure_overlap: float = 0.5
    ) -> None:
        self._embed, self._patience, self._min_overlap, self._sure = embed, patience, min_overlap, sure_overlap
        self.tracks: list[Track] = []
        self._count = 0
        self._usual: deque[float] = deque(maxlen=1000)  # similarities of sure pairs

    def update(self, image: Pixels, people: Detections, offset: float, frame: int) -> list[Track]:
        """Adds the detections of the next frame, and returns the tracks that ended before it.

        Args:
            image: the frame, uint8 [H, W, 3] RGB.
            people: its detections.
            offset: its time in seconds.
            frame: its number.
        """
        ended = [track for track in self.tracks if offset - track.last_seen > self._patience]
        self.tracks = [track for track in self.tracks if offset - track.last_seen <= self._patience]
        crops = [crop_of(image, box) for box in people.boxes]
        chosen, vectors, rivals = self._assign(people.boxes, crops, offset)

        crowding = box_overlap(people.boxes, people.boxes) - np.eye(len(crops), dtype=np.float32)  # [N, N]
        for i, box in enumerate(people.boxes):
            if i not in chosen:
                self._count += 1
                chosen[i] = Track(self._count)
                self.tracks.append(chosen[i])
            view = View(crops[i], tuple(box.tolist()), offset, frame)
            value = float((box[2:] - box[:2]).prod() * people.scores[i] * (1 - crowding[i].max()))
            chosen[i].add(view, (is_whole(box, image) and not rivals[i], value), vectors.get(i))
        return ended

    def finish(self) -> list[Track]:
        """The tracks that have not ended yet."""
        tracks, self.tracks = self.tracks, []
        return tracks

    def _assign(
        self, boxes: Boxes, crops: list[Pixels], offset: float
    ) -> tuple[dict[int, Track], dict[int, npt.NDArray[np.float32]], npt.NDArray[np.bool_]]:
        """Detections' tracks where they continue one, the embeddings needed, and [N] whether another person is near."""
        predicted = np.array([track.predict(offset) for track in self.tracks], np.float32).reshape(-1, 4)
        overlap = box_overlap(predicted, boxes)  # [T, N]
        possible = overlap >= self._min_overlap
        rivals = (possible & ((possible.sum(axis=0) > 1) | (possible.sum(axis=1, keepdims=True) > 1))).any(axis=0)
        doubtful = possible & (rivals | (overlap < self._sure))
        due = (possible & np.array([[track.due] for track in self.tracks], bool).reshape(-1, 1)).any(axis=0)
        needed = np.flatnonzero(due | doubtful.any(axis=0) | ~possible.any(axis=0))
        embeds = self._embed([crops[i] for i in needed]) if len(needed) else np.empty((0, 0), np.float32)

        similarity = np.zeros_like(overlap)
        if self.tracks and len(needed):
            similarity[:, needed] = cosines(np.stack([track.vector for track in self.tracks]), embeds)
        if len(self._usual) >= 20:
            spread = max(0.2, 3 * float(np.std(self._usual)))  # of people who stand still it would be too small
            possible &= ~doubtful | (similarity >= np.mean(self._usual) - spread)
        gain = np.where(possible, overlap + similarity.clip(0), 0)
        pairs = [(t, int(i)) for t, i in zip(*linear_sum_assignment(gain, maximize=True)) if possible[t, i]]
        young = [pair for pair in pairs if self.tracks[pair[0]].frames <= SAMPLES]  # so that all tracks count alike
        self._usual.extend(similarity[pair] for pair in young if due[pair[1]] and not doubtful[pair])
        return {i: self.tracks[t] for t, i in pairs}, dict(zip(needed.tolist(), embeds)), rivals


def crop_of(image: Pixels, box: npt.NDArray[np.float32]) -> Pixels:
    """The pixels of a box [4] that lies within the image."""
    left, top, right, bottom = box.round().astype(int)
    return image[top:bottom, left:right]


def is_whole(box: npt.NDArray[np.float32], image: Pixels, margin: float = 2.0) -> bool:
    """True when a box [4] is farther than ``margin`` pixels from the border of the image."""
    height, width = image.shape[:2]
    return bool((box[:2] > margin).all() and box[2] < width - margin and box[3] < height - margin)


def box_overlap(a: Boxes, b: Boxes) -> npt.NDArray[np.float32]:
    """Intersection over union [A, B] of boxes [A, 4] and [B, 4]."""
    corners = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])  # [A, B, 2]
    common = corners.clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    return common / (areas[0][:, None] + areas[1] - common)


def cosines(a: Vectors, b: Vectors) -> Vectors:
    """Cosines [A, B] of vectors [A, D] and [B, D]."""
    return (a @ b.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
