"""A tiny CLIP in OpenAI's layout and IRRA's heads: settings, weights and a batch, the same wherever they are made."""

import zlib

import numpy as np

WIDTH, LAYERS, PATCH, VOCAB, CONTEXT, CLASSES, BLOCKS = 64, 2, 8, 60, 12, 5, 2  # authors' heads have a width of 64
HEIGHT, IMAGE_WIDTH, STRIDE, GRID = 32, 16, 4, 3  # a grid of 3 x 3 positions becomes one of 7 x 3
PIDS = [0, 1, 0, 4]
MERGES = ["i n", "a n</w>", "m an</w>", "c o", "a t</w>"]
MERGES += ["j k"]  # the authors' tokenizer has the mask in place of the last one, so texts must not need it
TEXTS = (
    "A woman in a RED coat,  jeans and the man's hat.",
    "the man’s coat – “tan” – cost 25€ at the inn…",
    "a manâ€™s cafÃ© apron",
    "coat &amp; hat, &amp;quot;tan&amp;quot;, &lt;b&gt; 10&#39;",
    " a\tcoat\n and ａ ﬁne na\u0131ve cafe\u0301 ☕ \u200b",
    "<p>a & b; don't, we'll; 100% café</p>",
)  # as annotations have them: quotation marks, broken encodings, HTML entities, wide letters


def random(name, shape, scale=1.0):
    """Values that depend on the name alone; NumPy keeps the stream of `RandomState` for ever."""
    return scale * np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def block(prefix):
    """Names and shapes of a residual block of CLIP."""
    yield from ((f"{prefix}.attn.in_proj_weight", (3 * WIDTH, WIDTH)), (f"{prefix}.attn.in_proj_bias", (3 * WIDTH,)))
    linears = ("attn.out_proj", WIDTH, WIDTH), ("mlp.c_fc", 4 * WIDTH, WIDTH), ("mlp.c_proj", WIDTH, 4 * WIDTH)
    for name, out, into in linears:
        yield from ((f"{prefix}.{name}.weight", (out, into)), (f"{prefix}.{name}.bias", (out,)))
    for name in ("ln_1", "ln_2"):
        yield from ((f"{prefix}.{name}.weight", (WIDTH,)), (f"{prefix}.{name}.bias", (WIDTH,)))


def shapes(grid=(GRID, GRID)):
    """Names and shapes of CLIP, then those of IRRA's heads."""
    clip = {
        "visual.class_embedding": (WIDTH,),
        "visual.positional_embedding": (1 + grid[0] * grid[1], WIDTH),
        "visual.proj": (WIDTH, WIDTH),
        "visual.conv1.weight": (WIDTH, 3, PATCH, PATCH),
        "text_projection": (WIDTH, WIDTH),
        "positional_embedding": (CONTEXT, WIDTH),
        "token_embedding.weight": (VOCAB, WIDTH),
    }
    for name in ("visual.ln_pre", "visual.ln_post", "ln_final"):
        clip |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    for i in range(LAYERS):
        clip |= dict(block(f"visual.transformer.resblocks.{i}")) | dict(block(f"transformer.resblocks.{i}"))
    heads = {"cross_attn.in_proj_weight": (3 * WIDTH, WIDTH), "cross_attn.in_proj_bias": (3 * WIDTH,)}
    linears = ("cross_attn.out_proj", WIDTH), ("mlm_head.dense", WIDTH), ("mlm_head.fc", VOCAB), ("classifier", CLASSES)
    for name, out in linears:
        heads |= {f"{name}.weight": (out, WIDTH), f"{name}.bias": (out,)}
    for name in ("ln_pre_t", "ln_pre_i", "ln_post", "mlm_head.ln"):
        heads |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    for i in range(BLOCKS):
        heads |= dict(block(f"cross_modal_transformer.resblocks.{i}"))
    return clip, heads


def weights(names):
    """Arrays by name: norms around one, the rest small."""
    norms = ("ln_1.weight", "ln_2.weight", "ln_pre.weight", "ln_post.weight", "ln_final.weight", "ln.weight")
    norms += ("ln_pre_t.weight", "ln_pre_i.weight")
    return {name: random(name, shape, 0.2) + name.endswith(norms) for name, shape in names.items()}


def batch():
    """Images, captions with hidden words, and their labels (0: not hidden)."""
    tokens = np.random.RandomState(0).randint(1, VOCAB - 3, (len(PIDS), CONTEXT))
    labels = np.zeros_like(tokens)
    for row, length in enumerate((CONTEXT, 7, 5, 9)):
        tokens[row, 0], tokens[row, length - 1], tokens[row, length:] = VOCAB - 2, VOCAB - 1, 0
        labels[row, 2], tokens[row, 2] = tokens[row, 2], VOCAB - 3
    return random("images", (len(PIDS), 3, HEIGHT, IMAGE_WIDTH)), tokens, labels
