"""The equations that devices share: sizes, cycles, bytes, energy; nothing here knows a device.

A device says how long each of its units works on a call, and what is moved (Demand); ``cost`` makes
a Cost of that. What a description does not say is an error, never 0.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgellm.device import Call, Cost, MatMul, Refusal
from edgellm.devices._description import Description
from edgellm.devices._sections import ArrayUnit, Memory
from edgellm.errors import DeviceError

ANALYTIC = "analytic"


def padded(size: int, quantum: int) -> int:
    """Return a size rounded up to a multiple."""
    return -(-size // quantum) * quantum


def precision(work: MatMul) -> str:
    """Return "w4a8" and the like; 1.6 bits a weight are computed as 2."""
    return f"w{math.ceil(work.weight_bits)}a{work.activation_bits}"


def rate(array: ArrayUnit, work: MatMul) -> float | Refusal:
    """Return by how much an array is quicker or slower at a precision, or why it cannot do it."""
    if not array.rate:
        return 1.0
    if (key := precision(work)) in array.rate:
        return array.rate[key]
    return Refusal(f"{array.id} multiplies {', '.join(array.rate)}, not {key}")


def parallel_cycles(array: ArrayUnit, work: MatMul) -> float:
    """Return the cycles of one core whose array does m * n * k products a cycle, tile by tile."""
    tile = array.quantum
    products = padded(work.m, tile.m) * padded(work.n, tile.n) * padded(work.k, tile.k)
    return products / (array.m * array.n * array.k)


def output_stationary_cycles(
    array: ArrayUnit, work: MatMul, fused: tuple[int, int] = (1, 1), *, fill: bool = False
) -> int:
    """Return the cycles of a systolic array of m rows and n columns that keeps the outputs.

    Args:
        array: its m and n count.
        work: the product; its m lies along the rows, its n along the columns.
        fused: activations a row and weights a column that a processing element takes together.
        fill: whether to count the wave that fills and drains the array, for each tile.
    """
    rows, columns = array.m * fused[0], array.n * fused[1]
    tiles = -(-work.m // rows) * -(-work.n // columns)
    return tiles * (work.k + (array.m + array.n - 2 if fill else 0))


def weight_stationary_cycles(
    array: ArrayUnit, work: MatMul, fused: tuple[int, int] = (1, 1), *, fill: bool = False
) -> int:
    """Return the cycles of an array that keeps weights: k along the rows, n along the columns.

    Arguments are those of ``output_stationary_cycles``; filling loads m rows of weights.
    """
    rows, columns = array.m * fused[0], array.n * fused[1]
    tiles = -(-work.k // rows) * -(-work.n // columns)
    return tiles * (work.m + (2 * array.m + array.n - 2 if fill else 0))


def bytes_per_s(memory: Memory, access: str = "stream") -> float:
    """Return what the channels in use give, by how they are accessed: a name in ``eff``."""
    share = (memory.channels_used or memory.channels) / memory.channels
    efficiency: float = getattr(memory.eff, access)
    return memory.bw_gbs * 1e9 * share * efficiency


def speed_up(description: Description) -> float:
    """Return how many cores' speed all cores have together."""
    return description.cores.count * description.cores.parallel_efficiency


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a call takes.

    Attributes:
        busy_s: seconds that each unit works; units work at the same time.
        fill_s: seconds in which nothing overlaps: before the first tile, behind the last.
        read: bytes read, by memory.
        written: bytes written, by memory.
        sram_bytes: moved on the chip.
        compute_pj: of the products, or the elements.
    """

    busy_s: Mapping[str, float]
    fill_s: float = 0.0
    read: Mapping[str, float] = field(default_factory=dict)
    written: Mapping[str, float] = field(default_factory=dict)
    sram_bytes: float = 0.0
    compute_pj: float = 0.0


def cost(description: Description, call: Call, demand: Demand, basis: str = ANALYTIC) -> Cost:
    """Return a Cost: the busiest unit sets the time, energy is static, memories, compute, sram.

    Raises:
        DeviceError: no unit works on the call, which would make it free.
    """
    if not demand.busy_s or max(demand.busy_s.values()) <= 0:
        raise DeviceError(f"{description.name}: {call.name} ({call.op_type}) would be free")
    bound = max(demand.busy_s, key=lambda unit: demand.busy_s[unit])
    seconds = demand.busy_s[bound] + demand.fill_s
    moved = dict.fromkeys([*demand.read, *demand.written], 0.0)
    energy = {
        "static": description.energy.static_w * seconds * 1e12,
        "compute": demand.compute_pj,
        "sram": demand.sram_bytes * description.energy.sram_pj_per_byte,
    }
    for name in moved:
        memory = description.memory_named(name)
        read, written = demand.read.get(name, 0.0), demand.written.get(name, 0.0)
        moved[name] = read + written
        energy[name] = 8 * (read * memory.pj_per_bit_rd + written * memory.pj_per_bit_wr)
    return Cost(
        cycles=seconds * description.hz(),
        seconds=seconds,
        macs=call.work.macs,
        bytes=moved,
        busy_s=dict(demand.busy_s),
        energy_pj=energy,
        bound=bound,
        basis=basis,
    )


def mac_pj(description: Description, key: str) -> float:
    """Return the energy of a multiply-accumulate: ``mac_<key>`` of the table, or its ``mac``.

    Raises:
        DeviceError: the table has neither; products are not free.
    """
    table = description.energy.table_pj
    for name in (f"mac_{key}", "mac"):
        if name in table:
            return table[name]
    raise DeviceError(f"{description.name}: energy.table_pj has neither mac_{key} nor mac")


def element_cycles(description: Description, kind: str, elements: int) -> float:
    """Return the cycles that a core's vector unit takes for so many elements, all passes.

    Raises:
        DeviceError: no unit does this kind.
    """
    unit = description.vector_unit(kind)
    return math.ceil(elements / unit.elems_per_cycle) * unit.passes
