"""Attention on FlightLLM, head after head: keys and values in, scores, softmax, weighted sum.

A tile is a head of the cache (of one sequence), with all queries of a block that look at it. The
arrays multiply, MISC does the softmax; the parts are those of the operators' references.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.device import Array, Attention, Call
from edgellm.devices._events import DeviceMemory, Effect
from edgellm.devices._flightllm_isa import Pipeline
from edgellm.errors import DeviceError
from edgellm.ops import _attention as attention
from edgellm.ops import encoder_attention, shiftmax_attention
from edgellm.ops._heads import quantize_heads
from edgellm.ops._integers import INT32_MAX, exact_matmul, normalize, product, round_shift, saturate
from edgellm.ops._shift_exp import normalized, shift_exp

BLOCK = 128
"""Queries of a block: the rows of an MM instruction."""
Numbers = npt.NDArray[Any]
Named = dict[str, Numbers]


class CausalHeads:
    """Attention over a cache; a head of it serves a group of heads of the queries."""

    def __init__(self, call: Call, inputs: Sequence[Numbers]) -> None:
        """Split queries by head of the cache."""
        self._attributes = call.attributes
        query, self._key = inputs[0], inputs[1]
        self._rest = inputs[1:]
        tokens, heads, dim = len(query), self._key.shape[1], self._key.shape[2]
        self._query = query.astype(np.int64).reshape(tokens, heads, -1, dim)
        self.shape = query.shape
        self.dtype = np.int64

    def load(self, block: int, tile: int) -> Named:
        """Return the queries of a block, and the keys and values that they see."""
        tokens, length = len(self._query), len(self._key)
        rows = slice(block * BLOCK, min((block + 1) * BLOCK, tokens))
        seen = length - tokens + rows.stop
        names = ("key", "key_absmax", "value", "value_absmax")
        cut = {
            name: part[:seen, tile : tile + 1] for name, part in zip(names, self._rest, strict=True)
        }
        return {"query": self._query[rows, tile : tile + 1], **cut}

    def scores(self, loaded: Named) -> Named:
        """Return products of queries and keys, in the unit of each query."""
        codes, absmax = quantize_heads(loaded["query"])
        dots = exact_matmul(codes.transpose(1, 2, 0, 3), loaded["key"].transpose(1, 2, 0)[:, None])
        unit = loaded["key_absmax"].T.astype(np.int64)[:, None, None, :]
        return {"scores": dots * unit, "absmax": absmax.transpose(1, 2, 0, 3)}

    def softmax(self, loaded: Named, scores: Named) -> Named:
        """Return weights that are not normalised."""
        attributes = self._attributes
        seen = self._seen(loaded)
        scaling = (attributes["scaling_mantissa"], attributes["scaling_exponent"])
        weights = attention.exp2_weights(scores["scores"], scores["absmax"], seen, scaling)
        return {"softmax": weights}

    def mix(self, loaded: Named, weights: Named) -> Numbers:
        """Return the weighted mean of the values: (tokens, heads * dim)."""
        mean = attention.weighted_mean(
            weights["softmax"], loaded["value"], loaded["value_absmax"], self._seen(loaded)
        )
        mixed: Numbers = mean.transpose(2, 0, 1, 3).reshape(len(loaded["query"]), -1)
        return mixed

    def place(self, block: int, tile: int) -> tuple[slice, slice]:
        """Return where in the output a tile lies."""
        width = self.shape[1] // self._key.shape[1]
        stop = min((block + 1) * BLOCK, self.shape[0])
        return slice(block * BLOCK, stop), slice(tile * width, (tile + 1) * width)

    def _seen(self, loaded: Named) -> npt.NDArray[np.bool_]:
        tokens, keys = len(loaded["query"]), len(loaded["key"])
        return attention.allowed_keys(tokens, keys, self._attributes["window"])


class _SequenceHeads:
    """Attention within sequences: a tile is a head of a sequence."""

    dtype: type[np.generic] = np.int64

    def __init__(self, call: Call, inputs: Sequence[Numbers], heads: int) -> None:
        self._attributes = call.attributes
        self._inputs, self._heads, ends = inputs, heads, inputs[-1].tolist()
        self._sequences = list(zip([0, *ends[:-1]], ends, strict=True))
        self.shape = inputs[0].shape
        width = self.shape[1] // heads
        self._columns = [slice(h * width, (h + 1) * width) for h in range(heads)]
        # The last block takes what sequences of several lengths have beyond their mean.
        self._blocks = 1
        if isinstance(call.work, Attention):
            self._blocks = -(-call.work.tokens // BLOCK)

    def place(self, block: int, tile: int) -> tuple[slice, slice]:
        """Return where in the output a tile lies."""
        sequence, head = divmod(tile, self._heads)
        begin, end = self._sequences[sequence]
        first = min(begin + block * BLOCK, end)
        stop = end if block == self._blocks - 1 else min(first + BLOCK, end)
        return slice(first, stop), self._columns[head]

    def _whole(self, tile: int) -> tuple[slice, slice]:
        sequence, head = divmod(tile, self._heads)
        return slice(*self._sequences[sequence]), self._columns[head]


class EncoderHeads(_SequenceHeads):
    """EncoderAttention."""

    def __init__(self, call: Call, inputs: Sequence[Numbers]) -> None:
        """Split by sequence and head."""
        super().__init__(call, inputs, call.attributes["heads"])

    def load(self, block: int, tile: int) -> Named:
        """Return queries of a block, and the sequence's keys and values."""
        query, key, key_peak, value, value_peak, value_mean, _ = self._inputs
        sequence, columns = tile // self._heads, self._columns[tile % self._heads]
        return {
            "query": query[self.place(block, tile)].astype(np.int64),
            "key": key[self._whole(tile)],
            "key_peak": key_peak[sequence, columns][:1],
            "value": value[self._whole(tile)],
            "value_peak": value_peak[sequence, columns],
            "value_mean": value_mean[sequence, columns],
        }

    def scores(self, loaded: Named) -> Named:
        """Return products of queries and keys, in the unit of each query."""
        codes, absmax = quantize_heads(loaded["query"])
        return {"scores": exact_matmul(codes, loaded["key"].T), "absmax": absmax}

    def softmax(self, loaded: Named, scores: Named) -> Named:
        """Return weights that are not normalised."""
        scaling = (self._attributes["scaling_mantissa"], self._attributes["scaling_exponent"])
        peak = loaded["key_peak"].astype(np.int64)[:, None]
        step = product(product(normalize(scores["absmax"], 0), normalize(peak, 0)), scaling)
        dots = scores["scores"]
        best = dots.max(axis=-1, keepdims=True)
        return {"softmax": encoder_attention.exp2_weights(best - dots, *step)}

    def mix(self, loaded: Named, weights: Named) -> Numbers:
        """Return the weighted mean of the values."""
        total = exact_matmul(weights["softmax"], loaded["value"].astype(np.int64))
        divisor = weights["softmax"].sum(axis=-1, keepdims=True)
        mean = encoder_attention.mean_codes(total, divisor)
        return encoder_attention.add_mean(mean, loaded["value_peak"], loaded["value_mean"])


