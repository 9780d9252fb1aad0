"""RDE's second embedding for the tiny CLIP of irra_weights: settings, weights and a batch, the same wherever made."""

import numpy as np
from parity import irra_weights as tiny

DIM, RATIO, TAU, MARGIN, LABELS = 32, 0.3, 0.015, 0.1, [1, 0, 1, 1]


def shapes():
    """Names and shapes of the authors' layers, those without a use included."""
    names = {}
    for layer, linears in (("visul_emb_layer", ("linear", "fc")), ("texual_emb_layer", ("linear",))):
        sizes = dict.fromkeys(linears, (DIM, tiny.WIDTH))
        sizes |= {"mlp.layers.0": (DIM // 2, tiny.WIDTH), "mlp.layers.1": (DIM, DIM // 2)}
        for name, (out, into) in sizes.items():
            names |= {f"{layer}.{name}.weight": (out, into), f"{layer}.{name}.bias": (out,)}
        for name, width in (("mlp.bns.0", DIM // 2), ("mlp.bns.1", DIM)):
            names |= {f"{layer}.{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return names


def weights():
    """Arrays by name."""
    arrays = {name: tiny.random(name, shape, 0.2) for name, shape in shapes().items()}
    return {name: abs(array) + 0.5 if name.endswith("running_var") else array for name, array in arrays.items()}


def batch(short):
    """Images and captions; one of them has fewer words than are selected where ``short``."""
    images, tokens, _ = tiny.batch()
    tokens[tokens == tiny.VOCAB - 3] = 7  # no hidden words
    if short:
        tokens[2, 3], tokens[2, 4:] = tiny.VOCAB - 1, 0
    return images, tokens


def losses():
    """Losses of 300 pairs by two embeddings, of which a third of the pairs are noise to both, and some to one."""
    chance = np.random.RandomState(3)
    level = np.repeat([[0.05, 0.05], [0.8, 0.8], [0.05, 0.8]], [180, 100, 20], axis=0)
    return (level * chance.gamma(4.0, 0.3, level.shape)).astype(np.float32)
