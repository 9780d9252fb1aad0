"""The retrieval protocols: queries, gallery, and gallery entries excluded for each query.

================  ================================  ====================================  ===========================
name              query                             gallery                               excluded from the gallery
================  ================================  ====================================  ===========================
t2i               each caption                      each image                            nothing: the described photo
                                                                                          counts
i2t               each image                        each caption                          nothing: its own captions
                                                                                          count
i2i               each image                        each image                            itself; where cameras are
                                                                                          known all of the person by
                                                                                          that camera
ti2i              each image with a caption         each image, encoded without any text  the query's own photo
ti2i_photo        the photos of ti2i, alone         as ti2i                               as ti2i
ti2i_sum          photo + text weight x caption     as ti2i                               as ti2i
caption           each caption, whole               each image                            nothing
identity          each identity text                each image                            nothing
clothing          each clothing text                each image, by its clothing           nothing
both              identity and clothing text        each image, by both                   nothing
caption_clothing  whole caption and clothing text   each image, by both                   nothing
composed          photo in one outfit and the       each image, encoded without any text  the query's own photo
                  clothing text of another
composed_words    the texts of composed, alone      as composed                           as composed
composed_photo    the photos of composed, alone     as composed                           as composed
composed_sum      photo + text weight x text        as composed                           as composed
composed_pair     photo's identity, text's          each image, by both                   as composed
                  clothing
================  ================================  ====================================  ===========================

The names are the choices of ``test.protocols``; t2i is the benchmarks' official protocol. A match is an equal identity;
in composed and its baselines it is an equal look: the photo's person in the described outfit, as in ITCPR (see
`data.composed`). ITCPR's own photos of queries are not searched, and its identities are looks.
Gallery images are never fused with their captions, which would leak the answers. i2i is torchreid's protocol with every
image as a query. A text has no camera: with its photo's, torchreid's filter would exclude the described photo.

t2i, i2t, i2i and ti2i score as the model's `Ranking` says: by the whole caption and the identity embedding, or by both
branches, for which the caption is split. Those from ``caption`` on read the branches that they name, whatever the
ranking, and the texts of the annotation. ``caption_clothing`` is the best that a model trained on whole captions can do
with both branches.

``ti2i_photo`` and ``ti2i_sum`` are the baselines of ``ti2i``, reported beside it: the photo's embedding without the
caption, and ``normalize(photo + weight * caption)``. ``fusion.type: residual`` gives both sides of a ti2i query. The
other fusions read the identity branch; with a ranking by both, the clothing side is that of ``ti2i_sum``.

``composed_words``, ``_photo``, ``_sum`` and ``_pair`` are those of ``composed``. Its texts name clothes only, so that
only the photo shows the person; with a ranking by both they are split as a caption is.

Two texts together are scored ``w cos(image, first text) + (1 - w) cos(image's clothing, clothing text)``. All weights
are chosen on val.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from t2ireid_plugin.modeling.ranking import BOTH, Ranking, join

if TYPE_CHECKING:
    from torch import Tensor

Labels = npt.NDArray[np.int64]


class Embeddings(NamedTuple):
    """Embeddings of one target, of unit norm; None for those that no protocol needs.

    ``n`` captions, ``m`` images to search, ``r`` further images that only queries show (0 but in ITCPR).
    """

    images: Tensor  # [m + r, D] identity branch
    pids: Labels  # [m]
    camids: Labels  # [m]
    described: Labels  # [n] position of the image that each caption was written for, or that is shown with it
    ranking: Ranking = Ranking()
    captions: Any = None  # [n, D]
    identity_parts: Any = None  # [n, D] identity part of each caption; zero where it has none, as below
    clothing_parts: Any = None  # [n, D] clothing part of each caption
    identity: Any = None  # [n, D] identity text of the annotation
    clothing: Any = None  # [n, D] clothing text of the annotation
    cloth_images: Any = None  # [m + r, D] clothing branch
    fused: Any = None  # [n, D] image and text of the identity branch, or [n, 2 D] of both branches
    # Of composed search; None where the annotation numbers no outfits.
    references: Any = None  # [n] position of each query's photo
    looks: Any = None  # [n] person and described outfit, -2 for a caption that has no query
    gallery_looks: Any = None  # [m] person and outfit, -1 where the outfit is unknown
    identity_words: Any = None  # [n, D] identity part of each clothing text
    clothing_words: Any = None  # [n, D] clothing part of each clothing text
    composed_fused: Any = None  # [n, D] as `fused`, from references and clothing texts
    own_pids: Any = None  # [n] identity that each query searches, where images are only shown

    @property
    def photos(self) -> Tensor:
        """All images as the model's ranking compares them, ``[m + r, D]`` or ``[m + r, 2 D]``."""
        return self.ranking.join(self.images, self.cloth_images) if self.ranking.by == BOTH else self.images

    @property
    def gallery(self) -> Tensor:
        """Those of the photos that are searched, ``[m, D]`` or ``[m, 2 D]``."""
        return self.photos[: len(self.pids)]

    @property
    def query_pids(self) -> Labels:
        """The identity ``[n]`` that each caption searches."""
        return self.pids[self.described] if self.own_pids is None else self.own_pids

    @property
    def queries(self) -> Tensor:
        """The captions as the model's ranking compares them, ``[n, D]`` or ``[n, 2 D]``."""
        by_both = self.ranking.by == BOTH
        return self.ranking.join(self.identity_parts, self.clothing_parts) if by_both else self.captions


