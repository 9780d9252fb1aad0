"""The command line in double precision and without dropout, so that two ways to compute the same can be compared."""

import sys

import torch
from torch import nn

from t2ireid_plugin.cli import main
from t2ireid_plugin.engine import build

build_model = build.build_model


def remove_dropout(model):
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    return model


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    build.build_model = lambda *arguments: remove_dropout(build_model(*arguments))
    sys.exit(main(sys.argv[1:]))
