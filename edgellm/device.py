"""The contract of simulated devices: what they are asked (Call), and what they answer (Cost).

A device answers three questions about an operator: whether it can run it, what it computes (the
same integers as everybody), and what that costs. It never sees a bundle or a paper, only calls:
``edgellm.plan_calls`` makes them from a bundle, ``edgellm.devices._shapes`` from published shapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Operand:
    """A tensor of a call: its name, element type ("int8", ...) and shape, all sizes known."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class MatMul:
    """``y[m, n] = sum over k of x[m, k] w[n, k]`` with constant weights.

    Attributes:
        m: rows of activations: tokens, times sequences.
        k: inputs of a row.
        n: outputs of a row.
        activation_bits: of each x.
        weight_bits: stored for each w, without scales: 2 for ternary pairs of bits, 1.6 for trits.
        group_size: weights along k that share a scale; 0 where a scale is for a whole row.
        group_bits: stored for each group and output: scale, zero.
        density: share of the weights that are stored, the others being zero (N:M sparsity).
        index_bits: stored for each weight beside it, to say which one it is.
        shifts: signed powers of two that a group and output has instead of a scale to multiply
            with (ShiftAddLLM); 0 where it has a scale.
        levels: numbers that the codes of a group and output choose from (SqueezeLLM); 0 where a
            code is a number itself.
        outliers: weights that are stored besides, each with its column in 4 bytes, and the number
            of those of each output in 4.
    """

    m: int
    k: int
    n: int
    activation_bits: int = 8
    weight_bits: float = 8
    group_size: int = 0
    group_bits: int = 0
    density: float = 1.0
    index_bits: float = 0.0
    shifts: int = 0
    levels: int = 0
    outliers: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with zeros included."""
        return self.m * self.k * self.n

    @property
    def groups(self) -> int:
        """Groups along k, one if there are none."""
        return -(-self.k // self.group_size) if self.group_size else 1

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights that are stored, with indices, scales, zeros and outliers."""
        stored = self.k * self.n * self.density * (self.weight_bits + self.index_bits)
        apart = 4 * (self.outliers + self.n) if self.outliers else 0
        return (stored + self.groups * self.n * self.group_bits) / 8 + apart


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Queries against cached keys, softmax, weighted sum of cached values.

    Attributes:
        tokens: queries of each sequence in this call.
        length: keys of each sequence, those of this call included.
        heads: of the queries.
        kv_heads: of keys and values.
        head_dim: numbers of a head.
        kv_bits: stored for each number of the cache.
        sequences: how many lie side by side, each with a cache of its own.
        causal: a query sees the keys up to its own position, else all.
        window: keys that a query sees at most, 0 for all.
    """

    tokens: int
    length: int
    heads: int
    kv_heads: int
    head_dim: int
    kv_bits: int = 8
    sequences: int = 1
    causal: bool = True
    window: int = 0

    @property
    def pairs(self) -> int:
        """Pairs of a query and a key that it sees, over all sequences, for one head."""
        first = self.length - self.tokens + 1 if self.causal else self.length
        last = self.length
        widest = self.window or last
        if not self.causal or widest <= first:
            return self.sequences * self.tokens * min(widest, last)
        growing = min(widest, last) - first + 1
        total = growing * (first + first + growing - 1) // 2 + (self.tokens - growing) * widest
        return self.sequences * total

    @property
    def macs(self) -> int:
        """Multiply-accumulates of both products."""
        return 2 * self.pairs * self.heads * self.head_dim

    @property
    def scores(self) -> int:
        """Numbers that the softmax sees, over all heads."""
        return self.pairs * self.heads

    @property
    def cache_bytes(self) -> float:
        """Bytes of keys and values, each read once."""
        seen = min(self.length, (self.window or self.length) + self.tokens - 1)
        return self.sequences * 2 * seen * self.kv_heads * self.head_dim * self.kv_bits / 8


@dataclass(frozen=True, kw_only=True)
class Elementwise:
    """Something done to each element of a vector, or a row of them.

    Attributes:
        kind: what is done: "norm", "quantize", "requantize", "activation", "add", "mul", "rotary",
            "pool".
        elements: how many go in; of a binary operator, from one side.
        binary: whether two vectors go in.
    """

    kind: str
    elements: int
    binary: bool = False

    @property
    def macs(self) -> int:
        """None."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Move:
    """Bytes that are moved and not changed: rows of a table, new rows of a cache."""

    bytes: int

    @property
    def macs(self) -> int:
        """None."""
        return 0


Work = MatMul | Attention | Elementwise | Move


@dataclass(frozen=True, kw_only=True)
class Call:
    """One operator to run.

    Attributes:
        op_type: an operator of ``edgellm.ops``, or "Linear" and the like in a paper's shape, which
            has a cost but no arithmetic.
        name: of the node: /model/layers.0/self_attn/q_proj/BitLinear.
        work: what it amounts to; devices cost this.
        inputs: in the operator's order.
        outputs: in the operator's order.
        attributes: the operator's integers.
        constant_inputs: indices of the inputs that are weights.
    """

    op_type: str
    name: str
    work: Work
    inputs: tuple[Operand, ...] = ()
    outputs: tuple[Operand, ...] = ()
    attributes: Mapping[str, int] = field(default_factory=dict)
    constant_inputs: tuple[int, ...] = ()

    def alike(self, other: "Call") -> bool:
        """Return whether the other call costs the same: all but names is equal."""
        return _nameless(self) == _nameless(other)