class ShiftmaxHeads(_SequenceHeads):
    """ShiftmaxAttention."""

    dtype = np.int32

    def __init__(self, call: Call, inputs: Sequence[Numbers]) -> None:
        """Split by sequence and head."""
        super().__init__(call, inputs, len(inputs[3]))

    def load(self, block: int, tile: int) -> Named:
        """Return queries of a block, and the sequence's keys and values."""
        query, key, value, multiplier, _ = self._inputs
        return {
            "query": query[self.place(block, tile)],
            "key": key[self._whole(tile)],
            "value": value[self._whole(tile)],
            "multiplier": multiplier[tile % self._heads].astype(np.int64),
        }

    def scores(self, loaded: Named) -> Named:
        """Return products of queries and keys."""
        return {"scores": exact_matmul(loaded["query"], loaded["key"].T)}

    def softmax(self, loaded: Named, scores: Named) -> Named:
        """Return Shiftmax of the scaled products."""
        known = self._attributes
        wide = round_shift(scores["scores"] * loaded["multiplier"], known["shift"])
        found = saturate(wide, shiftmax_attention.SCORE_LIMIT)
        best = found.max(axis=-1, keepdims=True)
        e = shift_exp(found - best, known["unit"], known["n"], known["half_bit"])
        return {"softmax": normalized(e, e.sum(axis=-1, keepdims=True), known["bits"])}

    def mix(self, loaded: Named, weights: Named) -> Numbers:
        """Return the weighted sum of the values."""
        total = exact_matmul(weights["softmax"], loaded["value"].astype(np.int64))
        return saturate(total, INT32_MAX)


