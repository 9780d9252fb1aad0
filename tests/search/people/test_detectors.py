import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    DFineConfig,
    DFineForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    pipeline,
)

from t2ireid_plugin.errors import DependencyError, EncoderError
from t2ireid_plugin.search.people import Detections, find_people, load_detector
from t2ireid_plugin.search.people.detectors import TransformersDetector
from t2ireid_plugin.search.people.video import read_frames

STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "embedding_size": 8}
STAGES["out_features"] = ["stage2", "stage3", "stage4"]
HGNET = {
    "model_type": "hgnet_v2", **STAGES, "stem_channels": [3, 8, 8], "stage_in_channels": [8, 8, 8, 16],
    "stage_mid_channels": [8, 8, 8, 8], "stage_out_channels": [8, 8, 16, 16], "stage_num_blocks": [1, 1, 1, 1],
    "stage_downsample": [False, True, True, True], "stage_light_block": [False, False, True, True],
    "stage_kernel_size": [3, 3, 5, 5], "stage_numb_of_layers": [1, 1, 1, 1],
}  # fmt: skip
DETR = {
    "encoder_in_channels": [8, 16, 16], "decoder_in_channels": [32, 32, 32], "feat_strides": [8, 16, 32],
    "encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "d_model": 32, "decoder_ffn_dim": 32, "encoder_layers": 1,
    "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 20,
    "num_denoising": 0,
}  # fmt: skip


def save_detector(folder, family, labels=("person", "dog")):
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    if family == "rt_detr_v2":
        backbone = RTDetrResNetConfig(layer_type="basic", **STAGES)
        model = RTDetrV2ForObjectDetection(RTDetrV2Config(backbone_config=backbone, **DETR, **names))
    else:
        model = DFineForObjectDetection(DFineConfig(backbone_config=HGNET, **DETR, **names))
    model.save_pretrained(folder)
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family", ["rt_detr_v2", "d_fine"])
def test_a_folder_detects_as_the_librarys_pipeline(family, tmp_path):
    source = save_detector(tmp_path, family)
    image = np.random.default_rng(0).integers(0, 255, (90, 160, 3), np.uint8)
    boxes, scores = TransformersDetector(source, min_score=0.1)(image)
    results = pipeline("object-detection", model=source, threshold=0.1)(Image.fromarray(image))
    expected = [result for result in results if result["label"] == "person"]
    assert 0 < len(expected) < len(results)
    order = np.argsort(-scores, kind="stable")
    np.testing.assert_allclose(scores[order], sorted((r["score"] for r in expected), reverse=True), atol=1e-6)
    corners = sorted([*result["box"].values()] for result in expected)
    np.testing.assert_allclose(sorted(boxes.astype(int).tolist()), corners, atol=1)


def test_detectors_that_cannot_be_used_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EncoderError, match=r"detector: '\./nothing' is neither a folder"):
        load_detector("./nothing")
    with pytest.raises(EncoderError, match="has no label 'person' but cat, dog"):
        load_detector(save_detector(tmp_path / "pets", "rt_detr_v2", ("cat", "dog")))
    (tmp_path / "pets" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(EncoderError, match=r"detector: '.*pets' cannot be loaded: .+"):
        load_detector(str(tmp_path / "pets"))


def test_an_opencv_without_hog_names_the_package(monkeypatch):
    monkeypatch.delattr(cv2, "HOGDescriptor")
    with pytest.raises(DependencyError, match="opencv-contrib-python-headless"):
        load_detector("hog")


def test_boxes_of_absurd_size_or_shape_are_dropped():
    boxes = np.array([
        [10, 10, 60, 160],  # standing
        [10, 10, 110, 110],  # seated
        [10, 10, 160, 60],  # lying or a car
        [10, 10, 20, 160],  # a pole
        [10, 10, 20, 35],  # 25 pixels high
        [-50, 40, 40, 240],  # half outside: cut to what is inside
        [170, 10, 260, 190],  # outside but for a strip of 5 pixels
    ])  # fmt: skip
    people = find_people(np.zeros((200, 175, 3), np.uint8), lambda image: Detections(boxes, np.arange(7) / 10))
    assert people.boxes.tolist() == [[10, 10, 60, 160], [10, 10, 110, 110], [0, 40, 40, 200]]
    np.testing.assert_allclose(people.scores, [0, 0.1, 0.5])


def test_hog_finds_drawn_people(walkers):
    """Each of the two boxes contains the middle of one of them."""
    hog = load_detector("hog")
    boxes = find_people(next(read_frames(walkers.path, 1)).image, hog).boxes
    for left, top, right, bottom in walkers.boxes(0).values():
        x, y = (left + right) / 2, (top + bottom) / 2
        assert sum(box[0] < x < box[2] and box[1] < y < box[3] for box in boxes) == 1
    assert hog(np.zeros((50, 20, 3), np.uint8)).boxes.shape == (0, 4)  # smaller than the window
