"""People in photos and videos: detection, tracking, and the crops to index; knows nothing of the index."""

from t2ireid_plugin.search.people.detectors import Detections, Detector, find_people, load_detector
from t2ireid_plugin.search.people.video import PersonEntry, VideoPart, parse_start, people_in_video

__all__ = [
    "Detections",
    "Detector",
    "PersonEntry",
    "VideoPart",
    "find_people",
    "load_detector",
    "parse_start",
    "people_in_video",
]
