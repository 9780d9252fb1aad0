"""How many tracks a video gives, and whether their best crops show one whole person, to be judged on a picture:

    python -m benchmarks.search_video vtest.avi --frames 240 --out crops.png [--model RUN] [--detector FOLDER]

``vtest.avi`` is in Debian's package opencv-doc. Without a model, the colours of a crop stand in for its embedding.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from unittest import mock

import cv2
import numpy as np

from t2ireid_plugin.data.images import Pixels
from t2ireid_plugin.search.people import PersonEntry, load_detector, people_in_video, video
from t2ireid_plugin.search.people.tracking import Embed, Vectors

WIDTH, HEIGHT, TITLE = 96, 240, 20  # of a crop in the picture, pixels


def colours(crops: Sequence[Pixels]) -> Vectors:
    """Colours of 8 x 4 cells without their mean, [N, 96] of unit norm."""
    cells = [cv2.resize(np.ascontiguousarray(crop), (4, 8), interpolation=cv2.INTER_AREA).ravel() for crop in crops]
    vectors = np.stack(cells).astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def draw(entries: Sequence[PersonEntry]) -> Pixels:
    """The crops side by side, with the numbers of track, detections and frame above."""
    tiles = []
    for entry in entries:
        tile = np.zeros((HEIGHT + TITLE, WIDTH + 4, 3), np.uint8)
        tile[TITLE:, 2:-2] = cv2.resize(np.ascontiguousarray(entry.crop), (WIDTH, HEIGHT))
        title = f"{entry.track}: {entry.detections} @{entry.frame}"
        cv2.putText(tile, title, (2, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255))
        tiles.append(tile)
    return np.hstack(tiles)


def main() -> None:
    """Prints the counts and writes the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--frames", type=int, default=240, help="of the video's beginning (240)")
    parser.add_argument("--detector", default="hog", help="folder or hub id (hog)")
    parser.add_argument("--model", help="run or export whose embeddings are used (colours)")
    parser.add_argument("--out", type=Path, default=Path("crops.png"), help="picture of the first 16 best crops")
    options = parser.parse_args()
    embed: Embed = colours
    if options.model:
        from t2ireid_plugin.search import Encoder

        embed = Encoder.load(options.model).encode_images
    read_all = video.read_frames

    def beginning(path: str | Path, fps: float, after: float) -> Iterator[video.Frame]:
        return takewhile(lambda frame: frame.number < options.frames, read_all(path, fps, after))

    started = time.process_time()
    with mock.patch.object(video, "read_frames", beginning):
        parts = people_in_video(options.video, load_detector(options.detector), embed, progress=True)
        entries = sorted((entry for part in parts for entry in part.entries), key=lambda entry: entry.track)
    seconds = time.process_time() - started
    lasting = sum(entry.detections >= 5 for entry in entries)
    print(f"{len(entries)} tracks, {lasting} of at least 5 detections, {seconds:.0f} s of CPU; see '{options.out}'")
    cv2.imwrite(str(options.out), draw(entries[:16])[..., ::-1])


if __name__ == "__main__":
    main()
