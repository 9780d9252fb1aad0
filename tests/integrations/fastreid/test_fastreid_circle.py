"""A checkpoint through Hugging Face, FastReID, our engine and torchreid in turn."""

import torch
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import Checkpointer

from t2ireid_plugin.integrations.fastreid.checkpointer import T2IReIDCheckpointer
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.modeling.encoders.tokenizer import tokenizer_to_json
from t2ireid_plugin.modeling.stored import read_stored

TEXTS = ["A man in a red coat.", "A woman with long hair and a blue dress carries a bag."]


def test_a_checkpoint_passes_through_all_four_frameworks(circle, make_cfg, text_image_yaml, tmp_path):
    def fastreid(weights, folder):
        """Loads, checks, and saves with FastReID's Checkpointer and, as our trainer does, vocabulary and ranking."""
        words = ("MODEL.WEIGHTS", str(weights), "MODEL.HEADS.NUM_CLASSES", "24", "T2IREID.ID_INSTRUCTION", "caption")
        arch = build_model(make_cfg(text_image_yaml, *words))
        T2IReIDCheckpointer(arch).load(str(weights))
        with torch.no_grad():
            circle.check(arch.eval()({"images": circle.pixels}), arch({"captions": TEXTS}))
        ranking = read_stored(Checkpoint.read(weights)).ranking._asdict()
        vocabulary = tokenizer_to_json(arch.backbone.text_cache.tokenizer)
        Checkpointer(arch, str(folder)).save("model_final", tokenizer=vocabulary, ranking=ranking)
        return folder / "model_final.pth"

    weights = circle.start
    for station in (circle.hugging_face, fastreid, circle.our_engine, circle.torchreid):
        folder = tmp_path / station.__name__
        folder.mkdir()
        weights = station(weights, folder)
    circle.check(circle.embed(circle.our_model(weights)).images)
