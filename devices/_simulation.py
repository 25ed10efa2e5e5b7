"""Run a workload on a device, by its equations or by its instruction streams, and add up."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from edgellm.device import (
    Block,
    Bounded,
    Call,
    Cost,
    Device,
    ForwardPass,
    LengthAdaptive,
    Workload,
    total,
)
from edgellm.devices._events import Compiler, simulate
from edgellm.errors import ConfigError, DeviceError

Engine = Literal["analytic", "events"]
LENGTHS_A_SAMPLE = 16
"""Decoded tokens for which the middle one stands, where a device does not round lengths itself."""
MAX_TOKENS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to run: a prompt of ``prompt`` tokens, then ``new`` tokens, for each sequence."""

    prompt: int = 128
    new: int = 512
    sequences: int = 1
    engine: Engine = "analytic"

    def check(self) -> None:
        """Raise a ConfigError if a number is out of range."""
        for name, value, low in (
            ("prompt", self.prompt, 0),
            ("new", self.new, 0),
            ("sequences", self.sequences, 1),
        ):
            if not low <= value <= MAX_TOKENS:
                raise ConfigError(f"{name} is {value}; allowed are {low} to {MAX_TOKENS}")
        if self.prompt + self.new == 0:
            raise ConfigError("prompt and new are both 0; there is nothing to run")


@dataclass(frozen=True, kw_only=True)
class OperatorCost:
    """The calls of a pass that are alike.

    Attributes:
        name: of the first of them.
        op_type: of all.
        calls: how many.
        cost: of all together, by the equations.
        place: the device, or the host, that runs them.
    """

    name: str
    op_type: str
    calls: int
    cost: Cost
    place: str


@dataclass(frozen=True, kw_only=True)
class PassCost:
    """One forward pass: its total, and its operators in order."""

    forward: ForwardPass
    cost: Cost
    operators: tuple[OperatorCost, ...]


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What a request costs on a device; all figures are simulated.

    Attributes:
        device: its name.
        workload: its name.
        prompt: tokens of it.
        new: tokens decoded.
        sequences: side by side.
        engine: "analytic" or "events".
        time_to_first_token_s: of the prefill; 0 without a prompt.
        tokens_per_s: decoded, over all sequences; 0 if none.
        joules_per_token: of decoding, or of the prompt if nothing is decoded.
        energy_per_token: in J, by part.
        utilisation: share of the time that each unit works, in decoding (or the prefill).
        bytes_per_token: by memory, in decoding (or the prefill).
        prefill: None without a prompt.
        decode: all decoded tokens together; None if there are none.
        last: the pass of the last token (or the prefill), by operator.
        refused: operators that the device does not take, and why.
        uncounted: those of them that no host takes: their time is in no figure here.
    """

    device: str
    workload: str
    prompt: int
    new: int
    sequences: int
    engine: Engine
    time_to_first_token_s: float
    tokens_per_s: float
    joules_per_token: float
    energy_per_token: Mapping[str, float]
    utilisation: Mapping[str, float]
    bytes_per_token: Mapping[str, float]
    prefill: PassCost | None
    decode: Cost | None
    last: PassCost
    refused: Mapping[str, str]
    uncounted: tuple[str, ...]


class Simulator:
    """Runs passes of a workload on a device, and what it refuses on a host, if there is one."""

    def __init__(
        self, device: Device, workload: Workload, engine: Engine, host: Device | None = None
    ) -> None:
        """Choose what runs where, and how it is costed.

        Raises:
            ConfigError: the device has no instruction streams to run by events.
        """
        if engine == "events" and not isinstance(device, Compiler):
            raise ConfigError(f"{device.name} has no instructions; use the analytic engine")
        self._device = device
        self._host = host
        self._workload = workload
        self._engine = engine
        self.refused: dict[str, str] = {}
        self.uncounted: dict[str, None] = {}

    def run(self, forward: ForwardPass) -> PassCost:
        """Return what a forward pass costs.

        Raises:
            DeviceError: the device takes none of its operators.
        """
        operators: list[OperatorCost] = []
        costs: list[Cost] = []
        for block in self._workload.blocks(forward):
            parts = list(self._place(block))
            operators += parts
            if self._engine == "events":
                costs += self._by_events(block, parts)
            else:
                costs += [part.cost for part in parts]
        if not costs:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.refused.items())
            raise DeviceError(f"{self._device.name} takes nothing of this: {reasons}")
        return PassCost(forward=forward, cost=total(costs), operators=tuple(_merged(operators)))

    def _place(self, block: Block) -> Iterator[OperatorCost]:
        for call in block.calls:
            refusal = self._device.supports(call)
            place = self._device if refusal is None else self._host
            if refusal is not None:
                self.refused.setdefault(call.op_type, refusal.reason)
            if place is None or (place is self._host and place.supports(call) is not None):
                self.uncounted[call.op_type] = None
                continue
            yield OperatorCost(
                name=call.name,
                op_type=call.op_type,
                calls=block.repeats,
                cost=place.cost(call).times(block.repeats),
                place=place.name,
            )

    def _by_events(self, block: Block, parts: Sequence[OperatorCost]) -> Iterator[Cost]:
        """Yield the cost of a block's instructions, and those of what the host runs."""
        own = [part.cost for part in parts if part.place == self._device.name]
        calls = [call for call in block.calls if self._device.supports(call) is None]
        if own and isinstance(self._device, Compiler):
            yield _timed(self._device, calls, total(own), block.repeats)
        yield from (part.cost for part in parts if part.place != self._device.name)


