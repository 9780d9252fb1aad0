"""Retrieval across outfits: who asks for a person finds this person in other clothes, or nobody.

This is the clothes-changing setting of LTCC (Qian et al. 2020, https://arxiv.org/abs/2005.12633): gallery images of the
query's identity in the query's outfit are left out. PRCC (Yang et al. 2020, https://arxiv.org/abs/2002.02295) has the
same by its choice of cameras. Of others in similar clothes nobody is left out, so clothes can only mislead. It is
torchreid's camera filter with the number of the outfit for a camera. LTCC's common implementations leave out images of
the identity by the query's camera as well; drawn people have each photo by another camera, up to six of them.
"""

from __future__ import annotations

import numpy as np

from t2ireid_plugin.evaluation.protocols import Embeddings, Labels, RetrievalTask, identity_to_image


def image_across_outfits(e: Embeddings, outfits: Labels) -> RetrievalTask:
    """Images find images of the person in other outfits; ``outfits [m]`` are the images'."""
    return RetrievalTask(e.images, e.images, e.pids, e.pids, outfits, outfits)


def identity_across_outfits(e: Embeddings, outfits: Labels) -> RetrievalTask:
    """Identity texts find images of the person in other outfits than on the photo that they were written for."""
    return identity_to_image(e)._replace(q_camids=outfits[e.described], g_camids=outfits)


def outfit_comparisons(e: Embeddings, outfits: Labels) -> dict[str, RetrievalTask]:
    """Both, and beside each the same queries in search of any outfit; ``e`` has identity texts."""
    photos = np.arange(len(e.images))  # an image is not to find itself
    return {
        "i2i_any_outfit": image_across_outfits(e, photos),
        "i2i_other_outfit": image_across_outfits(e, outfits),
        "identity_any_outfit": identity_to_image(e),
        "identity_other_outfit": identity_across_outfits(e, outfits),
    }