Heads = CausalHeads | EncoderHeads | ShiftmaxHeads
KINDS: dict[str, type[CausalHeads] | type[EncoderHeads] | type[ShiftmaxHeads]] = {
    "Attention": CausalHeads,
    "EncoderAttention": EncoderHeads,
    "ShiftmaxAttention": ShiftmaxHeads,
}


class HeadEffects:
    """What the instructions of one attention compute; buffers hold one head."""

    def __init__(
        self, call: Call, inputs: Sequence[Numbers], pipelines: Sequence[Pipeline]
    ) -> None:
        """Split the inputs into heads.

        Raises:
            DeviceError: the operator's arithmetic is not known here.
        """
        if call.op_type not in KINDS:
            raise DeviceError(f"{call.name}: {call.op_type} has no arithmetic here")
        self._heads: Heads = KINDS[call.op_type](call, inputs)
        self._pipelines = pipelines
        self._stores = any(step.role == "store" for step in pipelines[0].steps)
        self.memory = DeviceMemory()

    def effect(self, pipeline: int, role: str, tile: int) -> Effect:
        """Return what a step of a head does; a pipeline is a block of queries."""
        heads = self._heads
        names = tuple(heads.load(pipeline, tile))
        out = f"out.{pipeline}.{tile}"

        def loaded(memory: DeviceMemory) -> Named:
            return {name: memory[f"A.{name}"] for name in names}

        def load(memory: DeviceMemory) -> Mapping[str, Array]:
            del memory
            return {f"A.{name}": part for name, part in heads.load(pipeline, tile).items()}

        def scores(memory: DeviceMemory) -> Mapping[str, Array]:
            return _global(heads.scores(loaded(memory)))

        def softmax(memory: DeviceMemory) -> Mapping[str, Array]:
            kept = ("scores", "absmax") if "global.absmax" in memory else ("scores",)
            found = {name: memory[f"global.{name}"] for name in kept}
            return _global(heads.softmax(loaded(memory), found))

        def mix(memory: DeviceMemory) -> Mapping[str, Array]:
            mixed = heads.mix(loaded(memory), {"softmax": memory["global.softmax"]})
            return {"global.mix" if self._stores else out: mixed}

        def store(memory: DeviceMemory) -> Mapping[str, Array]:
            return {out: memory["global.mix"]}

        steps = {"cache": load, "scores": scores, "softmax": softmax, "mix": mix, "store": store}
        return steps[role]

    def outputs(self) -> tuple[Array, ...]:
        """Return all heads, side by side."""
        out = np.empty(self._heads.shape, self._heads.dtype)
        for block, pipeline in enumerate(self._pipelines):
            for tile in range(pipeline.tiles):
                out[self._heads.place(block, tile)] = self.memory[f"out.{block}.{tile}"]
        return (out,)


def _global(named: Named) -> Named:
    return {f"global.{name}": part for name, part in named.items()}
