"""Person detectors: an object detector from Hugging Face, or OpenCV's HOG detector, which needs no download."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from t2ireid_plugin.data.images import Pixels
from t2ireid_plugin.errors import DependencyError, EncoderError
from t2ireid_plugin.utils.text import first_line

Boxes = npt.NDArray[np.float32]  # [N, 4]: left, top, right and bottom in pixels

# What a crop must have to show a person whom the encoder can describe; seated people are about as wide as tall.
_MIN_HEIGHT = 32  # pixels
_ASPECT = 0.9, 6.0  # height / width


class Detections(NamedTuple):
    """People in one image."""

    boxes: Boxes  # [N, 4]
    scores: npt.NDArray[np.float32]  # [N], above 0; comparable within one detector only


Detector: TypeAlias = Callable[[Pixels], Detections]


def load_detector(source: str) -> Detector:
    """A detector by its name on the command line.

    Args:
        source: folder or hub id of an object-detection model, or ``hog``.

    Raises:
        EncoderError: when the model is missing, damaged, or has no label "person".
        DependencyError: for ``hog``, when the installed OpenCV lacks it.
    """
    return HogDetector() if source == "hog" else TransformersDetector(source)


def find_people(image: Pixels, detect: Detector) -> Detections:
    """Detections within the image, without those too small or of a shape that no person has.

    Args:
        image: uint8 [H, W, 3] RGB.
        detect: any detector.
    """
    boxes, scores = detect(image)
    height, width = image.shape[:2]
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4).clip(0, (width, height, width, height))
    sizes = boxes[:, 2:] - boxes[:, :2]  # [N, 2]: width, height
    low, high = _ASPECT
    tall = (sizes[:, 1] >= low * sizes[:, 0]) & (sizes[:, 1] <= high * sizes[:, 0])
    keep = tall & (sizes[:, 1] >= _MIN_HEIGHT)
    return Detections(boxes[keep], np.asarray(scores, np.float32).reshape(-1)[keep])


class TransformersDetector:
    """An object-detection model of transformers, such as RT-DETRv2 or D-FINE; on a GPU where there is one.

    Args:
        source: folder or hub id.
        min_score: of a detection.

    Raises:
        EncoderError: when the model is missing, damaged, or has no label "person".
    """

    def __init__(self, source: str, min_score: float = 0.5) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        from t2ireid_plugin.modeling.encoders.loading import find_file, find_folder, quiet_loading

        if find_file(source, "config.json", download=True) is None:
            raise EncoderError(
                f"detector: '{source}' is neither a folder with config.json, nor cached, nor a model that the Hugging "
                "Face hub serves from here; name the folder or id of an object detector, such as "
                "PekingU/rtdetr_v2_r18vd, or use hog, which needs no download"
            )
        folder = find_folder(source)
        options = {"local_files_only": folder is not None, "trust_remote_code": False}
        try:
            with quiet_loading():
                self._process = AutoImageProcessor.from_pretrained(str(folder or source), **options)
                model, info = AutoModelForObjectDetection.from_pretrained(
                    str(folder or source), output_loading_info=True, **options
                )
        except Exception as error:  # damaged files raise anything
            raise EncoderError(f"detector: '{source}' cannot be loaded: {first_line(error)}") from error
        if info["missing_keys"]:
            raise EncoderError(f"detector: the weights in '{source}' lack {sorted(info['missing_keys'])[0]}, …")
        labels = model.config.id2label
        self._person = [number for number, label in labels.items() if label.lower() == "person"]
        if not self._person:
            known = ", ".join(list(labels.values())[:5])
            raise EncoderError(f"detector: '{source}' has no label 'person' but {known}, …; use one trained on COCO")
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.eval().to(self._device)
        self._min_score = min_score

    def __call__(self, image: Pixels) -> Detections:
        """People in an image uint8 [H, W, 3] RGB."""
        import torch

        inputs = self._process(images=image, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            outputs = self._model(**inputs)
        (found,) = self._process.post_process_object_detection(
            outputs, threshold=self._min_score, target_sizes=[image.shape[:2]]
        )
        person = torch.isin(found["labels"].cpu(), torch.tensor(self._person))
        return Detections(found["boxes"].cpu()[person].numpy(), found["scores"].cpu()[person].numpy())


class HogDetector:
    """OpenCV's pedestrian detector, Dalal and Triggs: Histograms of Oriented Gradients for Human Detection, CVPR 2005.

    It finds people who stand or walk, from about a ninth of the image's height.

    Args:
        min_score: smallest distance from the classifier's boundary.

    Raises:
        DependencyError: when the installed OpenCV lacks it.
    """

    # The classifier's window is 128 pixels high and its people 96, so this decides who is too small.
    _WORKING_HEIGHT = 864
    # A window has a margin around the person; the shares are those of OpenCV's example peopledetect.py.
    _MARGIN = np.array([0.15, 0.05, -0.15, -0.05], np.float32)

    def __init__(self, min_score: float = 0.7) -> None:
        if not hasattr(cv2, "HOGDescriptor"):
            raise DependencyError(
                f"detector: hog is not part of the installed OpenCV {cv2.__version__}; uninstall every opencv package "
                "and install opencv-contrib-python-headless, or name the folder of an object detector"
            )
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())
        self._min_score = min_score

    def __call__(self, image: Pixels) -> Detections:
        """People in an image uint8 [H, W, 3] RGB."""
        scale = min(2.0, self._WORKING_HEIGHT / image.shape[0])
        scaled = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else 1)
        if min(scaled.shape[0] // 128, scaled.shape[1] // 64) < 1:
            return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32))
        found, weights = self._hog.detectMultiScale(scaled, winStride=(8, 8), padding=(8, 8), scale=1.05)
        windows = np.array(found, np.float32).reshape(-1, 4) / scale  # left, top, width, height
        corners = np.hstack([windows[:, :2], windows[:, :2] + windows[:, 2:]])
        boxes = corners + np.tile(windows[:, 2:], 2) * self._MARGIN
        scores = np.array(weights, np.float32).reshape(-1)
        keep = [i for i in _without_nested(boxes, scores) if scores[i] >= self._min_score]
        return Detections(boxes[keep], scores[keep])


def _without_nested(boxes: Boxes, scores: npt.NDArray[np.float32], share: float = 0.65) -> list[int]:
    """Numbers of the boxes that do not share most of the smaller area with a surer box, best first."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)  # [N]
    keep: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        corners = np.minimum(boxes[keep, 2:], boxes[i, 2:]) - np.maximum(boxes[keep, :2], boxes[i, :2])
        common = corners.clip(0).prod(axis=1)  # with each kept box
        if (common <= share * np.minimum(areas[keep], areas[i])).all():
            keep.append(int(i))
    return keep
