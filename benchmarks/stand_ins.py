"""Captions that describe only one side of a person: does a text in place of the missing side help, or leaving it out?

For the test split of a run that ranks by both branches: how many captions lack an identity or a clothing phrase, and
R@1 with the stand-in of `split_caption` against `encode_query`, which leaves the side out. As few captions of drawn
people lack a side, it also reduces every fourth caption to one side.

    python -m benchmarks.stand_ins RUN [DATA_ROOT]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch

from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.engine.checks import for_testing
from t2ireid_plugin.engine.record import open_run
from t2ireid_plugin.evaluation.bootstrap import format_interval, paired_difference
from t2ireid_plugin.evaluation.embeddings import embed_target
from t2ireid_plugin.evaluation.metrics import evaluate_task
from t2ireid_plugin.evaluation.protocols import Embeddings, text_to_image
from t2ireid_plugin.modeling.instructions import split_phrases
from t2ireid_plugin.modeling.ranking import BOTH
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.utils.text import text_table

EVERY = 4
_WOMAN = re.compile(r"\b(?:woman|girl|lady|female|she|her|granny)\b", re.IGNORECASE)
# How a caption is changed; a caption that lacks the side already stays as it is.
CHANGES: dict[str, Callable[[str], str]] = {
    "as they are": lambda caption: caption,
    "clothing alone": lambda caption: split_phrases(caption)[1],  # "a red coat and black shoes"
    "clothing, with a pronoun": lambda caption: (
        f"{'She' if _WOMAN.search(caption) else 'He'} is wearing {split_phrases(caption)[1]}."
    ),
    "identity alone": lambda caption: split_phrases(caption)[0],  # "a tall man with grey hair"
}


def change(captions: Sequence[str], name: str) -> list[str]:
    """The captions, every fourth of them changed by `CHANGES`."""
    return [(i % EVERY == 0 and CHANGES[name](text)) or text for i, text in enumerate(captions)]


@torch.no_grad()
def measure(model: T2IReIDModel, e: Embeddings, captions: Sequence[str], name: str) -> list[list[str]]:
    """Rows of the table for ``captions``, in the order of the queries of ``e``."""
    phrases = np.array([[bool(part) for part in split_phrases(caption)] for caption in captions])  # [n, 2]
    identity, clothing = model.ranking.parts(captions)
    with_stand_ins = model.ranking.join(*model.encode_text([*identity, *clothing]).chunk(2))
    queries = with_stand_ins.cpu(), model.encode_query(list(captions)).cpu()  # [n, 512] each
    stand_in, left_out = (evaluate_task(text_to_image(e, each, e.gallery)) for each in queries)
    rows = []
    for side, place in (("identity", 0), ("clothing", 1)):
        lacks = np.flatnonzero(~phrases[:, place] & phrases[:, 1 - place])
        row = [name, side, str(len(lacks))]
        if len(lacks):
            people = np.isin(stand_in.query_index, lacks)
            own = [result.select(np.flatnonzero(people)) for result in (stand_in, left_out)]
            for pair in ((stand_in, left_out), own):
                found = paired_difference([pair[0]], [pair[1]])["R@1"]
                row += [f"{100 * found.a:.2f}", f"{100 * found.b:.2f}"]
                row.append(format_interval(found.value, found.low, found.high, signed=True))
        rows.append(row)
    return rows


def main(run: str, root: str = "") -> None:
    """Prints the table of a run, with 95 % intervals of the differences over people."""
    cfg, checkpoint, _ = open_run(run, None, ["data.root", root] if root else [])
    engine = build_run(for_testing(cfg), checkpoint)
    engine.set_model_mode("eval")
    if engine.model.ranking.by != BOTH:
        sys.exit(f"'{run}' ranks by whole captions, which have no sides")
    for target in cfg.data.targets:
        query, gallery = (engine.test_loader[target][side] for side in ("query", "gallery"))
        e = embed_target(engine.model, query, gallery, ["t2i"], target)
        captions = [caption for *_, caption, _, _ in query.dataset.data]
        rows = [row for name in CHANGES for row in measure(engine.model, e, change(captions, name), name)]
        header = ["every fourth caption", "lacks", "captions", *("R@1 stand-in", "left out", "difference") * 2]
        print(f"{target}: {len(captions)} captions, identity weight {engine.model.ranking.weight:g}")
        print(text_table(header, [row + [""] * (len(header) - len(row)) for row in rows], text_columns=2))
        print("The last three columns are R@1 among the captions that lack the side.")


if __name__ == "__main__":
    main(*sys.argv[1:])
