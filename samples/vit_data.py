"""Handwritten digits from IDX files (MNIST's format), and small distortions of them."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_TURN = math.radians(12)
MAX_SCALE = 0.12
MAX_SHEAR = 0.15
MAX_SHIFT = 0.12
"""Shift as a part of half the side: 1.7 of 28 pixels."""


def read_digits(images: Path, labels: Path, side: int) -> tuple[Tensor, Tensor]:
    """Pixels (images, 1, side, side), 0 to 1, and labels (images,) of a pair of IDX files."""
    pixels, numbers = read_idx(images), read_idx(labels)
    if pixels.shape[1:] != (side, side) or numbers.shape != pixels.shape[:1]:
        raise SystemExit(
            f"{images} is {tuple(pixels.shape)}, {labels} is {tuple(numbers.shape)}; "
            f"needed are (n, {side}, {side}) and (n,)"
        )
    return pixels[:, None].float() / 255, numbers.long()


def read_idx(path: Path) -> Tensor:
    """The array of bytes in an IDX file, plain or .gz."""
    raw = path.read_bytes()
    data = gzip.decompress(raw) if path.suffix == ".gz" else raw
    if data[:3] != b"\0\0\x08":
        raise SystemExit(f"{path}: is no IDX file of bytes")
    header = 4 + 4 * data[3]
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    return torch.frombuffer(bytearray(data[header:]), dtype=torch.uint8).view(shape)


def distorted(images: Tensor) -> Tensor:
    """Images (n, 1, side, side), each turned, scaled, sheared and shifted a little at random."""
    count = len(images)
    noise = 2 * torch.rand(5, count) - 1
    turn, scale = MAX_TURN * noise[0], 1 + MAX_SCALE * noise[1]
    shear = MAX_SHEAR * noise[2]
    rows = torch.stack(
        [
            torch.stack([scale * turn.cos(), shear - scale * turn.sin(), MAX_SHIFT * noise[3]], 1),
            torch.stack([scale * turn.sin(), scale * turn.cos(), MAX_SHIFT * noise[4]], 1),
        ],
        1,
    )
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
