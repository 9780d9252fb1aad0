"""Weights that are not needed for a while, kept in a file from which they come back by themselves."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn


class Parking:
    """Moves a module's weights on the CPU into a file that is mapped into memory, under the same parameters.

    Whoever reads or writes a weight finds it there as before; the system loads its page and may drop it again, and
    `release` drops all of them. The file has no name, so that nothing is left of it when the process ends.

    Args:
        module: its parameters stay the objects that they are, their data moves.
        folder: on the disk that takes the file.

    Raises:
        OSError: when the file cannot be made.
    """

    def __init__(self, module: nn.Module, folder: Path) -> None:
        tensors = {id(t): t for t in (*module.parameters(), *module.buffers()) if t.device.type == "cpu" and t.numel()}
        self._map: mmap.mmap | None = None
        size = sum(_room(tensor) for tensor in tensors.values())
        if not size:
            return
        with tempfile.TemporaryFile(dir=folder) as file:
            # A file with holes would fill them when its pages are written, and where the disk is full die of that.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            self._map = mmap.mmap(file.fileno(), size)
        start = 0
        for tensor in tensors.values():
            parked = torch.frombuffer(self._map, dtype=tensor.dtype, count=tensor.numel(), offset=start)
            parked = parked.view(tensor.shape)
            parked.copy_(tensor.detach())
            tensor.data = parked
            start += _room(tensor)
        self.release()

    def release(self) -> None:
        """Drops what has been read since from memory; on systems that cannot be asked for that, does nothing."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def _room(tensor: Tensor) -> int:
    """Bytes in the file, so that every tensor begins at a multiple of 64."""
    return -(-tensor.numel() * tensor.element_size() // 64) * 64