class RetrievalTask(NamedTuple):
    """Queries and gallery to rank.

    Gallery entries of a query's pid and camid are excluded, as in torchreid's evaluator, and its entry of ``left_out``.
    """

    queries: Tensor  # [q, D]
    gallery: Tensor  # [g, D]
    q_pids: Labels  # [q]
    g_pids: Labels  # [g]
    q_camids: Labels  # [q]
    g_camids: Labels  # [g]
    left_out: Labels | None = None  # [q] position in the gallery, whatever its pid
    ignored: npt.NDArray[np.bool_] | None = None  # [q, g] more entries of the query's pid that are excluded
    people: Labels | None = None  # [q] identity of each query, where the pids are looks


class Protocol(NamedTuple):
    """One protocol."""

    needs: tuple[str, ...]  # fields of `Embeddings`; "queries", "gallery" and "fused" depend on the ranking
    build_task: Callable[[Embeddings, float], RetrievalTask]  # the number is the weight of `WEIGHTS`, where it has one


_NO_CAMERA = -1  # a camera that no gallery entry has, so it excludes none


def text_to_image(e: Embeddings, texts: Tensor, images: Tensor) -> RetrievalTask:
    """Embeddings of texts ``[n, D]`` as queries, of images ``[m + r, D]`` as gallery."""
    gallery = images[: len(e.pids)]
    return RetrievalTask(texts, gallery, e.query_pids, e.pids, np.full(len(texts), _NO_CAMERA), e.camids)


def image_to_text(e: Embeddings, _weight: float) -> RetrievalTask:
    """Images as queries, captions as gallery."""
    pids = e.query_pids
    return RetrievalTask(e.gallery, e.queries, e.pids, pids, np.full(len(e.pids), _NO_CAMERA), np.zeros_like(pids))


def image_to_image(e: Embeddings, _weight: float) -> RetrievalTask:
    """Images on both sides; positives are by other cameras, or where cameras are unknown all other images."""
    cameras = e.camids if len(np.unique(e.camids)) > 1 else np.arange(len(e.pids))
    return RetrievalTask(e.gallery, e.gallery, e.pids, e.pids, cameras, cameras)


