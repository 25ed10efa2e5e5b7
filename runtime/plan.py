"""What a bundle computes, ready to run: steps in order, the values between them, the weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm import ops
from edgellm.graph_names import LOGIT_COUNT, LOGITS, PAST, PAST_LENGTH, TOKENS
from edgellm.ops import Shape

Dim = int | str
"""A size: a number, or the name of one that changes by call."""

TOP = "top"
"""Name of the attribute that each call sets: how many of the best logits it wants."""


@dataclass(frozen=True)
class Value:
    """One tensor: its name, element type and shape; sizes that change by call are names."""

    name: str
    dtype: str
    shape: Shape

    def __str__(self) -> str:
        """Return it as messages say it: ``logits int32 (logits, 512)``."""
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True)
class Step:
    """One operator call. ``inputs`` and ``outputs`` are names of values or constants."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """A checked graph.

    Attributes:
        steps: in an order in which each can run.
        values: every tensor by name: graph inputs, constants, and what the steps make.
        constants: the weights by name, read-only views of the mapped file where they are large.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
    """

    steps: tuple[Step, ...]
    values: Mapping[str, Value]
    constants: Mapping[str, npt.NDArray[np.generic]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        return int(self.values[LOGITS].shape[1])

    @property
    def cache_inputs(self) -> tuple[str, ...]:
        """Names of the inputs that hold the cache of a text: what grows with it, and states."""
        return tuple(name for name in self.inputs if name.startswith(PAST))

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the cache inputs that do not grow: recurrent states, replaced by each call."""
        return tuple(name for name in self.cache_inputs if not grows(self.values[name]))

    def empty_cache(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the cache of an empty text, by the names of its inputs."""
        values = [self.values[name] for name in self.cache_inputs]
        return {value.name: np.zeros(cache_shape(value, 0), value.dtype) for value in values}

    def weight_bytes_per_token(self) -> int:
        """Return the bytes of weights that one decoded token reads; of a table, one row."""
        return sum(map(self.weight_bytes, self.steps))

    def weight_bytes(self, step: Step) -> int:
        """Return the bytes of weights that a step reads for a token at most; of a table, a row."""
        schema = ops.find(step.op_type).SCHEMA
        total = 0
        for name, port in zip(step.inputs, schema.inputs, strict=True):
            if name in self.constants:
                array = self.constants[name]
                rows = [array.shape[port.dims.index(d)] for d in schema.tables if d in port.dims]
                total += array.nbytes // math.prod(rows)
        return total


def grows(value: Value) -> bool:
    """Tell whether a cache input has a row for each token of the text."""
    return bool(value.shape) and value.shape[0] == PAST_LENGTH


def cache_shape(value: Value, length: int) -> tuple[int, ...]:
    """Return the shape that a cache input has for a text of ``length`` tokens."""
    sizes = (length, *value.shape[1:]) if grows(value) else value.shape
    return tuple(map(int, sizes))


def call_sizes(chunk: int) -> dict[str, int]:
    """Return the largest dynamic sizes of a call of ``chunk`` tokens; the cache is not counted."""
    return {TOKENS: chunk, LOGIT_COUNT: chunk, PAST_LENGTH: 0}
