"""Drawn pedestrians in CUHK-PEDES's format, for the demo and the tests.

People are drawn with OpenCV from attributes drawn by lot, photographed by six pretended cameras, and
described in varied English sentences that tell only what a photo shows. What this is for: the whole way from
raw annotation files to ranked results runs on it in minutes, and training must raise the score. What it is
not: a benchmark. A score on drawn people says that the pipeline learns; it says nothing about how good a
model is on real photos.
"""

from t2ireid_plugin.synthetic.sheet import contact_sheet
from t2ireid_plugin.synthetic.write import write_synthetic

__all__ = ["contact_sheet", "write_synthetic"]
