"""The README.md of an exported model: what it is, how to load it, and what ``results.json`` says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from transformers import PretrainedConfig

TEMPLATE = Path(__file__).with_name("model_card.md")
_COUNTS = ("queries", "gallery", "identities")


def model_card(name: str, model: Mapping[str, str], results: Mapping[str, Any] | None, remark: str = "") -> str:
    """The card in Markdown.

    Args:
        name: of the model.
        model: what it is made of, by property.
        results: the content of ``results.json``; where there is none the card says so.
        remark: what else is to be known of the results.
    """
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=name,
        model=_table(["part", "what"], model.items()),
        results="\n\n".join(part for part in (_results(results), remark) if part),
    )


def describe_encoder(config: PretrainedConfig) -> str:
    """Family and size of an encoder."""
    return f"{config.model_type}, layers {config.num_hidden_layers}, width {config.hidden_size}"


def _results(results: Mapping[str, Any] | None) -> str:
    if results is None:
        return "There is no `results.json` of these weights, so no figure is given."
    command = str(results["command"])
    fence = "`" * 3 if "`" * 3 not in command else "`" * 4
    made = {"seed": results.get("seed"), "revision": results.get("revision"), **results.get("versions", {})}
    return "\n\n".join(
        [
            "From the run's `results.json`. R@k, mAP and mINP are in percent; in brackets, where given, are 95 %\n"
            "intervals from a bootstrap over people.",
            _metrics(results["metrics"]),
            "Images, people and captions that were read:",
            _counts(results.get("datasets", {})),
            "All this was made by",
            f"{fence}bash\n{command}\n{fence}",
            "with " + ", ".join(f"{key} {value}" for key, value in made.items() if value is not None) + ".",
        ]
    )


def _metrics(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    groups = [(target, protocol, found) for target, group in metrics.items() for protocol, found in group.items()]
    names = list(dict.fromkeys(key for *_, found in groups for key in found if key.startswith("R@")))
    names += ["mAP", "mINP"]
    rows = [
        [target, protocol, *(_share(found, key) for key in names), *(str(found.get(key, "")) for key in _COUNTS)]
        for target, protocol, found in groups
    ]
    return _table(["set", "protocol", *names, *_COUNTS], rows)


def _share(found: Mapping[str, Any], key: str) -> str:
    if key not in found:
        return ""
    interval = found.get("interval95", {}).get(key)
    spread = " ({:.1f} to {:.1f})".format(*(100 * end for end in interval)) if interval else ""
    return f"{100 * found[key]:.2f}{spread}"


def _counts(datasets: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    kinds = ("images", "ids", "captions")
    rows = [
        [name, split, *(str(counts.get(kind, "")) for kind in kinds)]
        for name, splits in datasets.items()
        for split, counts in splits.items()
    ]
    return _table(["set", "split", *kinds], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