def fused_to_image(e: Embeddings, weight: float) -> RetrievalTask:
    """Images fused with a caption as queries; ``weight`` is the caption's in a clothing side that is a sum."""
    queries = e.fused
    if queries.shape[1] == 2 * e.images.shape[1]:  # both sides are fused
        queries = _unit(e.ranking.join(*queries.chunk(2, dim=1)))
    elif e.ranking.by == BOTH:
        queries = e.ranking.join(e.fused, _sum(e.cloth_images[e.described], e.clothing_parts, weight))
    return photo_and_text_to_image(e, queries)


def photo_plus_text_to_image(e: Embeddings, weight: float) -> RetrievalTask:
    """``normalize(photo + weight * caption)`` as queries."""
    return photo_and_text_to_image(e, _sum(e.photos[e.described], e.queries, weight))


def photo_and_text_to_image(e: Embeddings, queries: Tensor) -> RetrievalTask:
    """Embeddings of photos with captions as queries, images as gallery; excludes only the query's own photo."""
    photos = np.arange(len(e.pids))
    return RetrievalTask(queries, e.gallery, e.query_pids, e.pids, e.described, photos)


def _sum(photos: Tensor, texts: Tensor, weight: float) -> Tensor:
    return _unit(photos + weight * texts)


def _unit(queries: Tensor) -> Tensor:
    return queries / queries.norm(dim=1, keepdim=True)


def composed(build_task: Callable[[Embeddings, float], RetrievalTask]) -> Callable[[Embeddings, float], RetrievalTask]:
    """The same queries from the photos and texts of composed search, matched by look."""

    def build(e: Embeddings, weight: float) -> RetrievalTask:
        parts = {"identity_parts": e.identity_words, "clothing_parts": e.clothing_words}
        own = e._replace(described=e.references, captions=e.clothing, fused=e.composed_fused, **parts)
        no_camera = np.full(len(e.looks), _NO_CAMERA)
        return build_task(own, weight)._replace(
            q_pids=e.looks,
            g_pids=e.gallery_looks,
            q_camids=no_camera,
            g_camids=e.camids,
            left_out=e.references if e.own_pids is None else None,
            people=e.query_pids,
        )

    return build


def pair_to_image(e: Embeddings, first: Tensor, weight: float) -> RetrievalTask:
    """Two texts as a query, ``first`` for the identity branch with ``weight``, the clothing text for the other."""
    return text_to_image(e, join(first, e.clothing, weight), join(e.images, e.cloth_images, weight))


