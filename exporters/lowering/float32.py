"""The float32 lowering: the model as transformers computes it, in standard ONNX operators.

It exists to compare with: ``input_ids (tokens,) -> logits (tokens, vocab_size)``, the whole
sequence at once and no cache. Ternary linears keep their fake-quantised activations.
"""

import math

import numpy as np
import onnx
from onnx import helper

from edgellm.exporters.components import rotary
from edgellm.exporters.components.language_model import LanguageConfig
from edgellm.exporters.graph import Attribute, GraphBuilder
from edgellm.exporters.lowering.interface import Heads, Recurrence
from edgellm.exporters.weights import TernaryMatrix, WeightSource

SMALLEST_ABSMAX = 1e-5
"""The clamp of transformers' ActQuant."""


class Float32Lowering:
    """Emits float operators; a value is its name. Sequences have up to ``context`` tokens."""

    def __init__(
        self, graph: GraphBuilder, weights: WeightSource, config: LanguageConfig, context: int
    ) -> None:
        self.graph = graph
        self.weights = weights
        self.config = config
        self.context = context
        self._shared: dict[str, str] = {}
        self._length = ""
        graph.input("input_ids", "int64", ("tokens",))

    def embedding(self, path: str, shape: tuple[int, int]) -> str:
        """Rows of the table."""
        table = self._table(path, shape)
        return self.graph.standard("Gather", f"/{path}", [table, "input_ids"])

    def norm(self, path: str, x: str, size: int, epsilon: float | None = None) -> str:
        """``weight * (x * (1 / sqrt(mean(x^2) + eps)))`` over the last axis."""
        epsilon = self.config.rms_norm_eps if epsilon is None else epsilon
        weight = self.graph.initializer(
            f"{path}.weight", self.weights.vector(f"{path}.weight", size)
        )
        axis = self.graph.initializer("last_axis", np.array([-1]))
        square = self._emit("Mul", f"{path}/square", x, x)
        mean = self._emit("ReduceMean", f"{path}/mean", square, axis)
        shifted = self._emit("Add", f"{path}/shifted", mean, self.graph.number(epsilon))
        root = self._emit("Sqrt", f"{path}/rms", shifted)
        inverse = self._emit("Reciprocal", f"{path}/inverse", root)
        return self._emit("Mul", path, self._emit("Mul", f"{path}/unit", x, inverse), weight)

    def wide_norm(self, path: str, x: str, size: int) -> str:
        """A norm like any other: floats are wide enough."""
        return self.norm(path, x, size)

    def linear(
        self,
        path: str,
        x: str,
        shape: tuple[int, int],
        *,
        bias: bool = False,
        gate: str | None = None,
    ) -> str:
        """``x @ weight.T + bias``, for ternary weights on fake-quantised activations."""
        matrix = self.weights.linear(path, shape)
        if isinstance(matrix, TernaryMatrix):
            y = self._ternary(path, x, matrix)
        else:
            weight = self.graph.streamed(f"{path}.weight", "float32", shape, matrix.blocks())
            y = self.graph.standard("Gemm", f"/{path}", [x, weight], {"transB": 1})
        if not bias:
            return y
        stored = self.weights.vector(f"{path}.bias", shape[0])
        return self._emit(
            "Add", f"{path}/biased", y, self.graph.initializer(f"{path}.bias", stored)
        )

    def split_linear(self, path: str, x: str, shape: tuple[int, int]) -> tuple[str, str]:
        """The two halves of a linear's columns."""
        y = self.linear(path, x, shape)
        axis = self.graph.initializer("axis_1", np.array([1]))
        ends = [
            self.graph.initializer(f"column_{end}", np.array([end]))
            for end in (0, shape[0] // 2, shape[0])
        ]
        first = self.graph.standard("Slice", f"/{path}/0", [y, ends[0], ends[1], axis])
        return first, self.graph.standard("Slice", f"/{path}/1", [y, ends[1], ends[2], axis])

    def head_norm(self, path: str, x: str, head_dim: int) -> str:
        """RMSNorm of each head."""
        heads = self._reshape(f"{path}/heads", x, (0, -1, head_dim))
        return self._reshape(f"{path}/flat", self.norm(path, heads, head_dim), (0, -1))

    def rotary(self, path: str, x: str, heads: Heads) -> str:
        """``(x1 cos - x2 sin, x2 cos + x1 sin)`` of the halves of each head."""
        self._emit_tables(heads)
        split = self._reshape(f"{path}/heads", x, (0, -1, 2, heads.head_dim // 2))
        axis = 2
        first, second = (
            self.graph.standard(
                "Gather", f"/{path}/half{i}", [split, self._index(i)], {"axis": axis}
            )
            for i in (0, 1)
        )
        low = self._emit(
            "Sub", f"{path}/low",
            self._emit("Mul", f"{path}/c1", first, "cos"),
            self._emit("Mul", f"{path}/s2", second, "sin"),
        )  # fmt: skip
        high = self._emit(
            "Add", f"{path}/high",
            self._emit("Mul", f"{path}/c2", second, "cos"),
            self._emit("Mul", f"{path}/s1", first, "sin"),
        )  # fmt: skip
        turned = self.graph.standard("Concat", f"/{path}/turned", [low, high], {"axis": axis})
        return self._reshape(path, turned, (0, -1))

    def attention(self, path: str, query: str, key: str, value: str, heads: Heads) -> str:
        """Masked softmax attention; a group of query heads shares a key head."""
        groups, dim = heads.num_key_value_heads, heads.head_dim
        queries = self._reshape(f"{path}/query/heads", query, (0, groups, -1, dim))
        keys = self._reshape(f"{path}/key/heads", key, (0, groups, 1, dim))
        values = self._reshape(f"{path}/value/heads", value, (0, groups, 1, dim))
        # (groups, queries a group, tokens, head_dim), the keys turned for the product
        queries = self._transpose(f"{path}/q", queries, (1, 2, 0, 3))
        keys = self._transpose(f"{path}/k", keys, (1, 2, 3, 0))
        values = self._transpose(f"{path}/v", values, (1, 2, 0, 3))
        dots = self._emit("MatMul", f"{path}/dots", queries, keys)
        scaled = self._emit("Mul", f"{path}/scaled", dots, self.graph.number(1 / math.sqrt(dim)))
        masked = self._emit("Add", f"{path}/masked", scaled, self._mask(heads.window))
        weights = self.graph.standard("Softmax", f"/{path}/softmax", [masked], {"axis": -1})
        mixed = self._emit("MatMul", f"{path}/mixed", weights, values)
        mixed = self._transpose(f"{path}/tokens", mixed, (2, 0, 1, 3))
        return self._reshape(path, mixed, (0, -1))

    def recurrence(self, path: str, forget: str, x: str, recurrence: Recurrence) -> str:
        """``h = f h + (1 - f) silu(x)``, a Scan over the tokens."""
        complement = np.ones(recurrence.size)
        if recurrence.lower_bounds is not None:
            shape = (recurrence.num_layers, recurrence.size)
            complement = recurrence.complement(self.weights.tensor(recurrence.lower_bounds, shape))
        stored = self.graph.initializer(f"{path}.complement", complement.astype(np.float32))
        opened = self._emit("Sigmoid", f"{path}/open", self._emit("Neg", f"{path}/neg", forget))
        change = self._emit("Mul", f"{path}/change", opened, stored)
        silu = self._emit("Mul", f"{path}/silu", x, self._emit("Sigmoid", f"{path}/sigmoid", x))
        new = self._emit("Mul", f"{path}/new", silu, change)
        kept = self._emit("Sub", f"{path}/kept", self.graph.number(1.0), change)
        zeros = np.zeros(recurrence.size, np.float32)
        start = self.graph.initializer(f"zeros_{recurrence.size}", zeros)
        attributes: dict[str, Attribute] = {"body": _recurrence_step(), "num_scan_inputs": 2}
        outputs = [f"/{path}/last", f"/{path}/states"]
        inputs = [start, kept, new]
        self.graph.standard("Scan", f"/{path}/Scan", inputs, attributes, outputs)
        return outputs[1]

    def gate(self, path: str, gate: str, up: str, act: str) -> str:
        """``act(gate) * up``."""
        if act == "relu2":
            positive = self._emit("Relu", f"{path}/relu", gate)
            active = self._emit("Mul", f"{path}/relu2", positive, positive)
        else:
            active = self._emit(
                "Mul", f"{path}/silu", gate, self._emit("Sigmoid", f"{path}/sigmoid", gate)
            )
        return self._emit("Mul", path, active, up)

    def residual_add(self, path: str, x: str, y: str) -> str:
        """``x + y``."""
        return self._emit("Add", f"{path}/residual", x, y)

    def head(self, path: str, x: str, shape: tuple[int, int], tied_to: str | None) -> None:
        """Logits of every position."""
        table = self._table(tied_to or path, shape)
        self.graph.standard("Gemm", "logits", [x, table], {"transB": 1})
        self.graph.output("logits", "float32", ("tokens", shape[0]))

    def linear_head(self, path: str, x: str, shape: tuple[int, int]) -> None:
        """Logits of every position."""
        self.graph.standard("Identity", "logits", [self.linear(path, x, shape)])
        self.graph.output("logits", "float32", ("tokens", shape[0]))

    def _ternary(self, path: str, x: str, matrix: TernaryMatrix) -> str:
        """Multiply by the codes first and by their scale last: so transformers rounds as well.

        The other order changes the last bit, which turns over activations that lie on a half:
        measured on a random checkpoint, logits then differ by 0.5 instead of 6e-5.
        """
        codes = (block.astype(np.float32) for block in matrix.blocks())
        weight = self.graph.streamed(f"{path}.weight", "float32", matrix.shape, codes)
        inputs = [self._fake_quantize(x), weight]
        product = self.graph.standard("Gemm", f"/{path}/product", inputs, {"transB": 1})
        return self._emit("Mul", path, product, self.graph.number(float(np.float32(matrix.scale))))

    def _emit_tables(self, heads: Heads) -> None:
        """Emit the part that depends on the length only, once: the length (1,), cos and sin."""
        if self._length:
            return
        graph = self.graph
        self._length = graph.standard("Shape", "length", ["input_ids"])
        angles = rotary.tables(heads.rope, heads.head_dim, self.context)
        start = graph.initializer("zero", np.array([0]))
        for name, table in zip(("cos", "sin"), angles, strict=True):
            # (positions, 1, head_dim / 2), for all heads
            stored = graph.initializer(f"{name}.table", table.astype(np.float32)[:, None])
            graph.standard("Slice", name, [stored, start, self._length])

    def _mask(self, window: int) -> str:
        """Return (tokens, tokens): 0 where a query sees a key, minus infinity elsewhere."""
        name = f"mask_{window}"
        if name in self._shared:
            return name
        graph = self.graph
        scalar = graph.standard("Squeeze", f"{name}/length", [self._length])
        ends = [self._index(0), scalar, self._index(1)]
        position = graph.standard("Range", f"{name}/position", ends)
        axis = graph.initializer("axis_1", np.array([1]))
        column = graph.standard("Unsqueeze", f"{name}/column", [position, axis])
        distance = self._emit("Sub", f"{name}/distance", column, position)
        future = self._emit("Less", f"{name}/future", distance, self._index(0))
        if window:
            far = graph.initializer(f"{name}/window", np.array(window))
            old = self._emit("GreaterOrEqual", f"{name}/old", distance, far)
            future = self._emit("Or", f"{name}/hidden", future, old)
        choice = [future, self.graph.number(-math.inf), self.graph.number(0.0)]
        self._shared[name] = graph.standard("Where", name, choice)
        return name

    def _fake_quantize(self, x: str) -> str:
        """Emit ``clamp(round(x * s), -128, 127) / s`` with s = 127 / max|x| of each token, once."""
        if x in self._shared:
            return self._shared[x]
        path = f"{x}/quantized".removeprefix("/")
        axis = self.graph.initializer("last_axis", np.array([-1]))
        peak = self._emit("ReduceMax", f"{path}/absmax", self._emit("Abs", f"{path}/abs", x), axis)
        safe = self._emit("Max", f"{path}/safe", peak, self.graph.number(SMALLEST_ABSMAX))
        scale = self._emit("Div", f"{path}/scale", self.graph.number(127.0), safe)
        rounded = self._emit("Round", f"{path}/round", self._emit("Mul", f"{path}/mul", x, scale))
        limits = [self.graph.number(-128.0), self.graph.number(127.0)]
        codes = self._emit("Clip", f"{path}/codes", rounded, *limits)
        self._shared[x] = self._emit("Div", path, codes, scale)
        return self._shared[x]

    def _table(self, path: str, shape: tuple[int, int]) -> str:
        name = f"{path}.weight"
        return self.graph.streamed(
            name, "float32", shape, self.weights.matrix(name, shape).blocks()
        )

    def _emit(self, op_type: str, path: str, *inputs: str) -> str:
        return self.graph.standard(op_type, f"/{path}", inputs)

    def _reshape(self, path: str, x: str, shape: tuple[int, ...]) -> str:
        name = "shape_" + "_".join(str(size) for size in shape)
        target = self.graph.initializer(name, np.array(shape))
        return self._emit("Reshape", f"{path}/Reshape", x, target)

    def _transpose(self, path: str, x: str, order: tuple[int, ...]) -> str:
        return self.graph.standard("Transpose", f"/{path}/Transpose", [x], {"perm": order})

    def _index(self, value: int) -> str:
        return self.graph.initializer(f"index_{value}", np.array(value))


def _recurrence_step() -> onnx.GraphProto:
    """Return the graph of one token: the state after it, twice, from the state before it."""
    kind = onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Mul", ["state", "kept"], ["held"]),
        helper.make_node("Add", ["held", "new"], ["after"]),
        helper.make_node("Identity", ["after"], ["row"]),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, kind, None) for name in names]
        for names in (("state", "kept", "new"), ("after", "row"))
    )
    return helper.make_graph(nodes, "step", inputs, outputs)
