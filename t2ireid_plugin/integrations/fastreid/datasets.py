"""The benchmarks as datasets of FastReID, with torchreid's names, such as ``cuhkpedes`` and ``cuhkpedes_val``."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

from t2ireid_plugin.data.benchmarks import BENCHMARKS, VAL_SUFFIX, BenchmarkSpec
from t2ireid_plugin.data.dataset import CaptionDataset
from t2ireid_plugin.errors import ConfigError


class FastReIDCaptions(ImageDataset):
    """A benchmark as a dataset of FastReID.

    ``captions`` is the `CaptionDataset`, for `loaders`. ``train`` are its training images ``(path, pid, camid)``, with
    which FastReID's own loader trains a model on images alone.

    Args:
        root: the folder that contains the benchmark's folder.
        val_share, val_seed: see `CaptionDataset`.
        **kwargs: FastReID's.

    Raises:
        DataError: as `CaptionDataset`.
        ConfigError: on access to ``query`` or ``gallery``, as the queries are texts.
    """

    spec: ClassVar[BenchmarkSpec]
    eval_split: ClassVar[str]

    def __init__(self, root: str = "datasets", val_share: float = 0.0, val_seed: int = 0, **kwargs: Any) -> None:
        self.captions = CaptionDataset(
            root,
            spec=self.spec,
            eval_split=self.eval_split,
            val_share=val_share,
            val_seed=val_seed,
            combineall=kwargs.get("combineall", False),
            verbose=False,
        )
        super().__init__(self._photos, self._refuse, self._refuse, **kwargs)

    def _photos(self) -> list[tuple[str, str, str]]:
        name = self.spec.name
        photos = {(path, f"{name}_{pid}", f"{name}_{camid}") for path, pid, camid, *_ in self.captions.train}
        return sorted(photos)

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            f"DATASETS.TESTS: the queries of {type(self).__name__} are texts, which need MODEL.META_ARCHITECTURE "
            "T2IReIDBaseline and tools/train_fastreid.py"
        )


for _spec in BENCHMARKS.values():
    for _name, _split in ((_spec.name, "test"), (_spec.name + VAL_SUFFIX, "val")):
        DATASET_REGISTRY.register(type(_name, (FastReIDCaptions,), {"spec": _spec, "eval_split": _split}))
