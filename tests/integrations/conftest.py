"""A checkpoint that passes through the frameworks."""

import json
from types import SimpleNamespace

import pytest
import torch
from torchreid import data, engine, models, optim
from transformers import AutoModel

import t2ireid_plugin.integrations.huggingface  # noqa: F401  (makes the model known to AutoModel)
from t2ireid_plugin import register_model_variant
from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg, to_dict
from t2ireid_plugin.engine import build
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.modeling.stored import read_stored

TEXTS = ["A man in a red coat.", "A woman with long hair and a blue dress carries a bag."]


@pytest.fixture(scope="module")
def circle(tiny_run, reid_data):
    """Methods that each load a checkpoint, compare its embeddings with the run's, and save another one."""
    return Circle(tiny_run, reid_data)


class Circle:
    """Each method takes a checkpoint and an empty folder, and returns its own checkpoint."""

    def __init__(self, tiny_run, reid_data):
        self.run, self.reid_data = tiny_run, reid_data
        self.start = tiny_run.folder / "best.pth"
        generator = torch.Generator().manual_seed(5)
        self.pixels = 255 * torch.rand(3, 3, 32, 16, generator=generator)  # FastReID's input
        self.images = self.pixels / 127.5 - 1
        self.expected = self.embed(self.our_model(self.start))

    def our_model(self, weights):
        """The model of `t2ireid test`."""
        cfg = load_cfg(self.run.folder / "config.yaml")
        return build.build_model(cfg, read_stored(Checkpoint.read(self.start)).tokenizer, 24).load_param(weights).eval()

    @torch.no_grad()
    def embed(self, model):
        return SimpleNamespace(images=model.encode_image(self.images), texts=model.encode_text(TEXTS))

    def check(self, images, texts=None):
        torch.testing.assert_close(images, self.expected.images, rtol=0, atol=1e-5)
        if texts is not None:
            torch.testing.assert_close(texts, self.expected.texts, rtol=0, atol=1e-5)

    def hugging_face(self, _, folder):
        """Exports, loads and saves with transformers."""
        assert main(["export", str(self.run.folder), str(folder / "exported")]) == 0
        model = AutoModel.from_pretrained(folder / "exported").eval()
        self.check(**vars(self.embed(model)))
        model.save_pretrained(folder / "saved")
        return folder / "saved" / "model.safetensors"

    def our_engine(self, weights, folder):
        """Evaluates with `t2ireid test`; the metrics are the run's."""
        assert main(["test", *self.run.words, "model.load_weights", str(weights), "data.save_dir", str(folder)]) == 0
        results = json.loads((folder / "test" / "cuhkpedes" / "results.json").read_text())
        metrics = results["metrics"]["cuhkpedes"]["t2i"]
        expected = self.run.results["metrics"]["cuhkpedes"]["t2i"]
        assert {name: metrics[name] for name in ("R@1", "mAP")} == {name: expected[name] for name in ("R@1", "mAP")}
        self.check(**vars(self.embed(self.our_model(weights))))
        return weights

    def torchreid(self, weights, folder):
        """Evaluates and saves the image branch with torchreid's engine."""
        cfg = load_cfg(self.run.folder / "config.yaml")
        register_model_variant("circle", vit_pretrained=to_dict(cfg.model.vit_config))
        model = models.build_model("circle", num_classes=24, pretrained=False, use_gpu=False)
        model.load_param(weights)
        manager = data.ImageDataManager(
            root=str(self.reid_data),
            sources="market1501",
            height=32,
            width=16,
            norm_mean=[0.5] * 3,
            norm_std=[0.5] * 3,
            batch_size_train=24,
            workers=0,
            use_gpu=False,
        )
        optimizer = optim.build_optimizer(model)
        scheduler = optim.build_lr_scheduler(optimizer)
        trainer = engine.ImageSoftmaxEngine(manager, model, optimizer, scheduler=scheduler, use_gpu=False)
        trainer.run(test_only=True, save_dir=str(folder))
        with torch.no_grad():
            self.check(model.eval()(self.images))
        trainer.save_model(0, 0.0, str(folder))
        return folder / "model" / "model.pth.tar-1"
