"""How FlightLLM cuts a call into tiles: the sizes, cycles, bytes and instructions of each.

One core's stream stands for all: cores share each instruction, and their speeds add up times the
parallel efficiency. The authors' own profiler counts so (test_demo, uniform factor 3.2 = 4 * 0.8).
"""

import math
from dataclasses import dataclass

from edgellm.device import Attention, Call, Elementwise, MatMul, Move
from edgellm.devices import _model
from edgellm.devices._description import Description
from edgellm.devices._flightllm_isa import Pipeline, Step
from edgellm.errors import DeviceError
from edgellm.ternary_layouts import GATED_OPERATORS

HBM = "hbm"
FUSED = ("activation", "add", "mul", "requantize", "rotary")
"""Done on what a product has just left in the global buffer, before it is stored."""
K_LIMIT = 16_368
"""Inputs of one instruction: K has 14 bits, and counts in steps of 16."""
MODES = ("MV", "MM")
POST = (*GATED_OPERATORS, "LogitsHead", "Int4LogitsHead", "PlanarLogitsHead")
"""Products whose accumulators MISC changes once more."""


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a product is cut.

    Attributes:
        unit: MM for many rows, MV for few.
        rows: of activations in a block.
        row_blocks: how many blocks.
        n: outputs of a tile.
        n_tiles: tiles along the outputs.
        k: inputs of a tile, padded.
        k_slices: tiles along the inputs.
        kept: numbers N of the N:16 blocks that the array can do.
    """

    unit: str
    rows: int
    row_blocks: int
    n: int
    n_tiles: int
    k: int
    k_slices: int
    kept: tuple[int, ...]


class Schedule:
    """Cuts calls into pipelines, by a description."""

    def __init__(self, description: Description) -> None:
        """Look up what a description must have for this device."""
        self._about = description
        self._hbm = description.memory_named(HBM)
        self._arrays = {name: description.array_named(name) for name in ("MM", "MV")}
        self._buffers = {buffer.id: buffer for buffer in description.buffer}
        self._speed_up = _model.speed_up(description)
        used = self._hbm.channels_used or self._hbm.channels
        self._channels = max(used // description.cores.count, 1)

    def pipelines(self, call: Call) -> tuple[Pipeline, ...]:
        """Return what a call amounts to, one pipeline after the other; none without rows.

        Raises:
            DeviceError: there is no rule for it.
        """
        match call.work:
            case MatMul(m=0):  # a logits head, in all but the last part of a prompt
                return ()
            case MatMul() as work:
                post = self._post(work) if call.op_type in POST else ()
                return (*self._product(call, work), *post)
            case Attention() as work:
                return self._attention(work)
            case Elementwise() as work:
                return (self._elementwise(work),)
            case Move() as work:
                return (self._move(call, work),)

    def tiling(self, work: MatMul) -> Tiling:
        """Return how a product is cut: by MV where its rows are so few that MM would be padding."""
        by_row, by_block = (self._array_cycles(unit, work.m, work.n, work.k) for unit in MODES)
        unit = "MV" if by_row <= by_block else "MM"
        quantum, rule = self._arrays[unit].quantum, self._arrays[unit].sparsity
        slices = -(-work.k // self._most_inputs(unit, work))
        block = max(work.m, 1) if unit == "MV" else quantum.m
        return Tiling(
            unit=unit,
            rows=block,
            row_blocks=-(-work.m // block),
            n=quantum.n,
            n_tiles=-(-work.n // quantum.n),
            k=_model.padded(-(-work.k // slices), quantum.k),
            k_slices=slices,
            kept=rule.n if rule is not None else (),
        )

    def passes(self, call: Call) -> int:
        """Return how often a product goes through the array: ShiftAddLinear plane after plane."""
        work = call.work
        planes = call.op_type == "ShiftAddLinear" and isinstance(work, MatMul)
        return math.ceil(work.weight_bits) if planes and isinstance(work, MatMul) else 1

    def _most_inputs(self, unit: str, work: MatMul) -> int:
        """Return how many inputs a tile may have: by the instruction, and half a buffer."""
        quantum = self._arrays[unit].quantum
        buffer = self._buffers["A" if unit == "MV" else "B"]
        room = buffer.bytes // (2 if buffer.double else 1)
        fits = int(room * 8 / (quantum.n * work.weight_bits))
        if work.index_bits:
            bits = quantum.n * work.density * work.index_bits
            fits = min(fits, int(self._buffers["meta"].bytes * 8 / bits))
        limit = int(self._about.parameters["mv_inputs"]) if unit == "MV" else K_LIMIT
        most = min(fits, limit) // quantum.k * quantum.k
        if most < quantum.k:
            raise DeviceError(
                f"{self._about.name}: buffer {buffer.id} of {buffer.bytes} bytes holds no tile of "
                f"{quantum.n} x {quantum.k} weights"
            )
        return most

    def _array_cycles(self, unit: str, rows: int, outputs: int, inputs: int) -> float:
        """Return the cycles of one core for a product, padded to the unit's quantum."""
        array = self._arrays[unit]
        work = MatMul(m=rows, k=inputs, n=outputs)
        return _model.parallel_cycles(array, work)

    def _product(self, call: Call, work: MatMul) -> tuple[Pipeline, ...]:
        """Return the products: weights stream past activations that stay."""
        tiling = self.tiling(work)
        tiles = tiling.n_tiles * (tiling.k_slices if tiling.unit == "MV" else 1)
        weights = self._weights(work, tiling, tiles)
        array = self._arrays[tiling.unit]
        inputs = tiling.k * (tiling.k_slices if tiling.unit == "MM" else 1)
        cycles = self._array_cycles(tiling.unit, tiling.rows, tiling.n, inputs)
        if array.sparsity is not None and array.sparsity.compute_scaled:
            cycles *= work.density
        multiply = Step(
            unit=tiling.unit,
            role="multiply",
            cycles=cycles * self.passes(call) / self._speed_up,
            instructions=self.passes(call)
            * (tiling.rows if tiling.unit == "MV" else tiling.k_slices),
        )
        rows = min(work.m, tiling.rows)
        scale = self._scale(call, work, tiling) if work.group_size else ()
        out = () if self.on_chip(work.m * work.n) else (self._store(rows * work.n / tiles),)
        main = Pipeline(steps=(weights, multiply, *scale, *out), tiles=tiles, overlap=True)
        if tiling.unit == "MV" or self.on_chip(work.m * work.k):
            return (main,) * tiling.row_blocks
        block = Pipeline(steps=(self._load("activations", rows * work.k),), tiles=1)
        return (block, main) * tiling.row_blocks

    def _weights(self, work: MatMul, tiling: Tiling, tiles: int) -> Step:
        """Return the load of a tile's weights.

        For MV they fill buffer A, which all of a core's channels feed; for MM buffer B, which
        ``mm_weight_channels`` of them reach across the crossbar.
        """
        size = work.weight_bytes / tiles
        # Indices, a channel each, and N of the blocks; scales of groups.
        extra = (self._a_channel() + 1 if work.index_bits else 0) + bool(work.group_size)
        if tiling.unit == "MV":
            return self._load("weights", size, extra=extra)
        share = min(self._about.parameters["mm_weight_channels"] / self._channels, 1.0)
        return Step(
            unit="LD",
            role="weights",
            cycles=self._cycles_of_bytes(size, _model.bytes_per_s(self._hbm, "cross") * share),
            memory=HBM,
            bytes=size,
            instructions=tiling.k_slices * self._a_channel() + extra,
        )

    def _scale(self, call: Call, work: MatMul, tiling: Tiling) -> tuple[Step, ...]:
        """Return what MISC does with the sum of each group (and plane): times a scale, and add."""
        slices = tiling.k_slices if tiling.unit == "MV" else 1
        sums = min(work.m, tiling.rows) * tiling.n * work.groups * self.passes(call) / slices
        return (self._misc("scale", ("mul", "add"), sums),)

    def _post(self, work: MatMul) -> tuple[Pipeline, ...]:
        """Return what MISC does with each accumulator: masks it, or scales it to a logit."""
        tiling = self.tiling(work)
        tiles = tiling.row_blocks * tiling.n_tiles
        return (
            Pipeline(steps=(self._misc("post", ("mul",), work.m * work.n / tiles),), tiles=tiles),
        )

    def _attention(self, work: Attention) -> tuple[Pipeline, ...]:
        """Return the heads one after the other; scores stay on the chip (attention + softmax).

        Nothing overlaps within a head or between heads. That is a conclusion from the artifact's
        decoding times: loading, MV and MISC of a position take 0.53 + 0.89 + 0.18 us by these
        equations, and its time grows by 1.58 us a position. Blocks of queries skip the keys that
        none of them sees.
        """
        block = self._arrays["MM"].quantum.m
        return tuple(
            self._heads(work, first, min(block, work.tokens - first))
            for first in range(0, work.tokens, block)
        )

    def _heads(self, work: Attention, first: int, tokens: int) -> Pipeline:
        """Return all heads for a block of queries; a tile is a head of the cache."""
        seen = work.length - work.tokens + first + tokens if work.causal else work.length
        keys = min(seen, work.window + tokens - 1) if work.window else seen
        rows = tokens * work.heads // work.kv_heads
        size = 2 * keys * work.head_dim * work.kv_bits / 8
        unit = self._quicker(rows, keys, work.head_dim)
        kept = self.on_chip(work.sequences * work.tokens * work.heads * work.head_dim)
        carried = 0 if kept else rows * work.head_dim
        load = self._load("cache", size + carried, extra=self._a_channel())
        count = rows if unit == "MV" else -(-rows // self._arrays["MM"].quantum.m)
        steps = (
            load,
            self._multiply("scores", unit, (rows, keys, work.head_dim), count),
            self._misc("softmax", ("softmax",), rows * keys, rows),
            self._multiply("mix", unit, (rows, work.head_dim, keys), count),
        )
        store = () if kept else (self._store(carried),)
        return Pipeline(steps=steps + store, tiles=work.sequences * work.kv_heads)

    def _quicker(self, rows: int, keys: int, dim: int) -> str:
        cycles = {
            unit: self._array_cycles(unit, rows, keys, dim)
            + self._array_cycles(unit, rows, dim, keys)
            for unit in MODES
        }
        return min(cycles, key=lambda unit: cycles[unit])

    def _multiply(self, role: str, unit: str, sizes: tuple[int, int, int], count: int) -> Step:
        cycles = self._array_cycles(unit, *sizes) / self._speed_up
        return Step(unit=unit, role=role, cycles=cycles, instructions=count)

    def _elementwise(self, work: Elementwise) -> Pipeline:
        """Return vectors through MISC; what is fused lies in the global buffer already."""
        kinds = (work.kind, "mul") if work.kind == "activation" and work.binary else (work.kind,)
        tiles = -(-work.elements // (self._buffers["global"].bytes // 2))
        if tiles == 0:
            raise DeviceError(f"{self._about.name}: a vector without elements")
        size = work.elements / tiles
        vectors = math.ceil(size / self._about.parameters["misc_vector"])
        misc = self._misc("compute", kinds, size, vectors)
        if self.on_chip(work.elements):
            return Pipeline(steps=(misc,), tiles=tiles)
        other = size if work.binary and work.kind == "add" else 0.0
        if work.kind in FUSED:
            loads = (self._load("operands", other),) if other else ()
            return Pipeline(steps=(*loads, misc), tiles=tiles, overlap=True)
        load = self._load("operands", size * (2 if work.binary else 1))
        return Pipeline(steps=(load, misc, self._store(size)), tiles=tiles, overlap=True)

    def _move(self, call: Call, work: Move) -> Pipeline:
        """Return rows that are read; or those of a cache: quantised, and written."""
        if work.bytes <= 0:
            raise DeviceError(f"{self._about.name}: {call.name} ({call.op_type}) would be free")
        if call.op_type == "CacheAppend":
            steps = (self._misc("compute", ("quantize",), work.bytes), self._store(work.bytes))
            return Pipeline(steps=steps, tiles=1)
        store = () if self.on_chip(work.bytes) else (self._store(work.bytes),)
        return Pipeline(steps=(self._load("operands", work.bytes), *store), tiles=1)

    def on_chip(self, elements: float) -> bool:
        """Return whether int8 activations stay in the global buffers of all cores.

        Half of a buffer is for what goes in, half for what comes out.
        """
        place = self._about.placement
        room = self._buffers["global"].bytes // 2 * self._about.cores.count
        return place is not None and place.always_on_chip_decode and elements <= room

    def _load(self, role: str, size: float, *, extra: int = 0) -> Step:
        return Step(
            unit="LD",
            role=role,
            cycles=self._cycles_of_bytes(size, _model.bytes_per_s(self._hbm)),
            memory=HBM,
            bytes=size,
            instructions=self._a_channel() + extra,
        )

    def _store(self, size: float) -> Step:
        return Step(
            unit="ST",
            role="store",
            cycles=self._cycles_of_bytes(size, _model.bytes_per_s(self._hbm, "write")),
            memory=HBM,
            bytes=size,
            instructions=self._a_channel(),
        )

    def _a_channel(self) -> int:
        """Return the instructions of a transfer: one a channel, unless the compiler merges them."""
        return 1 if self._about.compile.merge_channels else self._channels

    def _cycles_of_bytes(self, size: float, rate: float) -> float:
        seconds = size / (rate * self._about.cores.parallel_efficiency)
        return seconds * self._about.hz()

    def _misc(self, role: str, kinds: tuple[str, ...], elements: float, count: int = 1) -> Step:
        """Return what the special functions' unit does, one kind after the other."""
        units = [self._about.vector_unit(kind) for kind in kinds]
        cycles = sum(elements * unit.passes / unit.elems_per_cycle for unit in units)
        return Step(
            unit="MISC",
            role=role,
            cycles=cycles / self._speed_up,
            instructions=count * len(units),
        )
