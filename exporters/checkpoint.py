"""A Hugging Face checkpoint on disk: config.json and safetensors, read a block of rows at a time.

The files come from strangers. The header of every safetensors file is checked before anything is
read: its size, the types, shapes and byte ranges, and that the ranges tile the file.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.bundle import MANIFEST
from edgellm.config import JsonFields
from edgellm.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000
"""The bound of the safetensors format itself."""
MAX_RANK = 8
BLOCK_ELEMENTS = 1 << 22
"""Elements read at once: 16 MiB as float32."""

GIT_LFS = b"version https://git-lfs"
"""How the file begins that stands for a large one where git-lfs has not fetched it."""
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""How names ended that BERT checkpoints of 2018 and 2019 have."""

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
FLOAT_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
"""The types that are read as float32. NumPy has no bfloat16: it is the upper half of a float32."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies: its file, element type as safetensors names it, shape, first byte."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class Checkpoint:
    """The tensors of one directory, by name. Nothing is read until a row is asked for."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise CheckpointError(f"{self.path}: no such directory; give a Hugging Face checkpoint")
        self.config = JsonFields.read(self.path / "config.json")
        self.tensors: Mapping[str, Tensor] = _with_new_names(_find_tensors(self.path))

    def tensor(self, name: str) -> Tensor:
        """Return what is known of a tensor without reading it.

        Raises:
            CheckpointError: there is no tensor of that name.
        """
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.path}: tensor {name} is missing; the download may be incomplete, or "
                "config.json may belong to another model"
            )
        return self.tensors[name]

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """Return a whole float tensor as float32, in its shape."""
        shape = self.tensor(name).shape
        rows = shape[0] if shape else 1
        return self.read_rows(name, 0, rows).reshape(shape)

    def read_rows(self, name: str, begin: int, end: int) -> npt.NDArray[np.float32]:
        """Return rows [begin, end) of a bf16, fp16 or fp32 tensor as float32.

        Raises:
            CheckpointError: another element type, a truncated file, NaN or infinity.
        """
        tensor = self.tensor(name)
        if tensor.dtype not in FLOAT_DTYPES:
            raise CheckpointError(
                f"{tensor.file}: tensor {name} is {tensor.dtype}; "
                f"supported are {', '.join(FLOAT_DTYPES)}"
            )
        block = _read_block(name, tensor, FLOAT_DTYPES[tensor.dtype], begin, end)
        values = _widen(block) if tensor.dtype == "BF16" else block.astype(np.float32)
        if not np.isfinite(values).all():
            row = begin + int(np.argwhere(~np.isfinite(values))[0, 0])
            raise CheckpointError(
                f"{tensor.file}: tensor {name} holds NaN or infinity in row {row}"
            )
        return values

    def read_raw(self, name: str) -> npt.NDArray[np.uint8]:
        """Return a whole uint8 tensor.

        Raises:
            CheckpointError: another element type or a truncated file.
        """
        tensor = self.tensor(name)
        if tensor.dtype != "U8":
            raise CheckpointError(f"{tensor.file}: tensor {name} is {tensor.dtype}, not U8")
        rows = tensor.shape[0] if tensor.shape else 1
        return _read_block(name, tensor, np.dtype(np.uint8), 0, rows)

    def blocks(self, name: str) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the rows of a float tensor in blocks of about ``BLOCK_ELEMENTS`` elements."""
        shape = self.tensor(name).shape
        for begin, end in row_blocks(shape):
            yield self.read_rows(name, begin, end)


def _widen(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def row_blocks(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of blocks of rows that hold about ``BLOCK_ELEMENTS`` elements each."""
    step = max(1, BLOCK_ELEMENTS // max(1, math.prod(shape[1:])))
    for begin in range(0, shape[0], step):
        yield begin, min(begin + step, shape[0])


def _read_block(
    name: str, tensor: Tensor, dtype: np.dtype[Any], begin: int, end: int
) -> npt.NDArray[Any]:
    row = math.prod(tensor.shape[1:])
    count = (end - begin) * row
    offset = tensor.offset + begin * row * dtype.itemsize
    data = np.fromfile(tensor.file, dtype=dtype, count=count, offset=offset)
    if data.size != count:
        raise CheckpointError(f"{tensor.file}: tensor {name} is truncated")
    return data.reshape(end - begin, *tensor.shape[1:])


def _find_tensors(path: Path) -> dict[str, Tensor]:
    if (path / SINGLE_FILE).is_file():
        return read_header(path / SINGLE_FILE)
    if (path / INDEX_FILE).is_file():
        return _read_index(path / INDEX_FILE)
    if (path / MANIFEST).is_file():
        raise CheckpointError(f"{path}: is a bundle; give the checkpoint that it was made from")
    raise CheckpointError(
        f"{path}: neither {SINGLE_FILE} nor {INDEX_FILE}; only safetensors are read: convert other "
        "weights with transformers' save_pretrained"
    )


def _with_new_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as transformers calls them: old BERT files have gamma and beta."""
    renamed = {}
    for name, tensor in tensors.items():
        new = name
        for old, current in OLD_NAMES.items():
            if name.endswith(old):
                new = name.removesuffix(old) + current
        renamed[name if new in tensors else new] = tensor
    return renamed


def _read_index(path: Path) -> dict[str, Tensor]:
    """Return the tensors of all shards that the index names."""
    section = JsonFields.read(path).section("weight_map")
    if section is None:
        raise CheckpointError(f"{path}: weight_map is missing")
    shards: dict[str, dict[str, Tensor]] = {}
    tensors = {}
    for name in section.values:
        shard = section.text(name)
        if shard not in shards:
            shards[shard] = read_header(_shard_path(path, shard))
        if name not in shards[shard]:
            raise CheckpointError(f"{path}: tensor {name} is not in the shard {shard}")
        tensors[name] = shards[shard][name]
    return tensors


def _shard_path(index: Path, shard: str) -> Path:
    if not shard or shard in (".", "..") or any(mark in shard for mark in "/\\:\0"):
        raise CheckpointError(f"{index}: the shard name {shard!r} leads out of the checkpoint")
    path = index.parent / shard
    if not path.is_file():
        raise CheckpointError(f"{path}: shard is missing; the download may be incomplete")
    return path


def read_header(path: Path) -> dict[str, Tensor]:
    """Return the tensors of one safetensors file.

    Raises:
        CheckpointError: the header lies about sizes, types, shapes or byte ranges.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if prefix == GIT_LFS[:8]:
            raise CheckpointError(
                f"{path}: is a pointer of git-lfs, not the weights; get them with: git lfs pull"
            )
        size = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or size > MAX_HEADER_BYTES or 8 + size > file_bytes:
            raise CheckpointError(
                f"{path}: {file_bytes} bytes cannot hold the announced header of {size} bytes; "
                "the file is truncated or no safetensors file"
            )
        header = stream.read(size)
    try:
        entries = json.loads(header, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as cause:
        raise CheckpointError(f"{path}: the header is not JSON: {cause}") from cause
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: the header is no JSON object")
    entries.pop("__metadata__", None)
    ranges = {name: _check_entry(path, name, entry) for name, entry in entries.items()}
    _check_ranges(path, ranges, file_bytes - 8 - size)
    return {
        name: Tensor(path, entry["dtype"], tuple(entry["shape"]), 8 + size + ranges[name][0])
        for name, entry in entries.items()
    }


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name occurs twice")
    return names


def _check_entry(path: Path, name: str, entry: object) -> tuple[int, int]:
    """Return the byte range of one entry after checking it against its type and shape."""
    where = f"{path}: tensor {name!r}"
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where}: its header entry is no object")
    dtype = entry.get("dtype")
    shape, ends = _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise CheckpointError(f"{where}: unknown dtype {dtype!r}; known: {', '.join(DTYPE_BYTES)}")
    if shape is None or len(shape) > MAX_RANK:
        raise CheckpointError(f"{where}: {entry.get('shape')!r} is no shape")
    if ends is None or len(ends) != 2 or ends[0] > ends[1]:
        raise CheckpointError(f"{where}: {entry.get('data_offsets')!r} are no data_offsets")
    needed = math.prod(shape) * DTYPE_BYTES[dtype]
    if needed != ends[1] - ends[0]:
        raise CheckpointError(
            f"{where}: {dtype} of shape {shape} takes {needed} bytes, "
            f"its data_offsets span {ends[1] - ends[0]}"
        )
    return ends[0], ends[1]


def _sizes(value: object) -> list[int] | None:
    """Return a list of non-negative integers, or None if the value is anything else."""
    if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value):
        return value
    return None


def _check_ranges(path: Path, ranges: Mapping[str, tuple[int, int]], data_bytes: int) -> None:
    """Check that the byte ranges tile the data: no overlap, no hole, nothing left over."""
    position = 0
    for name, (begin, end) in sorted(ranges.items(), key=lambda item: item[1]):
        if begin != position:
            kind = (
                "overlaps the tensor before it" if begin < position else "leaves a hole before it"
            )
            raise CheckpointError(f"{path}: tensor {name!r} at byte {begin} {kind} ({position})")
        if end > data_bytes:
            raise CheckpointError(
                f"{path}: tensor {name!r} ends at byte {end} of {data_bytes}; the file is truncated"
            )
        position = end
    if position != data_bytes:
        raise CheckpointError(f"{path}: {data_bytes - position} bytes belong to no tensor")
