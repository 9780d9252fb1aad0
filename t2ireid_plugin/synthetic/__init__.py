"""Drawn pedestrians in CUHK-PEDES's format, for the demo and the tests.

People are drawn with OpenCV from random attributes, photographed by six simulated cameras, and described in varied
sentences, English or Chinese, that mention only what a photo shows. The whole way from raw annotation files to ranked
results runs on them in minutes. These are drawings, not photographs: a score on them shows that the pipeline learns,
and says nothing about a model's quality on real photos.
"""

from t2ireid_plugin.synthetic.write import write_synthetic

__all__ = ["write_synthetic"]
