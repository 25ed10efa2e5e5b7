"""The integer lowering: each step becomes operators of ``ai.edgellm``; no value is a float.

Each value carries what its integers mean: a fixed point, int8 codes with a scale a token, or
accumulators of a linear that are still to be scaled.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.cache_layout import CACHE_LAYOUTS
from edgellm.errors import ExportError, UnsupportedModelError
from edgellm.exporters.components import rotary
from edgellm.exporters.components.language_model import LanguageConfig
from edgellm.exporters.fixed_point import check_shift, dyadic, multipliers, norm_weight
from edgellm.exporters.graph import GraphBuilder
from edgellm.exporters.lowering.integer_constants import add_fixed, add_multiplier
from edgellm.exporters.lowering.integer_values import (
    ATTENTION_FRAME,
    HEAD_FRAME,
    INT8_LIMIT,
    LOGITS_FRAME,
    MAX_RELU2_COLUMNS,
    RESIDUAL_FRAME,
    ROTARY_BITS,
    ROTARY_TABLES,
    USUAL_PEAK,
    Accumulator,
    Codes,
    Fixed,
    Scaled,
    Value,
    check_shift_for,
    node_name,
    norm_attributes,
)
from edgellm.exporters.lowering.interface import Heads, Recurrence
from edgellm.exporters.lowering.stored_weights import StoredLinear, StoredWeights, multiply
from edgellm.exporters.weights import WeightSource
from edgellm.graph_names import IDS, POSITIONS, ROWS
from edgellm.ops._sigmoid import SIGMOID_BITS
from edgellm.ternary_layouts import GATED_OPERATORS


@dataclass(frozen=True)
class CacheChoice:
    """How keys and values are cached: the bits of a number, and whether keys get an offset."""

    bits: int = 8
    offset_keys: bool = False


class IntegerLowering:
    """Emits the graph of ARCHITECTURE.md for up to ``context`` positions.

    With ``cache.offset_keys`` a vector is added to the keys of each layer, ``<path>.key_offset``,
    for now 0. It adds the same number to all scores of a query, so the softmax does not see it; one
    that takes away what all keys have in common leaves their codes more precision.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        weights: WeightSource,
        config: LanguageConfig,
        context: int,
        *,
        stored: StoredWeights,
        cache: CacheChoice = CacheChoice(),
    ) -> None:
        self.graph = graph
        self.weights = weights
        self.config = config
        self.context = context
        self.offset_keys = cache.offset_keys
        self.stored = stored
        self.cache = CACHE_LAYOUTS[cache.bits]
        self._bounds: npt.NDArray[np.float32] | None = None
        for name, size in ((IDS, "tokens"), (POSITIONS, "tokens"),
                           (ROWS, "logits")):  # fmt: skip
            graph.input(name, "int64", (size,))
        for layer in range(config.num_hidden_layers):
            for name, dtype, shape in self._cache_ports(f"past_key_values.{layer}", "past"):
                graph.input(name, dtype, shape)

    def embedding(self, path: str, shape: tuple[int, int]) -> Value:
        """Embedding, straight into the residual stream."""
        table = self.stored.embedding(path, shape, tied=self.config.tie_word_embeddings)
        factors = multipliers(table.scale * 2.0**RESIDUAL_FRAME, table.name)
        check_shift(factors.shift, table.name)
        multiplier = self.graph.initializer(f"{path}.multiplier", factors.values)
        op_type = "PlanarEmbedding" if table.is_planar else "Embedding"
        inputs = [IDS, *table.codes, multiplier]
        (name,) = self.graph.call(
            op_type, node_name(path, op_type), inputs, {"shift": factors.shift}
        )
        return Fixed(name, RESIDUAL_FRAME)

    def norm(self, path: str, x: Value, size: int, epsilon: float | None = None) -> Value:
        """RmsNormQuantize: the codes that linears take."""
        name, scale = self._wide(x)
        weight = self.weights.vector(f"{path}.weight", size)
        values, bits = norm_weight(weight, f"{path}.weight")
        stored = self.graph.initializer(f"{path}.weight", values)
        epsilon = self.config.rms_norm_eps if epsilon is None else epsilon
        gain = math.sqrt(size) * 2.0**-bits / INT8_LIMIT
        attributes = norm_attributes(epsilon * size, gain)
        codes, out = self.graph.call(
            "RmsNormQuantize", node_name(path, "RmsNormQuantize"), [name, scale, stored], attributes
        )
        # |x| <= sqrt(N) * rms for each element of a row
        limit = math.sqrt(size) * float(np.abs(weight).max()) / INT8_LIMIT
        # Most of what squared ReLU leaves is 0, or small beside the largest.
        return Codes(codes, out, limit, mostly_zero=isinstance(x, Scaled))

    def wide_norm(self, path: str, x: Value, size: int) -> Value:
        """RmsNorm, into the fixed point of the stream."""
        weight = self.weights.vector(f"{path}.weight", size)
        values, bits = norm_weight(weight, f"{path}.weight")
        stored = self.graph.initializer(f"{path}.weight", values)
        gain = math.sqrt(size) * 2.0 ** (RESIDUAL_FRAME - bits)
        (name,) = self.graph.call(
            "RmsNorm",
            node_name(path, "RmsNorm"),
            [*self._wide(x), stored],
            norm_attributes(self.config.rms_norm_eps * size, gain),
        )
        return Fixed(name, RESIDUAL_FRAME)

    def linear(
        self,
        path: str,
        x: Value,
        shape: tuple[int, int],
        *,
        bias: bool = False,
        gate: Value | None = None,
    ) -> Value:
        """A product of codes, or what skips zeros of it; first AbsmaxQuantize if x is no codes."""
        codes = x if isinstance(x, Codes) else self._quantize(path, x)
        gated = isinstance(gate, Accumulator) and gate.is_ternary and gate.bias is None
        weight = self.stored.linear(path, shape, gated=gated, mostly_zero=codes.mostly_zero)
        gates = [gate.name] if gate is not None and weight.op_type in GATED_OPERATORS else []
        added = self._bias(f"{path}.bias", shape[0]) if bias else None
        return self._product(path, codes, weight, gates, added)

    def split_linear(self, path: str, x: Value, shape: tuple[int, int]) -> tuple[Value, Value]:
        """Two products, ``<path>.0`` and ``<path>.1``, of the same codes."""
        codes = x if isinstance(x, Codes) else self._quantize(path, x)
        first, second = self.stored.halves(path, shape)
        return (
            self._product(f"{path}.0", codes, first),
            self._product(f"{path}.1", codes, second),
        )

    def head_norm(self, path: str, x: Value, head_dim: int) -> Value:
        """HeadRmsNorm, fixed point to fixed point."""
        weight = self.weights.vector(f"{path}.weight", head_dim)
        values, bits = norm_weight(weight, f"{path}.weight")
        stored = self.graph.initializer(f"{path}.weight", values)
        gain = math.sqrt(head_dim) * 2.0 ** (HEAD_FRAME - bits)
        attributes = norm_attributes(self.config.rms_norm_eps * head_dim, gain)
        inputs = [self._heads(x), stored]
        (name,) = self.graph.call(
            "HeadRmsNorm",
            node_name(path, "HeadRmsNorm"),
            inputs,
            {"frame": HEAD_FRAME, **attributes},
        )
        return Fixed(name, HEAD_FRAME)

    def rotary(self, path: str, x: Value, heads: Heads) -> Value:
        """RotaryEmbedding; all layers share its tables."""
        if ROTARY_TABLES[0] not in self.graph.shapes:
            angles = rotary.tables(heads.rope, heads.head_dim, self.context)
            for table, values in zip(ROTARY_TABLES, angles, strict=True):
                fixed = np.rint(values * 2**ROTARY_BITS).astype(np.int16)
                self.graph.initializer(table, fixed)
        inputs = [self._heads(x), POSITIONS, *ROTARY_TABLES]
        (name,) = self.graph.call("RotaryEmbedding", node_name(path, "RotaryEmbedding"), inputs)
        return Fixed(name, HEAD_FRAME)

    def attention(self, path: str, query: Value, key: Value, value: Value, heads: Heads) -> Value:
        """CacheAppend for keys and values, then Attention over all positions; or Int4..."""
        if self.offset_keys:
            key = self._offset_key(path, key, heads)
        caches = self._append(path, "key", key, heads) + self._append(path, "value", value, heads)
        # a step of code * absmax is 2^-18 / 127 for the query, 2^-18 / limit for the key
        scaling = math.log2(math.e) / math.sqrt(heads.head_dim) / INT8_LIMIT / self.cache.limit
        mantissa, exponent = dyadic(scaling * 2.0 ** (-2 * HEAD_FRAME))
        window = heads.window if heads.window < self.context else 0
        attributes = {
            "scaling_mantissa": mantissa,
            "scaling_exponent": exponent,
            "window": window,
        }
        inputs = [self._heads(query), *caches]
        op_type = self.cache.attention
        (name,) = self.graph.call(op_type, node_name(path, op_type), inputs, attributes)
        return Fixed(name, ATTENTION_FRAME)

    def recurrence(self, path: str, forget: Value, x: Value, recurrence: Recurrence) -> Value:
        """GatedRecurrence; its state is an input and an output of the graph."""
        complement = np.ones(recurrence.size)
        if recurrence.lower_bounds is not None:
            complement = recurrence.complement(self._lower_bounds(recurrence))
        fixed = np.rint(np.ldexp(complement, SIGMOID_BITS)).astype(np.int32)
        state = f"{recurrence.layer}.recurrent_state"
        node = node_name(path, "GatedRecurrence")
        name, _ = self.graph.call(
            "GatedRecurrence",
            node,
            [
                self._heads(forget),
                self._heads(x),
                self.graph.initializer(f"{path}.complement", fixed),
                f"past_key_values.{state}",
            ],
            {"frame": HEAD_FRAME},
            [f"{node}_y", f"present.{state}"],
        )
        return Fixed(name, HEAD_FRAME)

    def gate(self, path: str, gate: Value, up: Value, act: str) -> Value:
        """SiluGate in fixed point, or SquaredReluGate on the accumulators themselves."""
        if act == "relu2":
            return self._squared_relu(path, gate, up)
        inputs = [self._heads(gate), self._heads(up)]
        (name,) = self.graph.call(
            "SiluGate", node_name(path, "SiluGate"), inputs, {"frame": HEAD_FRAME}
        )
        return Fixed(name, 2 * HEAD_FRAME)

    def residual_add(self, path: str, x: Value, y: Value) -> Value:
        """ResidualAdd of accumulators to the stream."""
        if not isinstance(x, Fixed) or not isinstance(y, Accumulator) or y.bias is not None:
            raise ExportError(f"{path}: a residual add takes the stream and a linear without bias")
        multiplier, shift = add_multiplier(self.graph, y, RESIDUAL_FRAME)
        (name,) = self.graph.call(
            "ResidualAdd",
            node_name(path, "ResidualAdd"),
            [x.name, y.name, y.x.scale, multiplier],
            {"shift": shift},
        )
        return Fixed(name, RESIDUAL_FRAME)

    def head(self, path: str, x: Value, shape: tuple[int, int], tied_to: str | None) -> None:
        """The head, as it is stored, and the outputs of the graph."""
        if not isinstance(x, Codes):
            raise ExportError(f"{path}: the head takes the output of a norm")
        table = self.stored.head(tied_to or path, shape)
        factors = multipliers(table.scale * 2.0**LOGITS_FRAME, table.name)
        check_shift_for(x, factors.shift, table.name)
        multiplier = self.graph.initializer(f"{path}.multiplier", factors.values)
        attributes = {"shift": factors.shift}
        op_type, weight = table.head, table.codes
        if table.is_planar:
            weight = (*weight, table.norms)
            attributes["top"] = 0  # all; who wants few asks when running
        inputs = [x.name, x.scale, *weight, multiplier, ROWS]
        self.graph.call(op_type, node_name(path, op_type), inputs, attributes, ["logits"])
        self._declare_outputs(shape[0])

    def linear_head(self, path: str, x: Value, shape: tuple[int, int]) -> None:
        """TakeRows, so that only the logits that are asked for are made, a product, Requantize."""
        if not isinstance(x, Codes):
            raise ExportError(f"{path}: the head takes the output of a norm")
        rows = node_name(path, "TakeRows")
        codes, scale = self.graph.call("TakeRows", rows, [x.name, x.scale, ROWS])
        y = self.linear(path, Codes(codes, scale, x.scale_limit), shape)
        if not isinstance(y, Accumulator):
            raise ExportError(f"{path}: the head is no linear")
        multiplier, shift = add_multiplier(self.graph, y, LOGITS_FRAME)
        inputs, node = [y.name, scale, multiplier], node_name(path, "Requantize")
        self.graph.call("Requantize", node, inputs, {"shift": shift}, ["logits"])
        self._declare_outputs(shape[0])

    def _declare_outputs(self, vocab_size: int) -> None:
        self.graph.output("logits", "int32", ("logits", vocab_size))
        for layer in range(self.config.num_hidden_layers):
            for name, dtype, dims in self._cache_ports(f"present.{layer}", "past+tokens"):
                self.graph.output(name, dtype, dims)

    def _cache_ports(
        self, prefix: str, length: str
    ) -> Iterator[tuple[str, str, tuple[int | str, ...]]]:
        """Yield name, dtype and shape of what a layer keeps of a text."""
        if self.config.state_size:
            yield f"{prefix}.recurrent_state", "int64", (self.config.state_size,)
            return
        sizes = self.config.num_key_value_heads, self.config.head_dim
        yield from self.cache.ports(prefix, length, *sizes)

    def _lower_bounds(self, recurrence: Recurrence) -> npt.NDArray[np.float32]:
        """Return the parameter that all layers share, read once."""
        if self._bounds is None:
            shape = (recurrence.num_layers, recurrence.size)
            self._bounds = self.weights.tensor(str(recurrence.lower_bounds), shape)
        return self._bounds

    def _product(
        self,
        path: str,
        x: Codes,
        weight: StoredLinear,
        gates: Sequence[str] = (),
        bias: str | None = None,
    ) -> Accumulator:
        name = multiply(self.graph, path, x.name, weight, gates)
        return Accumulator(path, name, x, weight.scale, weight.is_ternary, bias)

    def _append(self, path: str, kind: str, x: Value, heads: Heads) -> list[str]:
        past = f"past_key_values.{heads.layer}.{kind}"
        present = f"present.{heads.layer}.{kind}"
        op_type = self.cache.append
        return self.graph.call(
            op_type,
            node_name(f"{path}.{kind}", op_type),
            [self._heads(x), past, f"{past}_absmax"],
            outputs=[present, f"{present}_absmax"],
        )

    def _offset_key(self, path: str, key: Value, heads: Heads) -> Value:
        width = heads.num_key_value_heads * heads.head_dim
        offset = self.graph.initializer(f"{path}.key_offset", np.zeros(width, np.int32))
        inputs = [self._heads(key), offset]
        (name,) = self.graph.call("AddBias", node_name(f"{path}.key", "AddBias"), inputs)
        return Fixed(name, HEAD_FRAME)

    def _squared_relu(self, path: str, gate: Value, up: Value) -> Value:
        if not isinstance(gate, Accumulator) or not isinstance(up, Accumulator):
            raise ExportError(f"{path}: a gate takes the outputs of two linears")
        if not (gate.is_ternary and up.is_ternary) or gate.bias or up.bias:
            raise UnsupportedModelError(
                f"{path}: hidden_act 'relu2' needs ternary linears without bias; this checkpoint's "
                "quantization_config does not make gate_proj and up_proj ternary"
            )
        columns = self.config.hidden_size
        if columns > MAX_RELU2_COLUMNS:
            raise ExportError(
                f"{path}: hidden_size {columns} is too wide for hidden_act 'relu2'; allowed are "
                f"{MAX_RELU2_COLUMNS} columns"
            )
        factor = float(gate.weight_scale[0]) ** 2 * float(up.weight_scale[0])
        mantissa, exponent = dyadic(factor)
        name, scale = self.graph.call(
            "SquaredReluGate",
            node_name(path, "SquaredReluGate"),
            [gate.name, up.name, gate.x.scale],
            {"multiplier_mantissa": mantissa, "multiplier_exponent": exponent},
        )
        return Scaled(name, scale)

    def _wide(self, x: Value) -> tuple[str, str]:
        """Return an int64 value and its scale, (tokens, 2) or (1, 2)."""
        if isinstance(x, Scaled):
            return x.name, x.scale
        if not isinstance(x, Fixed):
            raise ExportError(f"{x.name}: only values of a known scale can be quantised")
        unit = np.array([[2**30, 30 + x.frame]], dtype=np.int32)
        return x.name, self.graph.initializer(f"frame_{x.frame}.scale", unit)

    def _quantize(self, path: str, x: Value) -> Codes:
        codes, scale = self.graph.call(
            "AbsmaxQuantize", node_name(path, "AbsmaxQuantize"), list(self._wide(x))
        )
        return Codes(codes, scale, USUAL_PEAK / INT8_LIMIT)

    def _heads(self, x: Value) -> str:
        """Return an int32 value in the fixed point of heads."""
        if isinstance(x, Fixed) and x.frame == HEAD_FRAME:
            return x.name
        if not isinstance(x, Accumulator):
            raise ExportError(f"{x.name}: only the output of a linear becomes heads")
        multiplier, shift = add_multiplier(self.graph, x, HEAD_FRAME)
        inputs = [x.name, x.x.scale, multiplier]
        (name,) = self.graph.call(
            "Requantize", node_name(x.path, "Requantize"), inputs, {"shift": shift}
        )
        if x.bias is not None:
            (name,) = self.graph.call("AddBias", node_name(x.path, "AddBias"), [name, x.bias])
        return name

    def _bias(self, name: str, size: int) -> str:
        return add_fixed(self.graph, name, self.weights.vector(name, size), HEAD_FRAME)
