"""Retrieval across outfits: queries whose matches wear other clothes.

This is the clothes-changing setting of LTCC (Qian et al. 2020, https://arxiv.org/abs/2005.12633): gallery images of the
query's identity in the query's outfit are excluded. PRCC (Yang et al. 2020, https://arxiv.org/abs/2002.02295) has the
same by its choice of cameras. Other people in similar clothes stay in the gallery, so clothes can only mislead. It is
torchreid's camera filter with the outfit's number as the camera. LTCC's common implementations also exclude images of
the identity by the query's camera; each photo of a drawn person has its own camera, up to six of them.
"""

from __future__ import annotations

import numpy as np

from t2ireid_plugin.evaluation.protocols import Embeddings, Labels, RetrievalTask, text_to_image


def outfit_tasks(e: Embeddings, outfits: Labels) -> dict[str, RetrievalTask]:
    """Image and identity-text queries for images in any outfit and in other outfits than the query's photo.

    Args:
        e: with identity texts.
        outfits: of the images ``[m]``.
    """
    photos = np.arange(len(e.images))  # as cameras: exclude only the query itself
    by_text = text_to_image(e, e.identity, e.images)
    return {
        "i2i_any_outfit": RetrievalTask(e.images, e.images, e.pids, e.pids, photos, photos),
        "i2i_other_outfit": RetrievalTask(e.images, e.images, e.pids, e.pids, outfits, outfits),
        "identity_any_outfit": by_text,
        "identity_other_outfit": by_text._replace(q_camids=outfits[e.described], g_camids=outfits),
    }