def _nameless(call: Call) -> Call:
    operands = [
        tuple(replace(item, name="") for item in side) for side in (call.inputs, call.outputs)
    ]
    return replace(call, name="", inputs=operands[0], outputs=operands[1])


@dataclass(frozen=True)
class Block:
    """Calls in order, and how often they come one after the other: the layers of a model."""

    calls: tuple[Call, ...]
    repeats: int = 1


@dataclass(frozen=True, kw_only=True)
class ForwardPass:
    """One call of a model: prefill, or a decoded token.

    Attributes:
        tokens: new ones of each sequence.
        past: tokens of each sequence that are in the cache.
        sequences: how many run side by side.
    """

    tokens: int
    past: int = 0
    sequences: int = 1


class Workload(Protocol):
    """A model as a device sees it."""

    @property
    def name(self) -> str:
        """Of the model or the bundle."""

    def blocks(self, forward: ForwardPass) -> tuple[Block, ...]:
        """Return the calls of one forward pass, layers that repeat once."""


@dataclass(frozen=True)
class Refusal:
    """Why a device does not take a call."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a call, or several, cost on a device. All of it is simulated.

    Attributes:
        cycles: of the device's core clock.
        seconds: from the first to the last of them.
        macs: multiply-accumulates that were asked for; padding is not counted.
        bytes: moved, by memory.
        busy_s: seconds that each unit (array, memory port, vector unit) worked.
        energy_pj: by part: "static", "compute", a memory, ...
        bound: the unit that the time comes from.
        basis: how it was found out: "analytic", "event-driven", with assumptions that matter.
    """

    cycles: float
    seconds: float
    macs: int
    bytes: Mapping[str, float]
    busy_s: Mapping[str, float]
    energy_pj: Mapping[str, float]
    bound: str
    basis: str

    def times(self, repeats: int) -> "Cost":
        """Return the cost of so many calls, one after the other."""
        return replace(
            self,
            cycles=repeats * self.cycles,
            seconds=repeats * self.seconds,
            macs=repeats * self.macs,
            bytes={name: repeats * amount for name, amount in self.bytes.items()},
            busy_s={name: repeats * amount for name, amount in self.busy_s.items()},
            energy_pj={name: repeats * amount for name, amount in self.energy_pj.items()},
        )


def total(costs: Sequence[Cost]) -> Cost:
    """Return what several calls cost one after the other; bound is what most time comes from.

    Raises:
        ValueError: no costs.
    """
    if not costs:
        raise ValueError("no costs to add up")
    bounds = _sum([{cost.bound: cost.seconds} for cost in costs])
    return Cost(
        cycles=sum(cost.cycles for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        macs=sum(cost.macs for cost in costs),
        bytes=_sum([cost.bytes for cost in costs]),
        busy_s=_sum([cost.busy_s for cost in costs]),
        energy_pj=_sum([cost.energy_pj for cost in costs]),
        bound=max(bounds, key=lambda name: bounds[name]),
        basis="; ".join(dict.fromkeys(cost.basis for cost in costs)),
    )


def _sum(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


@runtime_checkable
class Bounded(Protocol):
    """A workload that cannot be of any length.

    ``blocks`` answers for longer passes too: a device may round lengths up.
    """

    def check(self, forward: ForwardPass) -> None:
        """Check a pass that is asked for.

        Raises:
            ConfigError: the model cannot make such a pass.
        """


@runtime_checkable
class Device(Protocol):
    """A machine that runs operators and says what they cost."""

    @property
    def name(self) -> str:
        """Of the description: "flightllm-u280"."""

    def supports(self, call: Call) -> Refusal | None:
        """Return None if the device can run a call, or why it cannot.

        It depends on the work, and on op_type only where the arithmetic does: a call from a paper's
        shape ("Linear") is costed and never run.
        """

    def run(self, call: Call, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute a call on the device.

        Args:
            call: one that is supported.
            inputs: as the call's inputs, weights included.

        Returns:
            The outputs: the integers of the operator's reference.
        """

    def cost(self, call: Call) -> Cost:
        """Return what a call costs, by equations; a function of the description and the call only.

        Raises:
            DeviceError: there is no rule for this call; nothing is free by default.
        """


@runtime_checkable
class LengthAdaptive(Protocol):
    """A device whose programs are compiled for some lengths only."""

    def compiled_for(self, forward: ForwardPass) -> ForwardPass:
        """Return the pass whose program runs this one: lengths rounded up."""


@runtime_checkable
class Measured(Protocol):
    """A device with published results that are neither a speed nor an energy."""

    def metric(self, name: str) -> float:
        """Return a figure of a validation point, in its unit.

        Raises:
            DeviceError: there is none of that name.
        """
