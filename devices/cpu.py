"""Processors: predictions from bytes, look-ups in tables, and bandwidth; two terms and a constant.

A token waits for the slower of computing (a table look-up for each group of weights and bit plane,
split over the threads) and reading (bytes over the bandwidth that programs reach, and a time for
each weight that no thread takes off). Before its first operator a pass takes ``serial_ms``.
"""

from collections.abc import Sequence

from edgellm import ops
from edgellm.device import Array, Attention, Call, Cost, Elementwise, MatMul, Move, Refusal
from edgellm.devices import _model
from edgellm.devices._description import Description
from edgellm.devices._model import Demand
from edgellm.errors import DeviceError

PARAMETERS = {
    # Milliseconds that one thread takes for 1e9 weights of one bit and one token.
    "plane_ms_per_gweight": (1e-3, 1e4),
    # Milliseconds for 1e9 weights, read once, that more threads do not shorten.
    "weight_ms_per_gweight": (0, 1e4),
    # Milliseconds of a pass before its first operator.
    "serial_ms": (0, 1e4),
    # 1e9 products of int8 a second and thread, in attention.
    "attention_gmacs": (1e-3, 1e5),
}
FIRST_OPERATORS = ("Embedding", "PlanarEmbedding", "TextEmbedding", "ExtractPatches")
"""They look up what goes in; a pass starts with one of them, and serial_ms is theirs."""
LARGEST_BITS = 16


class Device:
    """A processor and its memory, at the speed of table look-ups (T-MAC, bitnet.cpp)."""

    def __init__(self, description: Description) -> None:
        """Build the device of a description."""
        self.name = description.name
        self.description = description
        if len(description.memory) != 1:
            raise DeviceError(f"{self.name}: a processor has one [[memory]]")
        self._memory = description.memory[0]

    def supports(self, call: Call) -> Refusal | None:
        """Take everything but products that are no integers of up to 16 bits."""
        if isinstance(call.work, MatMul) and call.work.weight_bits > LARGEST_BITS:
            return Refusal(f"weights of {call.work.weight_bits:g} bits; at most {LARGEST_BITS}")
        return None

    def run(self, call: Call, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Compute by the operator's definition: a processor gives the same integers."""
        results = ops.find(call.op_type).reference(*inputs, **call.attributes)
        return results if isinstance(results, tuple) else (results,)

    def cost(self, call: Call) -> Cost:
        """Return the slower of computing and reading; all power is in static_w."""
        computing, weights, read = self._parts(call)
        own = self.description.parameters
        reading = read / _model.bytes_per_s(self._memory)
        reading += weights / 1e9 * own["weight_ms_per_gweight"] * 1e-3
        busy = {"cores": computing, self._memory.id: reading}
        start = own["serial_ms"] * 1e-3 if call.op_type in FIRST_OPERATORS else 0.0
        demand = Demand(busy_s=busy, fill_s=start, read={self._memory.id: read})
        return _model.cost(self.description, call, demand)

    def _parts(self, call: Call) -> tuple[float, int, float]:
        """Return the seconds of computing, the weights that are read, and the bytes."""
        threads = _model.speed_up(self.description)
        own = self.description.parameters
        match call.work:
            case MatMul() as work:
                planes = max(1, round(work.weight_bits))
                gigaweights = work.macs / 1e9
                seconds = gigaweights * planes * own["plane_ms_per_gweight"] * 1e-3 / threads
                return seconds, work.k * work.n, work.weight_bytes
            case Attention() as work:
                speed = own["attention_gmacs"] * 1e9 * threads
                return work.macs / speed, 0, work.cache_bytes
            case Elementwise() as work:
                cycles = _model.element_cycles(self.description, work.kind, work.elements)
                return cycles / self.description.hz() / threads, 0, 0.0
            case Move() as work:
                return 0.0, 0, work.bytes
