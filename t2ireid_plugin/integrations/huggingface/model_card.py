"""Model card (README.md) of an exported model: its parts, how to load it, and the run's results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from transformers import PretrainedConfig

from t2ireid_plugin.utils.text import markdown_table

TEMPLATE = Path(__file__).with_name("model_card.md")
_COUNTS = ("queries", "gallery", "identities")


def model_card(name: str, parts: Mapping[str, str], results: Mapping[str, Any] | None, remark: str = "") -> str:
    """The card in Markdown.

    Args:
        name: of the model.
        parts: descriptions of the model's parts and settings.
        results: the content of ``results.json``; None if there is none.
        remark: a sentence on the results.
    """
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        name=name,
        model="\n".join(f"- {part}: {description}" for part, description in parts.items()),
        results="\n\n".join(text for text in (_results(results), remark) if text),
    )


def describe_encoder(config: PretrainedConfig) -> str:
    """Family and size of an encoder."""
    kind = getattr(config, "architecture", None) or config.model_type
    layers = f", {config.num_hidden_layers} layers" if hasattr(config, "num_hidden_layers") else ""
    width = getattr(config, "hidden_size", None) or config.hidden_sizes[-1]
    return f"{kind}{layers}, width {width}"


def _results(results: Mapping[str, Any] | None) -> str:
    if results is None:
        return "No results are available for these weights."
    versions = {"seed": results.get("seed"), "revision": results.get("revision"), **results.get("versions", {})}
    return "\n\n".join(
        [
            "From the run's `results.json`. R@k, mAP and mINP are in percent; 95 % intervals, where available, are in\n"
            "brackets and come from a bootstrap over identities.",
            _metrics(results["metrics"]),
            "Dataset sizes:",
            _counts(results.get("datasets", {})),
            "Command:",
            f"```bash\n{results['command']}\n```",
            ", ".join(f"{key} {value}" for key, value in versions.items() if value is not None) + ".",
        ]
    )


def _metrics(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    groups = [(target, protocol, metrics) for target, by in results.items() for protocol, metrics in by.items()]
    names = [*dict.fromkeys(key for *_, metrics in groups for key in metrics if key.startswith("R@")), "mAP", "mINP"]
    rows = [
        [target, protocol, *(_percent(metrics, key) for key in names), *(str(metrics.get(key, "")) for key in _COUNTS)]
        for target, protocol, metrics in groups
    ]
    return markdown_table(["dataset", "protocol", *names, *_COUNTS], rows)


def _percent(metrics: Mapping[str, Any], key: str) -> str:
    if key not in metrics:
        return ""
    interval = metrics.get("interval95", {}).get(key)
    spread = " ({:.1f} to {:.1f})".format(*(100 * end for end in interval)) if interval else ""
    return f"{100 * metrics[key]:.2f}{spread}"


def _counts(datasets: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    kinds = ("images", "ids", "captions")
    rows = [
        [name, split, *(str(counts.get(kind, "")) for kind in kinds)]
        for name, splits in datasets.items()
        for split, counts in splits.items()
    ]
    return markdown_table(["dataset", "split", *kinds], rows)