def _timed(device: Compiler, calls: Sequence[Call], expected: Cost, repeats: int) -> Cost:
    """Return a cost with the times and bytes of an event-driven run.

    Energy is that of the equations; what is static grows and shrinks with the time.
    """
    timeline = simulate(device.compile(calls))
    second = expected.seconds / expected.cycles
    seconds = timeline.cycles * second * repeats
    energy = dict(expected.energy_pj)
    if "static" in energy:
        energy["static"] *= seconds / expected.seconds
    busy = {unit: cycles * second * repeats for unit, cycles in timeline.busy.items()}
    return replace(
        expected,
        cycles=timeline.cycles * repeats,
        seconds=seconds,
        bytes={name: repeats * moved for name, moved in timeline.bytes.items()},
        busy_s=busy,
        energy_pj=energy,
        bound=max(busy, key=lambda unit: busy[unit]),
        basis="event-driven",
    )


def _merged(operators: Iterable[OperatorCost]) -> Iterator[OperatorCost]:
    """Join operators of the same name in blocks that differ."""
    joined: dict[tuple[str, str], list[OperatorCost]] = {}
    for operator in operators:
        joined.setdefault((operator.name, operator.place), []).append(operator)
    for parts in joined.values():
        calls = sum(part.calls for part in parts)
        yield replace(parts[0], calls=calls, cost=total([part.cost for part in parts]))


def run(
    device: Device, workload: Workload, request: Request, host: Device | None = None
) -> Simulation:
    """Simulate a prompt and the tokens that follow.

    Args:
        device: what runs.
        workload: a model.
        request: how many tokens.
        host: runs what the device refuses; without one that is left out, and said.

    Raises:
        ConfigError: the request is out of range.
        DeviceError: the device runs nothing of the workload, or has no rule for a call.
    """
    request.check()
    if isinstance(workload, Bounded):
        length = request.prompt + request.new
        workload.check(ForwardPass(tokens=length, sequences=request.sequences))
    simulator = Simulator(device, workload, request.engine, host)
    prefill = decode = last = None
    if request.prompt:
        forward = ForwardPass(tokens=request.prompt, sequences=request.sequences)
        last = prefill = simulator.run(_compiled(device, forward))
    costs = []
    for forward, count in _decoded(device, request):
        last = simulator.run(forward)
        costs.append(last.cost.times(count))
    if last is None:
        raise ConfigError("prompt and new are both 0; there is nothing to run")
    decode = total(costs) if costs else None
    return _summary(
        (device, workload, request, simulator), prefill=prefill, decode=decode, last=last
    )


def _compiled(device: Device, forward: ForwardPass) -> ForwardPass:
    return device.compiled_for(forward) if isinstance(device, LengthAdaptive) else forward


def _decoded(device: Device, request: Request) -> Iterator[tuple[ForwardPass, int]]:
    """Yield passes of a decoded token, and for how many tokens each stands."""
    lengths = range(request.prompt, request.prompt + request.new)
    if not isinstance(device, LengthAdaptive):
        for begin in range(0, request.new, LENGTHS_A_SAMPLE):
            some = lengths[begin : begin + LENGTHS_A_SAMPLE]
            middle = some[len(some) // 2]
            yield ForwardPass(tokens=1, past=middle, sequences=request.sequences), len(some)
        return
    passes = [
        device.compiled_for(ForwardPass(tokens=1, past=past, sequences=request.sequences))
        for past in lengths
    ]
    for forward, same in groupby(passes):
        yield forward, len(list(same))


def _summary(
    run_of: tuple[Device, Workload, Request, Simulator],
    *,
    prefill: PassCost | None,
    decode: Cost | None,
    last: PassCost,
) -> Simulation:
    device, workload, request, simulator = run_of
    counted = decode or last.cost
    tokens = (request.new if decode else request.prompt) * request.sequences
    energy = {part: amount * 1e-12 / tokens for part, amount in counted.energy_pj.items()}
    seconds = counted.seconds or float("inf")
    return Simulation(
        device=device.name,
        workload=workload.name,
        prompt=request.prompt,
        new=request.new,
        sequences=request.sequences,
        engine=request.engine,
        time_to_first_token_s=prefill.cost.seconds if prefill else 0.0,
        tokens_per_s=tokens / seconds if decode else 0.0,
        joules_per_token=sum(energy.values()),
        energy_per_token=energy,
        utilisation={unit: busy / seconds for unit, busy in counted.busy_s.items()},
        bytes_per_token={name: moved / tokens for name, moved in counted.bytes.items()},
        prefill=prefill,
        decode=decode,
        last=last,
        refused=simulator.refused,
        uncounted=tuple(simulator.uncounted),
    )
