"""The lowering of encoders to I-ViT's arithmetic: its operators, with scales known beforehand.

Activations are int8 codes of scales that were measured on calibration inputs, the residual stream
has 16 bits. Against I-ViT as published the scales are finer where that costs nothing at run time: a
value that the next requantisation multiplies channel by channel anyway has a scale a channel, and
queries and keys have one a head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgellm.errors import ExportError
from edgellm.exporters.activation_statistics import SCORES, Floats, Statistics
from edgellm.exporters.fixed_point import check_shift, dyadic, multipliers, requantizer
from edgellm.exporters.lowering.encoder_integer import (
    EncoderValue,
    Hidden,
    IntegerEncoderLowering,
)
from edgellm.exporters.lowering.encoder_interface import ImageEmbedding, TextTables
from edgellm.exporters.lowering.integer_values import LOGITS_FRAME, node_name
from edgellm.exporters.lowering.ivit_faults import Faults, gelu_error, softmax_error
from edgellm.exporters.quantizers import int8
from edgellm.exporters.quantizers.ranges import CODE_LIMIT, choose_limit, rounded
from edgellm.exporters.weights import FloatMatrix
from edgellm.graph_names import ENDS
from edgellm.ops._gelu import FRAME
from edgellm.ops._shift_exp import unit_of
from edgellm.ops.i_layer_norm import UNIT_BITS
from edgellm.ops.shift_gelu import PUBLISHED as GELU
from edgellm.ops.shift_gelu import SLOPE
from edgellm.ops.shiftmax import PYTORCH as SOFTMAX

STREAM_BITS = 16
STREAM_ROOM = 2.0
"""The residual stream has room for so many times the largest magnitude of the calibration."""
SMOOTHING = 0.5
"""How much of the spread of channels the activations give to the weights (SmoothQuant)."""
FINEST_SCORE = 2.0**-12
FINEST_GELU = 1 / (255 * SLOPE)
"""Scales below these would take exponentials of more than 31 bits."""
WIDEST_SPREAD = 2.0**10
"""A channel's scale is at most so much smaller than the largest."""


@dataclass(frozen=True)
class Stream:
    """Integers of 16 bits with one scale; ``site`` is the path of what was measured of them."""

    site: str
    name: str
    scale: float


@dataclass(frozen=True)
class Terms:
    """int32 that are still to be requantised: real = integer * scale[n] + bias[n].

    Attributes:
        site: path of what was measured of these values.
        name: of the value.
        scale: (N,) of either sign.
        bias: (N,) real.
        low: the least code: 0 after ReLU.
    """

    site: str
    name: str
    scale: Floats
    bias: Floats
    low: int = -CODE_LIMIT


IvitValue = Stream | Terms


