"""Gallery: photos and people that can be searched with a sentence, a photo or a vector."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.errors import ConfigError, DataError, InputError, check_choice
from t2ireid_plugin.search.hits import Hit, Hits
from t2ireid_plugin.search.rows import Box, Filter, Row, Time, to_seconds
from t2ireid_plugin.search.store import Ids, Store, Vectors, open_store

if TYPE_CHECKING:
    from t2ireid_plugin.search.indexing import Added, FindPeople
    from t2ireid_plugin.search.people import Detector

PER = ("photo", "track", "file")


class Embedder(Protocol):
    """What a gallery needs of an `Encoder`.

    Attributes:
        dim: length of a vector.
        fingerprint: equal for encoders whose vectors can be compared.
    """

    dim: int
    fingerprint: str

    def read(self, photo: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A photo, RGB ``[H, W, 3]``, at the model's size."""
        ...

    def encode_images(self, photos: Sequence[Any]) -> Vectors:
        """Vectors to store ``[n, d]`` of RGB arrays ``[H, W, 3]`` or results of `read`."""
        ...

    def encode_query(self, text: str | None, image: Any, minus: str | None, weight: float | None) -> npt.NDArray:
        """A query ``[d]``, whose inner product with a stored vector is the score."""
        ...


class Gallery:
    """An index and, for sentences and photos, the encoder that made it; for use in a ``with`` block.

    Paths are absolute in hits. The index keeps those beneath ``store.root`` relative to it, so that photos can move.

    Attributes:
        store: see `Store`.
        encoder: None for vectors only.
    """

    def __init__(self, store: Store, encoder: Embedder | None = None) -> None:
        self.store, self.encoder = store, encoder

    @classmethod
    def open(
        cls,
        where: str | Path | None,
        encoder: Embedder | None = None,
        *,
        root: str | Path | None = None,
        create: bool = True,
    ) -> Gallery:
        """Opens an index; the first addition makes a new one.

        Args:
            where: a folder, ``milvus://HOST:PORT/NAME``, or None for memory.
            encoder: by default that in the index, if it has one.
            root: folder of the photos if they have moved; by default as when the index was made, and then the folder
                that contains the index.
            create: False for an error where there is no index.

        Raises:
            DataError: when there is no index, or it is damaged, of another model or of a newer format.
        """
        dim, fingerprint = (encoder.dim, encoder.fingerprint) if encoder else (None, None)
        store = open_store(where, dim, fingerprint, root)
        if not create and not store.exists:
            raise DataError(f"no index '{where}'; make one with `t2ireid index build`")
        return cls(store, encoder)

    def close(self) -> None:
        """Releases the index."""
        self.store.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __len__(self) -> int:
        return self.store.count()

    def add_images(
        self,
        paths: str | Path | Sequence[str | Path],
        *,
        camera: str | Sequence[str | None] | None = None,
        time: Time | Sequence[Time | None] | None = None,
        camera_from: str | None = None,
        find_people: FindPeople | None = None,
        progress: bool = True,
    ) -> Added:
        r"""Brings the index up to date with photos: adds, replaces, renames and removes rows.

        Only photos of another size or time than before are read. Photos that cannot be read are skipped. An interrupted
        call keeps what it has committed; the next call continues.

        Args:
            paths: photos, and folders and tar files of photos; what is missing in them is removed from the index.
            camera: of all paths, or one per path.
            time: of all paths, or one per path.
            camera_from: regular expression with a group ``camera``, such as ``cam(?P<camera>\d+)``, that is searched in
                the paths of photos without a camera.
            find_people: boxes of the people in a photo, each of which becomes a row; by default a photo is one row.
            progress: report it on standard error.

        Raises:
            ConfigError: without an encoder, for a bad expression, or while another process is writing.
            DataError: for a missing file, a folder without photos, or an index that cannot be written.
        """
        from t2ireid_plugin.search.indexing import describe_photos, update

        self.need_encoder()
        places = [paths] if isinstance(paths, (str, Path)) else list(paths)
        photos = describe_photos(places, camera, time, camera_from)
        return update(self, places, photos, find_people, progress)

    def add_video(
        self,
        path: str | Path,
        *,
        camera: str | None = None,
        start: str | datetime.datetime | None = None,
        detector: str | Detector | None = None,
        fps: float = 5.0,
        progress: bool = True,
    ) -> int:
        """Adds the people of a video, a row per track, with the best crop and the mean embedding of at most five.

        A video that is in the index already is skipped. After an interruption the next call continues where the last
        commit ended: when nobody was in view, or after ten minutes of video.

        Args:
            path: a file that OpenCV can read.
            camera: of the video.
            start: time of the first frame, with its time zone; without it rows have no time.
            detector: callable, or folder or hub id of an object-detection model, or "hog", which is the default.
            fps: frames per second to look at.
            progress: report it and the remaining time on standard error.

        Returns:
            How many tracks.

        Raises:
            ConfigError: without an encoder, for a time without a zone, or while another process is writing.
            DataError: for a file that is not a video, or an index that cannot be written.
            EncoderError: for a detector that cannot be loaded.
        """
        from t2ireid_plugin.search.videos import index_video

        self.need_encoder()
        return index_video(self, path, detector or "hog", camera, start, fps, progress)

    def add_embeddings(
        self,
        vectors: npt.ArrayLike,
        paths: Sequence[str | Path],
        *,
        camera: str | Sequence[str | None] | None = None,
        time: Time | Sequence[Time | None] | None = None,
        track: Sequence[int | None] | None = None,
        box: Sequence[Box | None] | None = None,
        replace: bool = False,
    ) -> Ids:
        """Adds vectors of one's own; no encoder is needed.

        Args:
            vectors: ``[n, d]``; the score is the inner product with the query, so give them unit norm for cosines.
            paths: one per vector.
            camera: of all vectors, or one per vector.
            time: of all vectors, or one per vector.
            track: one per vector.
            box: one per vector.
            replace: remove earlier rows of the same paths.

        Returns:
            Their ids ``[n]``.

        Raises:
            InputError: for other shapes, or values that are not finite.
        """
        from t2ireid_plugin.search.indexing import per_item

        stored = [self.stored_path(path) for path in paths]
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim and len(vectors) != len(stored):
            raise InputError(f"paths: {len(stored)} for {len(vectors)} vectors")
        fields = [per_item(values, len(stored)) for values in (camera, time, track, box)]
        rows = (Row(path, c, to_seconds(t), i, b) for path, c, t, i, b in zip(stored, *fields))
        return self.store.add(vectors, rows, replace=set(stored) if replace else ())

    def search(
        self,
        text: str | None = None,
        k: int = 20,
        *,
        image: Any = None,
        minus: str | None = None,
        weight: float | None = None,
        **options: Any,
    ) -> Hits:
        """The rows that resemble a sentence, a photo, or a photo with a sentence most.

        Args:
            text: a sentence.
            k: number of hits; all rows where there are fewer.
            image: a photo, as a path, Pillow image or RGB array ``[H, W, 3]``.
            minus: a sentence to move away from.
            weight: share of the identity in the score, from 0 to 1, where the model ranks by identity and clothing.
            **options: of `search_embedding`.

        Raises:
            ConfigError: without an encoder.
        """
        vector = self.need_encoder().encode_query(text=text, image=image, minus=minus, weight=weight)
        return self.search_embedding(vector, k, query=text or "", **options)

    def search_embedding(
        self,
        vector: npt.ArrayLike,
        k: int = 20,
        *,
        camera: str | Sequence[str] | None = None,
        after: Time | None = None,
        before: Time | None = None,
        path: str | Path | None = None,
        track: int | None = None,
        per: str = "photo",
        min_score: float | None = None,
        exact: bool = False,
        query: str = "",
    ) -> Hits:
        """The rows with the highest inner products with ``vector [d]``.

        Args:
            vector: the query.
            k: number of hits; all rows where there are fewer.
            camera: one or several.
            after: this time or later.
            before: earlier than this time.
            path: a file, or a folder with all files in it.
            track: a track's number.
            per: the best row of each "track" or "file" only; "photo" for all rows.
            min_score: leave out rows below this similarity.
            exact: compare with all vectors; by default large indexes are compared by compressed codes first.
            query: the sentence, for the hits.

        Raises:
            ConfigError: for an unknown value of ``per`` or a time that is not a date.
            InputError: for a camera that is not a string.
            DataError: for a camera that is not in the index.
        """
        check_choice("per", per, PER)
        if not isinstance(k, Integral) or k < 1:
            raise ConfigError(f"k: {k} is not a number of hits; give a whole number of at least 1")
        chosen = self._filter(camera, after, before, path, track)
        total = self.store.count()
        searched = self.store.count(chosen) if chosen else total
        if not searched:
            self._check_cameras(chosen)
        queries, fetch = np.asarray(vector, np.float32)[None], k
        while True:
            scores, ids = self.store.search(queries, fetch, chosen, exact)
            hits = self._best(scores[0].tolist(), ids[0].tolist(), per)
            if len(hits) >= k or fetch >= searched:
                break
            fetch *= 4  # several rows of one track or file
        hits = [hit for hit in hits[:k] if min_score is None or hit.score >= min_score]
        return Hits(hits, query, searched, total)

    def _best(self, scores: Sequence[float], ids: Sequence[int], per: str) -> list[Hit]:
        """The hits of ids in this order, without further ones of the same track or file."""
        rows = self.store.rows(ids)
        best: dict[object, Hit] = {}
        for score, number in zip(scores, ids):
            if number in rows:  # not deleted in the meantime
                path, camera, seconds, track, box, frame, crop = rows[number]
                time = None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
                hit = Hit(self.absolute_path(path), score, number, camera, time, track, box, frame, crop)
                group = {"track": track, "file": path}.get(per)
                best.setdefault(("row", number) if group is None else group, hit)
        return list(best.values())

    def delete(
        self,
        *,
        path: str | Path | None = None,
        track: int | None = None,
        camera: str | Sequence[str] | None = None,
        after: Time | None = None,
        before: Time | None = None,
    ) -> int:
        """Deletes the rows that fulfil every condition, see `search_embedding`; `purge` erases their bytes.

        A photo that is still in its folder returns with the next `add_images` of the folder.

        Returns:
            How many rows.

        Raises:
            ConfigError: without a condition.
            DataError: for a camera that is not in the index.
        """
        chosen = self._filter(camera, after, before, path, track)
        if not chosen:
            raise ConfigError("delete: say which rows, by path, track, camera, after or before")
        deleted = self.store.delete(chosen)
        if not deleted:
            self._check_cameras(chosen)
        return deleted

    def _check_cameras(self, chosen: Filter) -> None:
        """Raises DataError for a camera that is not in the index."""
        known = self.store.cameras() if chosen.camera else []
        for name in chosen.camera or ():
            if name not in known:
                raise DataError(f"no camera '{name}' in the index; it has {', '.join(known) or 'no cameras'}")

    def purge(self) -> None:
        """Rewrites the files of the index so that none holds bytes of deleted rows."""
        self.store.purge()

    def info(self, verify: bool = False) -> dict[str, Any]:
        """Counts, sizes and format; with ``verify`` also a list of ``problems``, after reading all files."""
        return self.store.info(verify)

    def need_encoder(self) -> Embedder:
        """The encoder, which is loaded from the index if none was given.

        Raises:
            ConfigError: when there is none.
        """
        if self.encoder is None:
            folder = getattr(self.store, "folder", None)
            if folder is None or not (folder / "encoder").exists():
                raise ConfigError("the index has no encoder of its own: name its model (--model, or Gallery.open)")
            from t2ireid_plugin import search

            self.encoder = search.Encoder.load(folder / "encoder")
        assert self.encoder is not None
        return self.encoder

    def stored_path(self, path: str | Path) -> str:
        """A path as the index keeps it: relative to its root if it lies beneath, else absolute; or an address."""
        path = str(path)
        if "://" in path:
            return path
        return os.path.abspath(path).removeprefix(os.path.join(self.store.root, ""))

    def absolute_path(self, stored: str) -> str:
        """The inverse of `stored_path`."""
        return stored if "://" in stored else os.path.join(self.store.root, stored)

    def _filter(
        self,
        camera: str | Sequence[str] | None,
        after: Time | None,
        before: Time | None,
        path: str | Path | None,
        track: int | None,
    ) -> Filter:
        if isinstance(camera, Integral):
            raise InputError(f"camera: {camera} must be a string, such as '{camera}', or a list of strings")
        cameras = (camera,) if isinstance(camera, str) else None if camera is None else tuple(camera)
        stored = None if path is None else self.stored_path(path)
        return Filter(cameras, to_seconds(after), to_seconds(before), stored, track)