_OWN = ("queries", "gallery")
_COMPOSED = ("looks", "words", "gallery")
PROTOCOLS: dict[str, Protocol] = {
    "t2i": Protocol(_OWN, lambda e, _: text_to_image(e, e.queries, e.photos)),
    "i2t": Protocol(_OWN, image_to_text),
    "i2i": Protocol(("gallery",), image_to_image),
    "ti2i": Protocol((*_OWN, "fused"), fused_to_image),
    "ti2i_photo": Protocol(_OWN, lambda e, _: photo_plus_text_to_image(e, 0)),
    "ti2i_sum": Protocol(_OWN, photo_plus_text_to_image),
    "caption": Protocol(("captions",), lambda e, _: text_to_image(e, e.captions, e.images)),
    "identity": Protocol(("identity",), lambda e, _: text_to_image(e, e.identity, e.images)),
    "clothing": Protocol(("clothing", "cloth_images"), lambda e, _: text_to_image(e, e.clothing, e.cloth_images)),
    "both": Protocol(("identity", "clothing", "cloth_images"), lambda e, w: pair_to_image(e, e.identity, w)),
    "caption_clothing": Protocol(
        ("captions", "clothing", "cloth_images"), lambda e, w: pair_to_image(e, e.captions, w)
    ),
    "composed": Protocol((*_COMPOSED, "composed_fused"), composed(fused_to_image)),
    "composed_words": Protocol(_COMPOSED, composed(lambda e, _: text_to_image(e, e.queries, e.photos))),
    "composed_photo": Protocol(_COMPOSED, composed(lambda e, _: photo_plus_text_to_image(e, 0))),
    "composed_sum": Protocol(_COMPOSED, composed(photo_plus_text_to_image)),
    "composed_pair": Protocol(
        ("looks", "clothing", "cloth_images"), composed(lambda e, w: pair_to_image(e, e.images[e.described], w))
    ),
}
SENTENCES = {  # for readers of a report
    "t2i": "Each caption searches all photos; this is the benchmarks' official protocol.",
    "i2t": "Each photo searches all captions.",
    "i2i": "Each photo searches all others, without those of its person by its own camera where cameras are known.",
    "ti2i": "Each photo, fused with its caption, searches all other photos.",
    "ti2i_photo": "A baseline of ti2i: the photos without their captions.",
    "ti2i_sum": "A baseline of ti2i: a weighted sum of each photo's and its caption's embeddings.",
    "caption": "Each whole caption searches all photos by their identity embeddings.",
    "identity": "Each identity text searches all photos by their identity embeddings.",
    "clothing": "Each clothing text searches all photos by their clothing embeddings.",
    "both": "Identity and clothing text together search all photos by both embeddings.",
    "caption_clothing": "Whole caption and clothing text together search all photos by both embeddings.",
    "composed": "A photo of a person, fused with a text of another outfit, searches for the person in that outfit.",
    "composed_words": "A baseline of composed: the texts without the photos.",
    "composed_photo": "A baseline of composed: the photos without the texts.",
    "composed_sum": "A baseline of composed: a weighted sum of each photo's and its text's embeddings.",
    "composed_pair": "A baseline of composed: the photo by its identity embedding, the text by its clothing embedding.",
}
OFFICIAL = "t2i"
SUM, COMPOSED, COMPOSED_SUM = "ti2i_sum", "composed", "composed_sum"
SUMS = {"ti2i": SUM, SUM: SUM, COMPOSED: COMPOSED_SUM, COMPOSED_SUM: COMPOSED_SUM}  # whose weight each of these has
BRANCH_WEIGHTS = tuple(i / 10 for i in range(11))  # of the identity branch
_TEXT_WEIGHTS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# Candidates for the weight of a protocol, of which val chooses one; that of `OFFICIAL` is the weight of `Ranking`.
WEIGHTS = {
    OFFICIAL: BRANCH_WEIGHTS,
    SUM: _TEXT_WEIGHTS,
    "both": BRANCH_WEIGHTS,
    "caption_clothing": BRANCH_WEIGHTS,
    COMPOSED_SUM: _TEXT_WEIGHTS,
    "composed_pair": BRANCH_WEIGHTS,
}
EVALUATORS = ("exact", "torchreid")  # see `metrics.evaluate_task`
IMAGE_QUERY_PROTOCOLS = ("i2t", "i2i")  # one query per image; in the others, one per caption


def required(protocols: Iterable[str], ranking: Ranking) -> set[str]:
    """Fields of `Embeddings` that these protocols need with this ranking, besides those of every target."""
    by_both = ranking.by == BOTH
    own = {
        "queries": ("identity_parts", "clothing_parts") if by_both else ("captions",),
        "gallery": ("cloth_images",) if by_both else (),
        "words": ("identity_words", "clothing_words") if by_both else ("clothing",),
        "looks": ("references", "looks", "gallery_looks"),
        "fused": ("fused", "identity_parts" if by_both else "captions"),
    }
    needs = (need for name in protocols for need in PROTOCOLS[name].needs)
    return {field for need in needs for field in own.get(need, (need,))}


def with_baselines(protocols: Iterable[str]) -> list[str]:
    """The names without repetition, ``ti2i`` and ``composed`` followed by their baselines."""
    groups = {"ti2i": ("photo", "sum"), COMPOSED: ("words", "photo", "sum", "pair")}
    names = ([name, *(f"{name}_{baseline}" for baseline in groups.get(name, ()))] for name in protocols)
    return list(dict.fromkeys(name for group in names for name in group))
