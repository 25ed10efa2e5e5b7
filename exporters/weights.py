"""The weights of a model as a lowering asks for them: vectors, float matrices, ternary matrices."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edgellm.errors import CheckpointError, UnsupportedModelError
from edgellm.exporters.checkpoint import Checkpoint
from edgellm.exporters.lowering.inventory import Parameter
from edgellm.exporters.quantization import BitNetQuantization
from edgellm.exporters.quantizers import ternary

LOG = logging.getLogger(__name__)

Shape = tuple[int, ...]
Number = TypeVar("Number", bound=np.generic)

HARMLESS_SUFFIXES = (
    ".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "embeddings.position_ids",
)  # fmt: skip
"""Buffers that old versions of transformers stored; they follow from the config."""


@dataclass(frozen=True)
class FloatMatrix:
    """A float weight: ``blocks()`` reads it anew, in (n, K) float32 blocks of rows."""

    shape: tuple[int, int]
    blocks: Callable[[], Iterator[npt.NDArray[np.float32]]]

    def rows(self, begin: int, end: int) -> "FloatMatrix":
        """Return some of the rows as a weight of its own."""
        return FloatMatrix(
            (end - begin, self.shape[1]), lambda: _cut_rows(self.blocks(), begin, end)
        )


@dataclass(frozen=True)
class TernaryMatrix:
    """A ternary weight, real = code * scale: ``blocks()`` reads (n, K) int8 blocks of rows."""

    shape: tuple[int, int]
    scale: float
    blocks: Callable[[], Iterator[npt.NDArray[np.int8]]]

    def rows(self, begin: int, end: int) -> "TernaryMatrix":
        """Return some of the rows as a weight of its own, with the scale of all."""
        return TernaryMatrix(
            (end - begin, self.shape[1]),
            self.scale,
            lambda: _cut_rows(self.blocks(), begin, end),
        )


class WeightSource(Protocol):
    """Where a lowering gets its weights from; one tensor is in memory at a time."""

    def vector(self, name: str, size: int) -> npt.NDArray[np.float32]:
        """Return a norm weight or a bias, (size,)."""
        ...

    def tensor(self, name: str, shape: Shape) -> npt.NDArray[np.float32]:
        """Return a small tensor of any rank (class token, positions, patch embedding)."""
        ...

    def matrix(self, name: str, shape: tuple[int, int]) -> FloatMatrix:
        """Return a weight that is never ternary (embedding, head)."""
        ...

    def linear(self, path: str, shape: tuple[int, int]) -> FloatMatrix | TernaryMatrix:
        """Return the weight of the linear ``path``, ternary if the checkpoint says so."""
        ...


class CheckpointWeights:
    """The weights of a checkpoint; every tensor is checked against the shape that is asked for."""

    def __init__(self, checkpoint: Checkpoint, quantization: BitNetQuantization | None) -> None:
        self.checkpoint = checkpoint
        self.quantization = quantization

    def vector(self, name: str, size: int) -> npt.NDArray[np.float32]:
        """Return a whole one-dimensional tensor."""
        self._check_shape(name, (size,))
        values = self.checkpoint.read(name)
        path = name.removesuffix(".bias")
        rule = self._ternary_rule(path)
        if name.endswith(".bias") and rule is not None and rule.scales_bias:
            return values * np.float32(self._stored_scale(path))
        return values

    def tensor(self, name: str, shape: Shape) -> npt.NDArray[np.float32]:
        """Return a whole tensor in its shape."""
        self._check_shape(name, shape)
        return self.checkpoint.read(name)

    def matrix(self, name: str, shape: tuple[int, int]) -> FloatMatrix:
        """Return a float matrix; reading it to its end fails if it is all zero."""
        self._check_shape(name, shape)
        where = self._where(name)
        return FloatMatrix(shape, lambda: _not_all_zero(self.checkpoint.blocks(name), where))

    def linear(self, path: str, shape: tuple[int, int]) -> FloatMatrix | TernaryMatrix:
        """Return the weight of a linear as the quantisation of the checkpoint has it."""
        name = f"{path}.weight"
        if self._ternary_rule(path) is None:
            return self.matrix(name, shape)
        for stored, stored_shape in self._stored(Parameter(name, shape, is_linear=True)).items():
            self._check_shape(stored, stored_shape)
        if self.checkpoint.tensor(name).dtype == "U8":
            return self._packed(path, shape)
        return self._master(path, shape)

    def check(self, parameters: Iterable[Parameter], unused: Sequence[str] = ()) -> None:
        """Check that every parameter is there in its shape, before anything is written.

        Tensors that nothing asks for are logged as a warning, but for those in ``unused``.

        Raises:
            CheckpointError: a tensor is missing or has another shape.
        """
        stored: dict[str, Shape] = {}
        for parameter in parameters:
            stored.update(self._stored(parameter))
        for name, shape in stored.items():
            self._check_shape(name, shape)
        unknown = [name for name in self.checkpoint.tensors if _is_unknown(name, stored)]
        unknown = [name for name in unknown if name not in unused]
        if unknown:
            shown = ", ".join(sorted(unknown)[:5])
            LOG.warning("%d tensors are not used, among them %s", len(unknown), shown)

    def _ternary_rule(self, path: str) -> BitNetQuantization | None:
        if self.quantization is None or not self.quantization.converts(path):
            return None
        return self.quantization

    def _stored(self, parameter: Parameter) -> Mapping[str, Shape]:
        """Return the tensors that hold a parameter in this checkpoint, with their shapes."""
        name, shape = parameter.name, parameter.shape
        path = name.removesuffix(".weight")
        if not parameter.is_linear or self._ternary_rule(path) is None:
            return {name: shape}
        packed = self.checkpoint.tensor(name).dtype == "U8"
        stored: dict[str, Shape] = {
            name: (-(-shape[0] // ternary.VALUES_PER_BYTE), shape[1]) if packed else shape
        }
        if packed or f"{path}.weight_scale" in self.checkpoint.tensors:
            stored[f"{path}.weight_scale"] = (1,)
        return stored

    def _packed(self, path: str, shape: tuple[int, int]) -> TernaryMatrix:
        name = f"{path}.weight"
        where = self._where(name)

        def blocks() -> Iterator[npt.NDArray[np.int8]]:
            packed = self.checkpoint.read_raw(name)
            return ternary.check_codes(ternary.unpack(packed, shape[0], where), where)

        return TernaryMatrix(shape, self._stored_scale(path), blocks)

    def _master(self, path: str, shape: tuple[int, int]) -> TernaryMatrix:
        name = f"{path}.weight"
        where = self._where(name)

        def floats() -> Iterator[npt.NDArray[np.float32]]:
            return self.checkpoint.blocks(name)

        if f"{path}.weight_scale" in self.checkpoint.tensors:
            scale = self._stored_scale(path)
            return TernaryMatrix(
                shape, scale, lambda: ternary.check_codes(_as_codes(floats(), where), where)
            )
        mean = ternary.master_scale(floats)
        # transformers divides by the reciprocal, so this is the scale that it gets
        scale = float(np.float32(1) / (np.float32(1) / mean))
        return TernaryMatrix(
            shape, scale, lambda: ternary.check_codes(ternary.ternarize(floats, mean), where)
        )

    def _stored_scale(self, path: str) -> float:
        name = f"{path}.weight_scale"
        value = float(self.checkpoint.read(name).reshape(-1)[0])
        if value <= 0:
            raise CheckpointError(f"{self._where(name)} is {value}; a scale is greater than 0")
        rule = self._ternary_rule(path)
        return 1.0 / value if rule is not None and rule.scale_divides else value

    def _check_shape(self, name: str, shape: Shape) -> None:
        found = self.checkpoint.tensor(name).shape
        if (found or (1,)) != shape:  # a scale may be stored as a scalar
            raise CheckpointError(
                f"{self._where(name)} has shape {found}, by config.json it should have {shape}"
            )

    def _where(self, name: str) -> str:
        return f"{self.checkpoint.tensor(name).file}: tensor {name}"


def _cut_rows(
    blocks: Iterable[npt.NDArray[Number]], begin: int, end: int
) -> Iterator[npt.NDArray[Number]]:
    """Yield rows [begin, end) of a matrix in blocks; all are read, so that all are checked."""
    first = 0
    for block in blocks:
        part = block[max(begin - first, 0) : max(end - first, 0)]
        first += len(block)
        if len(part):
            yield part


def _is_unknown(name: str, stored: Mapping[str, Shape]) -> bool:
    tied_head = name == "lm_head.weight"
    return name not in stored and not tied_head and not name.endswith(HARMLESS_SUFFIXES)


def _not_all_zero(
    blocks: Iterable[npt.NDArray[np.float32]], where: str
) -> Iterator[npt.NDArray[np.float32]]:
    found = False
    for block in blocks:
        found = found or bool(block.any())
        yield block
    if not found:
        raise CheckpointError(f"{where}: all weights are 0; they were never stored in the file")


def _as_codes(
    blocks: Iterable[npt.NDArray[np.float32]], where: str
) -> Iterator[npt.NDArray[np.int8]]:
    for block in blocks:
        if not np.isin(block, (-1.0, 0.0, 1.0)).all():
            raise UnsupportedModelError(
                f"{where} has a weight_scale, but its weights are not all -1, 0 or 1"
            )
        yield block.astype(np.int8)
