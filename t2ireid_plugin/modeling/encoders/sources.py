"""Names of image models in other libraries, ``LIBRARY:NAME``; without PyTorch, so that they are checked at once."""

from __future__ import annotations

import importlib.util

from t2ireid_plugin.errors import EncoderError, check_choice

LIBRARIES = ("torchreid", "timm")
# Models of torchreid's with one feature map before their pooling (`featuremaps`).
TORCHREID_MODELS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
    *("se_resnet50", "se_resnet101", "se_resnext50_32x4d", "se_resnext101_32x4d", "resnet50_ibn_a", "resnet50_ibn_b"),
    *("xception", "mobilenetv2_x1_0", "mobilenetv2_x1_4"),
    *("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    *("osnet_x1_0", "osnet_x0_75", "osnet_x0_5", "osnet_x0_25", "osnet_ibn_x1_0"),
    *("osnet_ain_x1_0", "osnet_ain_x0_75", "osnet_ain_x0_5", "osnet_ain_x0_25"),
)


def library_model(source: object) -> tuple[str, str] | None:
    """Library and name of the source ``LIBRARY:NAME``; None for a folder, a hub id or a configuration."""
    library, colon, name = source.partition(":") if isinstance(source, str) else ("", "", "")
    return (library, name) if colon and library in LIBRARIES else None


def check_library_model(library: str, name: str) -> None:
    """Checks early what is known without importing the library.

    Raises:
        ConfigError: for a name that torchreid does not have.
        EncoderError: when timm is not installed.
    """
    if library == "torchreid":
        check_choice("torchreid", name, TORCHREID_MODELS)
    elif importlib.util.find_spec(library) is None:
        raise EncoderError(f"{library}:{name} needs the package {library}: pip install {library}")