class IvitEncoderLowering:
    """Emits the graph of ARCHITECTURE.md for an encoder in I-ViT's arithmetic.

    Attributes:
        scales: the real scale of what each requantisation makes, by site and kind.
        faults: where the published operators are outside of their range.
    """

    def __init__(
        self, ends: IntegerEncoderLowering, statistics: Statistics, range_choice: str
    ) -> None:
        """Get ready.

        Args:
            ends: makes the beginning and the end of the graph, which have the sound arithmetic.
            statistics: of the activations.
            range_choice: see ``quantizers.ranges``.
        """
        self.ends = ends
        self.graph = ends.graph
        self.weights = ends.weights
        self.range_choice = range_choice
        self.scales: dict[str, Floats] = {}
        self.faults = Faults()
        self._statistics = statistics
        self._streams: dict[str, Stream] = {}
        self._inputs: dict[str, tuple[str, Floats]] = {}

    @property
    def output_frame(self) -> int:
        """The fixed point of the output."""
        return self.ends.output_frame

    def image_tokens(self, tokens: ImageEmbedding) -> IvitValue:
        """ExtractPatches, Int8Linear, ImageTokens; then 16 bits."""
        rows = self.ends.image_tokens(tokens)
        return self._begin(tokens.projection, rows, tokens.hidden_size)

    def text_tokens(self, tables: TextTables) -> IvitValue:
        """TextEmbedding; then 16 bits."""
        return self._begin(tables.words, self.ends.text_tokens(tables), tables.hidden_size)

    def _begin(self, site: str, rows: EncoderValue, size: int) -> Stream:
        return self._stream(Terms(site, rows.name, np.full(size, 2.0**-FRAME), np.zeros(size)))

    def layer_norm(self, path: str, x: IvitValue, size: int) -> IvitValue:
        """ILayerNorm; the norm weight becomes part of what follows."""
        stream = self._stream(x)
        gamma = self.weights.vector(f"{path}.weight", size).astype(np.float64)
        beta = self.weights.vector(f"{path}.bias", size).astype(np.float64)
        scale = gamma * math.sqrt(size) * 2.0**-UNIT_BITS
        # The bias is in units of the result; where those cannot hold it, what follows adds it.
        fits = np.abs(beta) < np.abs(scale) * 2.0**UNIT_BITS
        units = np.where(fits, beta / np.where(fits, scale, 1.0), 0.0)
        self.faults.see_norm(path, self._statistics[x.site].sample / stream.scale)
        bias = self.graph.initializer(f"{path}.bias", np.floor(units).astype(np.int32))
        node = self._unused(node_name(path, "ILayerNorm"))
        (name,) = self.graph.call("ILayerNorm", node, [stream.name, bias])
        return Terms(path, name, scale, np.where(fits, 0.0, beta))

    def linear(
        self, path: str, x: IvitValue, shape: tuple[int, int], *, bias: bool = True
    ) -> IvitValue:
        """Int8Linear on int8 codes; the scales of its input's channels go into the weight.

        What weights and activations lose by rounding is made good in the mean, by the bias.
        """
        name, scale = self._linear_input(_terms(x))
        matrix = self.weights.linear(path, shape)
        if not isinstance(matrix, FloatMatrix):
            raise ExportError(f"{path}: ternary weights have no place in I-ViT's arithmetic")
        weight = np.concatenate(list(matrix.blocks())).astype(np.float64)
        codes, row_scale = int8.quantize_rows((weight * scale).astype(np.float32))
        stored = self.graph.initializer(f"{path}.weight", codes)
        node = self._unused(node_name(path, "Int8Linear"))
        (acc,) = self.graph.call("Int8Linear", node, [name, stored])
        added = self.weights.vector(f"{path}.bias", shape[0]) if bias else np.zeros(shape[0])
        sample = self._statistics[x.site].sample
        lost = sample @ weight.T - (rounded(sample, scale) / scale) @ (codes.T * row_scale)
        return Terms(path, acc, row_scale, added + lost.mean(axis=0))

    def attention(
        self, path: str, query: IvitValue, key: IvitValue, value: IvitValue, heads: int
    ) -> IvitValue:
        """ShiftmaxAttention on int8 queries, keys and values."""
        q, k, v = (_terms(part) for part in (query, key, value))
        # What makes a channel of the queries larger and the same of the keys smaller leaves dots.
        spread = np.sqrt(self._peak(k) / self._peak(q))
        q_scale, k_scale = (
            self._head_scales(q, spread, heads),
            self._head_scales(k, 1 / spread, heads),
        )
        v_scale = self._peak(v) / CODE_LIMIT
        scales = ((q, q_scale / spread), (k, k_scale * spread), (v, v_scale))
        names = [self._requantize(part, scale) for part, scale in scales]
        score_scale = self._score_scale(path)
        dim = len(spread) // heads
        steps = (q_scale * k_scale)[::dim] / math.sqrt(dim) / score_scale
        factors = multipliers(steps, path)
        multiplier = self.graph.initializer(f"{path}.multiplier", factors.values)
        attributes = {"shift": factors.shift, "unit": unit_of(score_scale), **SOFTMAX}
        node = node_name(path, "ShiftmaxAttention")
        inputs = [*names, multiplier, ENDS]
        (name,) = self.graph.call("ShiftmaxAttention", node, inputs, attributes)
        return Terms(path, name, v_scale * 2.0 ** (1 - SOFTMAX["bits"]), np.zeros(len(spread)))

    def _head_scales(self, x: Terms, factor: Floats, heads: int) -> Floats:
        """Return the scale of ``x * factor`` of each column, one a head."""
        site = self._statistics[x.site]
        parts = np.split(site.sample * factor, heads, axis=1)
        peaks = np.split(site.peak * factor, heads)
        limits = [
            choose_limit(part, float(peak.max()), self.range_choice)
            for part, peak in zip(parts, peaks, strict=True)
        ]
        return np.repeat(limits, len(factor) // heads) / CODE_LIMIT

    def _score_scale(self, path: str) -> float:
        """Return the scale of scores at which Shiftmax is nearest to the softmax."""
        site = self._statistics[path + SCORES]
        limit = choose_limit(
            np.concatenate([rows.ravel() for rows in site.rows]).astype(np.float64),
            float(site.peak.max()),
            self.range_choice,
            softmax_error(site.rows),
        )
        scale = max(limit / CODE_LIMIT, FINEST_SCORE)
        self.scales[path + SCORES] = np.array([scale])
        self.faults.see_softmax(path, site.rows, scale)
        return scale

    def activation(self, path: str, x: IvitValue, act: str) -> IvitValue:
        """A clamp for ReLU; ShiftGelu for both forms of GELU."""
        sums = _terms(x)
        if act == "relu":
            return replace(sums, site=path, low=0)
        site = self._statistics[sums.site]
        peak, sample = float(site.peak.max()), site.sample
        limit = choose_limit(sample, peak, self.range_choice, gelu_error(sample))
        scale = max(limit / CODE_LIMIT, FINEST_GELU)
        self.faults.see_gelu(path, sample.max(axis=1))
        size = len(sums.scale)
        codes = self._requantize(sums, np.full(size, scale))
        node = node_name(path, "ShiftGelu")
        attributes = {"unit": unit_of(SLOPE * scale), **GELU}
        (name,) = self.graph.call("ShiftGelu", node, [codes], attributes)
        return Terms(path, name, np.full(size, scale * 2.0 ** (1 - GELU["bits"])), np.zeros(size))

    def residual_add(self, path: str, x: IvitValue, y: IvitValue) -> IvitValue:
        """DyadicAdd of two streams."""
        streams = [self._stream(x), self._stream(y)]
        scale = self._stream_scale(path)
        attributes: dict[str, int] = {}
        for letter, stream in zip("xy", streams, strict=True):
            mantissa, shift = dyadic(stream.scale / scale)
            check_shift(shift, path)
            attributes |= {f"{letter}_mantissa": mantissa, f"{letter}_shift": shift}
        node = node_name(path, "DyadicAdd")
        names = [stream.name for stream in streams]
        (name,) = self.graph.call("DyadicAdd", node, names, {**attributes, "bits": STREAM_BITS})
        return Stream(path, name, scale)

    def select_row(self, path: str, x: IvitValue, row: int) -> IvitValue:
        """SelectRows."""
        stream = self._stream(x)
        chosen = self.ends.select_row(path, Hidden(stream.name, FRAME), row)
        return replace(stream, name=chosen.name)

    def logits(self, heads: Sequence[IvitValue], labels: int) -> None:
        """DyadicRequantizeWide of each head, and their sum."""
        unit = len(heads) * 2.0**-LOGITS_FRAME
        outputs = ["logits"] if len(heads) == 1 else []
        name, *others = [self._wide(_terms(head), unit, 32, outputs) for head in heads]
        for other in others:
            outputs = ["logits"] if other == others[-1] else []
            one = {"x_mantissa": 2**30, "x_shift": 30, "y_mantissa": 2**30, "y_shift": 30}
            node = f"{other}/sum"
            (name,) = self.graph.call(
                "DyadicAdd", node, [name, other], {**one, "bits": 32}, outputs
            )
        self.graph.output("logits", "int32", ("images", labels))

    def embeddings(self, path: str, x: IvitValue, pooling: str, *, normalize: bool) -> None:
        """DyadicRequantizeWide to a fixed point; then as in the sound arithmetic."""
        name = self._wide(_terms(x), 2.0**-FRAME, 32)
        self.ends.embeddings(path, Hidden(name, FRAME), pooling, normalize=normalize)

    def _linear_input(self, x: Terms) -> tuple[str, Floats]:
        """Return the codes of a linear's input, and the scale of each channel."""
        if x.name not in self._inputs:
            peak = self._peak(x)
            shape = np.maximum((peak / peak.max()) ** SMOOTHING, 1 / WIDEST_SPREAD)
            sample = self._statistics[x.site].sample / shape
            limit = choose_limit(sample, float((peak / shape).max()), self.range_choice)
            scale = shape * limit / CODE_LIMIT
            self._inputs[x.name] = self._requantize(x, scale), scale
        return self._inputs[x.name]

    def _requantize(self, x: Terms, scale: Floats) -> str:
        """Emit the codes of a value: real = code * scale."""
        inputs, shift = self._constants(x, scale, "codes")
        node = self._unused(node_name(x.site, "DyadicRequantize"))
        attributes = {"shift": shift, "low": x.low}
        return self.graph.call("DyadicRequantize", node, inputs, attributes)[0]

    def _wide(self, x: Terms, scale: float, bits: int, outputs: Sequence[str] = ()) -> str:
        """Emit integers of a value: real = integer * scale."""
        inputs, shift = self._constants(x, np.full(len(x.scale), scale), f"wide{bits}")
        node = self._unused(node_name(x.site, f"DyadicRequantizeWide{bits}"))
        attributes = {"shift": shift, "bits": bits}
        return self.graph.call("DyadicRequantizeWide", node, inputs, attributes, outputs)[0]

    def _constants(self, x: Terms, scale: Floats, kind: str) -> tuple[list[str], int]:
        """Store what a requantisation takes; return the names of its inputs, and its shift."""
        self.scales[f"{x.site}.{kind}"] = scale
        constants = requantizer(x.scale / scale, x.bias / scale, x.site)
        multiplier = self.graph.initializer(f"{x.site}.{kind}.multiplier", constants.multiplier)
        offset = self.graph.initializer(f"{x.site}.{kind}.offset", constants.offset)
        return [x.name, multiplier, offset], constants.shift

    def _stream(self, x: IvitValue) -> Stream:
        """Return a value in 16 bits, requantised at most once."""
        if isinstance(x, Stream):
            return x
        if x.name not in self._streams:
            scale = self._stream_scale(x.site)
            self._streams[x.name] = Stream(x.site, self._wide(x, scale, STREAM_BITS), scale)
        return self._streams[x.name]

    def _stream_scale(self, site: str) -> float:
        peak = float(self._statistics[site].peak.max())
        return STREAM_ROOM * (peak or 1.0) / (2 ** (STREAM_BITS - 1) - 1)

    def _peak(self, x: Terms) -> Floats:
        """Return the largest magnitude of each column; none is 0, nor far below the largest."""
        peak = self._statistics[x.site].peak
        return np.maximum(peak, (peak.max() or 1.0) / WIDEST_SPREAD**2)

    def _unused(self, node: str) -> str:
        """Return a name for a node that may be there twice, of two class tokens."""
        while node in self.graph.shapes:
            node += "_again"
        return node


def _terms(x: IvitValue) -> Terms:
    if not isinstance(x, Terms):
        raise ExportError(f"{x.name}: sums are needed, not the residual stream")
    return x
