"""The integer lowering of encoders: each step becomes operators of ``ai.edgellm``.

The residual stream, queries, keys, values and what activations see are int32 in the fixed point 18
(real = integer * 2^-18, up to 8191); linears take int8 codes with a scale a row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgellm.errors import ExportError
from edgellm.exporters.fixed_point import check_shift, dyadic, multipliers, norm_weight
from edgellm.exporters.graph import GraphBuilder
from edgellm.exporters.lowering.encoder_interface import ImageEmbedding, TextTables
from edgellm.exporters.lowering.integer_constants import add_fixed, add_multiplier
from edgellm.exporters.lowering.integer_values import (
    INT8_LIMIT,
    LOGITS_FRAME,
    USUAL_PEAK,
    Codes,
    node_name,
    norm_attributes,
)
from edgellm.exporters.lowering.patch_weights import PixelScale, fold_pixels
from edgellm.exporters.lowering.stored_weights import (
    Floats,
    LinearQuantizer,
    StoredWeights,
    multiply,
)
from edgellm.exporters.quantizers import int8
from edgellm.exporters.weights import WeightSource
from edgellm.graph_names import ENDS, IDS, PIXELS, POSITIONS, TYPES
from edgellm.ops._gelu import FRAME, GELU, GELU_TANH, RELU
from edgellm.ops.l2_normalize import FRAME as UNIT_FRAME
from edgellm.ops.layer_norm_quantize import UNIT_BITS

ACTIVATIONS = {"relu": RELU, "gelu": GELU, "gelu_tanh": GELU_TANH}
EMBEDDINGS = "embeddings"


@dataclass(frozen=True)
class Hidden:
    """int32 in a fixed point; of a LayerNorm also the codes that linears take."""

    name: str
    frame: int
    codes: Codes | None = None


@dataclass(frozen=True)
class Sums:
    """int32 sums of a linear: real = sum * scale of x * weight_scale[n] + bias[n]."""

    path: str
    name: str
    x: Codes
    weight_scale: Floats
    bias: Floats


EncoderValue = Hidden | Codes | Sums


class IntegerEncoderLowering:
    """Emits the graph of ARCHITECTURE.md for an encoder; ``pixels`` says what bytes mean."""

    def __init__(
        self,
        graph: GraphBuilder,
        weights: WeightSource,
        layer_norm_eps: float,
        pixels: PixelScale | None = None,
        quantizer: LinearQuantizer | None = None,
    ) -> None:
        self.graph = graph
        self.weights = weights
        self.layer_norm_eps = layer_norm_eps
        self.pixels = pixels
        self.output_frame = LOGITS_FRAME
        self._stored = StoredWeights(graph, weights, quantizer)

    def image_tokens(self, tokens: ImageEmbedding) -> EncoderValue:
        """ExtractPatches, Int8Linear, ImageTokens."""
        if self.pixels is None:
            raise ExportError(f"{tokens.projection}: images need the scale of their pixels")
        graph, cut = self.graph, tokens.patches
        shape = ("images", cut.rows, cut.height, cut.columns, cut.width * cut.channels)
        graph.input(PIXELS, "uint8", shape)
        graph.input(ENDS, "int64", ("images",))
        path = tokens.projection
        kernel, bias = fold_pixels(self.weights, tokens, self.pixels)
        codes, scale = int8.quantize_rows(kernel)
        weight = graph.initializer(f"{path}.weight", codes)
        rows = graph.call("ExtractPatches", node_name(path, "ExtractPatches"), [PIXELS])
        (acc,) = graph.call("Int8Linear", node_name(path, "Int8Linear"), [*rows, weight])
        factors = multipliers(scale * 2.0**FRAME, path)
        check_shift(factors.shift, path)
        multiplier = graph.initializer(f"{path}.multiplier", factors.values)
        inputs = [acc, ENDS, multiplier, *self._tokens_of(tokens, bias)]
        embeddings = path.rpartition(".")[0].rpartition(".")[0]
        (name,) = graph.call(
            "ImageTokens", node_name(embeddings, "ImageTokens"), inputs, {"shift": factors.shift}
        )
        return Hidden(name, FRAME)

    def _tokens_of(self, tokens: ImageEmbedding, bias: Floats) -> tuple[str, str]:
        """Store what is added: prefix tokens with their positions, positions with the bias."""
        hidden, count, graph = tokens.hidden_size, len(tokens.prefix), self.graph
        shape = (1, count + tokens.patches.count, hidden)
        position = self.weights.tensor(tokens.position, shape)[0].astype(np.float64)
        first = [self.weights.tensor(name, (1, 1, hidden))[0, 0] for name in tokens.prefix]
        prefix = np.array(first, np.float64).reshape(count, hidden) + position[:count]
        return (
            add_fixed(graph, f"{tokens.position}.prefix", prefix, FRAME),
            add_fixed(graph, f"{tokens.position}.patches", position[count:] + bias, FRAME),
        )

    def text_tokens(self, tables: TextTables) -> EncoderValue:
        """TextEmbedding."""
        for name in (IDS, TYPES, POSITIONS):
            self.graph.input(name, "int64", ("tokens",))
        self.graph.input(ENDS, "int64", ("sequences",))
        hidden = tables.hidden_size
        table = self._stored.embedding(tables.words, (tables.vocab_size, hidden), tied=False)
        factors = multipliers(table.scale * 2.0**FRAME, table.name)
        check_shift(factors.shift, table.name)
        rows = {
            f"{tables.types}.weight": tables.type_vocab_size,
            f"{tables.positions}.weight": tables.max_positions,
        }
        others = [
            add_fixed(self.graph, name, self.weights.tensor(name, (count, hidden)), FRAME)
            for name, count in rows.items()
        ]
        multiplier = self.graph.initializer(f"{tables.words}.multiplier", factors.values)
        (name,) = self.graph.call(
            "TextEmbedding",
            node_name(tables.words, "TextEmbedding"),
            [IDS, TYPES, POSITIONS, table.name, multiplier, *others],
            {"shift": factors.shift},
        )
        return Hidden(name, FRAME)

    def layer_norm(self, path: str, x: EncoderValue, size: int) -> EncoderValue:
        """LayerNormQuantize: the result and its codes."""
        hidden = _hidden(path, x)
        weight = self.weights.vector(f"{path}.weight", size)
        bias = self.weights.vector(f"{path}.bias", size).astype(np.float64)
        values, bits = norm_weight(weight, f"{path}.weight")
        shift = UNIT_BITS + bits - FRAME
        check_shift(shift, f"{path}.weight")
        # eps belongs to the mean of (x - mean)^2; the operator sums (N * x - sum)^2 of integers
        epsilon = self.layer_norm_eps * size**3 * 2.0 ** (2 * hidden.frame)
        inputs = [
            hidden.name,
            self.graph.initializer(f"{path}.weight", values),
            add_fixed(self.graph, f"{path}.bias", bias, FRAME),
        ]
        attributes = {
            **norm_attributes(epsilon, math.sqrt(size)),
            "shift": shift,
            "frame": FRAME,
        }
        node = self._unused(node_name(path, "LayerNormQuantize"))
        name, codes, scale = self.graph.call("LayerNormQuantize", node, inputs, attributes)
        limit = math.sqrt(size) * float(np.abs(weight).max()) + float(np.abs(bias).max())
        return Hidden(name, FRAME, Codes(codes, scale, limit / INT8_LIMIT))

    def linear(
        self, path: str, x: EncoderValue, shape: tuple[int, int], *, bias: bool = True
    ) -> EncoderValue:
        """A product of codes, such as Int8Linear."""
        codes = self._codes(path, x)
        stored = self._stored.linear(path, shape)
        name = multiply(self.graph, path, codes.name, stored)
        added = self.weights.vector(f"{path}.bias", shape[0]) if bias else np.zeros(shape[0])
        return Sums(path, name, codes, stored.scale, added.astype(np.float64))

    def attention(
        self, path: str, query: EncoderValue, key: EncoderValue, value: EncoderValue, heads: int
    ) -> EncoderValue:
        """SequenceQuantize of keys and values, EncoderAttention, AbsmaxQuantize."""
        width = int(self.graph.shapes[_sums(query).name][1])
        dim = width // heads
        keys, key_peak, _ = self._quantize_sequence(key, dim)
        values = self._quantize_sequence(value, 1)
        scaling = math.log2(math.e) / math.sqrt(dim) / INT8_LIMIT**2 * 2.0 ** (-2 * FRAME)
        mantissa, exponent = dyadic(scaling)
        inputs = [self._requantized(query), keys, key_peak, *values, ENDS]
        attributes = {"heads": heads, "scaling_mantissa": mantissa, "scaling_exponent": exponent}
        node = node_name(path, "EncoderAttention")
        (name,) = self.graph.call("EncoderAttention", node, inputs, attributes)
        unit = np.array([[2**30, 30 + FRAME]], dtype=np.int32)
        scale = self.graph.initializer(f"frame_{FRAME}.scale", unit)
        node = node_name(path, "AbsmaxQuantize")
        codes, out = self.graph.call("AbsmaxQuantize", node, [name, scale])
        return Codes(codes, out, USUAL_PEAK / INT8_LIMIT)

    def _quantize_sequence(self, x: EncoderValue, group: int) -> list[str]:
        node = node_name(_sums(x).path, "SequenceQuantize")
        inputs = [self._requantized(x), ENDS]
        return self.graph.call("SequenceQuantize", node, inputs, {"group": group})

    def activation(self, path: str, x: EncoderValue, act: str) -> EncoderValue:
        """ActivationQuantize on the sums themselves."""
        sums = _sums(x)
        multiplier, shift = add_multiplier(self.graph, sums, FRAME)
        inputs = [sums.name, sums.x.scale, multiplier, self._bias(sums, FRAME)]
        attributes = {"shift": shift, "activation": ACTIVATIONS[act]}
        node = node_name(path, "ActivationQuantize")
        codes, scale = self.graph.call("ActivationQuantize", node, inputs, attributes)
        return Codes(codes, scale, USUAL_PEAK / INT8_LIMIT)

    def residual_add(self, path: str, x: EncoderValue, y: EncoderValue) -> EncoderValue:
        """ResidualAddBias."""
        hidden, sums = _hidden(path, x), _sums(y)
        multiplier, shift = add_multiplier(self.graph, sums, hidden.frame)
        bias = self._bias(sums, hidden.frame)
        inputs = [hidden.name, sums.name, sums.x.scale, multiplier, bias]
        node = node_name(path, "ResidualAddBias")
        (name,) = self.graph.call("ResidualAddBias", node, inputs, {"shift": shift})
        return Hidden(name, hidden.frame)

    def select_row(self, path: str, x: EncoderValue, row: int) -> EncoderValue:
        """SelectRows."""
        hidden = _hidden(path, x)
        node = node_name(path, "SelectRows")
        (name,) = self.graph.call("SelectRows", node, [hidden.name, ENDS], {"row": row})
        return Hidden(name, hidden.frame)

    def logits(self, heads: Sequence[EncoderValue], labels: int) -> None:
        """RequantizeBias of the first head; ResidualAddBias adds the others."""
        share = [_scaled(_sums(head), 1 / len(heads)) for head in heads]
        name = self._requantized(share[0], LOGITS_FRAME, "logits" if len(heads) == 1 else None)
        for number, head in enumerate(share[1:], 2):
            multiplier, shift = add_multiplier(self.graph, head, LOGITS_FRAME)
            inputs = [name, head.name, head.x.scale, multiplier, self._bias(head, LOGITS_FRAME)]
            node = node_name(head.path, "ResidualAddBias")
            outputs = ["logits"] if number == len(heads) else []
            (name,) = self.graph.call("ResidualAddBias", node, inputs, {"shift": shift}, outputs)
        self.graph.output("logits", "int32", ("images", labels))

    def embeddings(self, path: str, x: EncoderValue, pooling: str, *, normalize: bool) -> None:
        """MeanPool or SelectRows, and L2Normalize."""
        hidden = _hidden(path, x)
        op_type = "MeanPool" if pooling == "mean" else "SelectRows"
        attributes = {} if pooling == "mean" else {"row": 0}
        outputs = [] if normalize else [EMBEDDINGS]
        inputs = [hidden.name, ENDS]
        node = node_name(path, op_type)
        (name,) = self.graph.call(op_type, node, inputs, attributes, outputs)
        self.output_frame = hidden.frame
        if normalize:
            node = node_name(path, "L2Normalize")
            self.graph.call("L2Normalize", node, [name], outputs=[EMBEDDINGS])
            self.output_frame = UNIT_FRAME
        self.graph.output(EMBEDDINGS, "int32", self.graph.shapes[EMBEDDINGS])

    def _unused(self, node: str) -> str:
        """Return a name for a node that may be there twice, of two class tokens."""
        while f"{node}_y" in self.graph.shapes:
            node += "_again"
        return node

    def _codes(self, path: str, x: EncoderValue) -> Codes:
        if isinstance(x, Hidden) and x.codes is not None:
            return x.codes
        if isinstance(x, Codes):
            return x
        raise ExportError(f"{path}: a linear takes codes")

    def _requantized(self, x: EncoderValue, frame: int = FRAME, output: str | None = None) -> str:
        sums = _sums(x)
        multiplier, shift = add_multiplier(self.graph, sums, frame)
        inputs = [sums.name, sums.x.scale, multiplier, self._bias(sums, frame)]
        node = node_name(sums.path, "RequantizeBias")
        outputs = [output] if output else []
        (name,) = self.graph.call("RequantizeBias", node, inputs, {"shift": shift}, outputs)
        return name

    def _bias(self, x: Sums, frame: int) -> str:
        if not x.bias.any():
            zeros = np.zeros(x.bias.shape, np.int32)
            return self.graph.initializer(f"zeros_{x.bias.size}", zeros)
        return add_fixed(self.graph, f"{x.path}.bias", x.bias, frame)


def _hidden(path: str, x: EncoderValue) -> Hidden:
    if not isinstance(x, Hidden):
        raise ExportError(f"{path}: takes the residual stream")
    return x


def _sums(x: EncoderValue) -> Sums:
    if not isinstance(x, Sums):
        raise ExportError(f"{x.name}: the output of a linear is needed")
    return x


def _scaled(x: Sums, factor: float) -> Sums:
    return Sums(x.path, x.name, x.x, x.weight_scale * factor, x.bias * factor)
