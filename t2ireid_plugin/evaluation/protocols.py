"""The retrieval protocols: queries, gallery, and gallery entries excluded for each query.

==========  =============================  =======================================  ==================================
name        query                          gallery                                  excluded from a query's gallery
==========  =============================  =======================================  ==================================
t2i         each caption                   each image                               nothing: the described photo counts
i2t         each image                     each caption                             nothing: its own captions count
i2i         each image                     each image                               itself; where cameras are known all
                                                                                    of the person by that camera
ti2i        each image with a caption      each image, encoded without any text     the query's own photo
ti2i_photo  the photos of ti2i, alone      as ti2i                                  as ti2i
ti2i_sum    photo + text weight x caption  as ti2i                                  as ti2i
identity    each identity text             each image                               nothing
clothing    each clothing text             each image, by its clothing              nothing
both        identity and clothing text     each image, by both                      nothing
==========  =============================  =======================================  ==================================

The names are the choices of ``test.protocols``; t2i is the benchmarks' official protocol. A match is an equal identity.
Gallery images are never fused with their captions, which would leak the answers. i2i is torchreid's protocol with every
image as a query. A text has no camera: with its photo's, torchreid's filter would exclude the described photo.

``ti2i_photo`` and ``ti2i_sum`` are the baselines of ``ti2i``, reported beside it: the photo's embedding without the
caption, and ``normalize(photo + weight * caption)`` with a weight chosen on val.

An identity and a clothing text together are scored ``w cos(image, identity text) + (1 - w) cos(image's clothing,
clothing text)``, which is the cosine of both embeddings concatenated, each scaled by the root of its weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Labels = npt.NDArray[np.int64]


class Embeddings(NamedTuple):
    """Embeddings of one target, of unit norm; None for those that no protocol needs. ``n`` captions, ``m`` images."""

    images: Tensor  # [m, D]
    pids: Labels  # [m]
    camids: Labels  # [m]
    described: Labels  # [n] position of the image that each caption was written for
    captions: Any = None  # [n, D]
    identity: Any = None  # [n, D]
    clothing: Any = None  # [n, D]
    cloth_images: Any = None  # [m, D]
    fused: Any = None  # [n, D] image and caption


class RetrievalTask(NamedTuple):
    """Queries and gallery to rank.

    Gallery entries of a query's pid and camid are excluded, as in torchreid's evaluator.
    """

    queries: Tensor  # [q, D]
    gallery: Tensor  # [g, D]
    q_pids: Labels  # [q]
    g_pids: Labels  # [g]
    q_camids: Labels  # [q]
    g_camids: Labels  # [g]


class Protocol(NamedTuple):
    """One protocol."""

    needs: tuple[str, ...]  # fields of `Embeddings`
    build_task: Callable[[Embeddings, float], RetrievalTask]  # the number is the weight of ``both`` or ``ti2i_sum``


_NO_CAMERA = -1  # a camera that no gallery entry has, so it excludes none


def text_to_image(e: Embeddings, texts: Tensor, images: Tensor) -> RetrievalTask:
    """Embeddings of texts ``[n, D]`` as queries, of images ``[m, D]`` as gallery."""
    return RetrievalTask(texts, images, e.pids[e.described], e.pids, np.full(len(texts), _NO_CAMERA), e.camids)


def image_to_text(e: Embeddings, _weight: float) -> RetrievalTask:
    """Images as queries, captions as gallery."""
    pids = e.pids[e.described]
    return RetrievalTask(e.images, e.captions, e.pids, pids, np.full(len(e.images), _NO_CAMERA), np.zeros_like(pids))


def image_to_image(e: Embeddings, _weight: float) -> RetrievalTask:
    """Images on both sides; positives are by other cameras, or where cameras are unknown all other images."""
    cameras = e.camids if len(np.unique(e.camids)) > 1 else np.arange(len(e.images))
    return RetrievalTask(e.images, e.images, e.pids, e.pids, cameras, cameras)


def image_and_text_to_image(e: Embeddings, _weight: float) -> RetrievalTask:
    """Images fused with a caption as queries, images as gallery; excludes only the query's own photo."""
    photos = np.arange(len(e.images))
    return RetrievalTask(e.fused, e.images, e.pids[e.described], e.pids, e.described, photos)


def photo_plus_text_to_image(e: Embeddings, weight: float) -> RetrievalTask:
    """As `image_and_text_to_image`, with ``normalize(photo + weight * caption)`` in place of the fused embedding."""
    sums = e.images[e.described] + weight * e.captions
    return image_and_text_to_image(e._replace(fused=sums / sums.norm(dim=1, keepdim=True)), weight)


def both_to_image(e: Embeddings, weight: float) -> RetrievalTask:
    """Identity and clothing text together as queries, ``weight`` on identity; both embeddings of images as gallery."""
    import torch  # here, as names are checked before PyTorch is imported

    roots = weight**0.5, (1 - weight) ** 0.5
    queries = torch.cat([roots[0] * e.identity, roots[1] * e.clothing], dim=1)
    gallery = torch.cat([roots[0] * e.images, roots[1] * e.cloth_images], dim=1)
    return text_to_image(e, queries, gallery)


PROTOCOLS: dict[str, Protocol] = {
    "t2i": Protocol(("captions",), lambda e, _: text_to_image(e, e.captions, e.images)),
    "i2t": Protocol(("captions",), image_to_text),
    "i2i": Protocol((), image_to_image),
    "ti2i": Protocol(("captions", "fused"), image_and_text_to_image),
    "ti2i_photo": Protocol(("captions",), lambda e, _: photo_plus_text_to_image(e, 0)),
    "ti2i_sum": Protocol(("captions",), photo_plus_text_to_image),
    "identity": Protocol(("identity",), lambda e, _: text_to_image(e, e.identity, e.images)),
    "clothing": Protocol(("clothing", "cloth_images"), lambda e, _: text_to_image(e, e.clothing, e.cloth_images)),
    "both": Protocol(("identity", "clothing", "cloth_images"), both_to_image),
}
OFFICIAL = "t2i"
SUM = "ti2i_sum"
TEXT_WEIGHTS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the caption in `SUM`; val chooses one of them
EVALUATORS = ("exact", "torchreid")  # see `metrics.evaluate_task`
IMAGE_QUERY_PROTOCOLS = ("i2t", "i2i")  # one query per image; in the others, one per caption


def with_baselines(protocols: Iterable[str]) -> list[str]:
    """The names without repetition, ``ti2i`` followed by its baselines."""
    groups = ((name, "ti2i_photo", SUM) if name == "ti2i" else (name,) for name in protocols)
    return list(dict.fromkeys(name for group in groups for name in group))
