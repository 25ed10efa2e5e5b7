"""The float32 lowering of encoders, as transformers computes it: the model to compare with.

Images come as the bytes that a bundle takes; texts as sentences of one length, without padding:
``input_ids`` (sequences, length). A value is its name; rows are (sequences, length, columns).
"""

from collections.abc import Sequence

import numpy as np

from edgellm.errors import UnsupportedModelError
from edgellm.exporters.graph import Attribute, GraphBuilder
from edgellm.exporters.lowering.encoder_interface import ImageEmbedding, TextTables
from edgellm.exporters.lowering.patch_weights import PixelScale, fold_pixels
from edgellm.exporters.weights import TernaryMatrix, WeightSource


class Float32EncoderLowering:
    """Emits float operators; ``pixels`` says what bytes mean.

    Attributes:
        sites: names of the values that quantisation is measured on, by the path of the step that
            makes them; the scores of an attention are at ``<path>.scores``.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        weights: WeightSource,
        layer_norm_eps: float,
        pixels: PixelScale | None = None,
    ) -> None:
        self.graph = graph
        self.weights = weights
        self.layer_norm_eps = layer_norm_eps
        self.pixels = pixels or PixelScale(1.0, (0.0,), (1.0,))
        self.sites: dict[str, list[str]] = {}
        self._made = 0

    def image_tokens(self, tokens: ImageEmbedding) -> str:
        """Patches by a linear, behind the prefix."""
        cut, hidden = tokens.patches, tokens.hidden_size
        shape = ("images", cut.rows, cut.height, cut.columns, cut.width * cut.channels)
        self.graph.input("pixel_values", "uint8", shape)
        pixels = self._emit("Cast", ["pixel_values"], {"to": 1})
        turned = self._emit("Transpose", [pixels], {"perm": (0, 1, 3, 2, 4)})
        patches = self._reshape(turned, (0, cut.count, -1))
        codes = self._emit("Sub", [patches, self.graph.number(128.0)])
        kernel, bias = fold_pixels(self.weights, tokens, self.pixels)
        name = f"{tokens.projection}.folded"
        matrix = self.graph.initializer(name, np.ascontiguousarray(kernel.T))
        rows = self._emit("MatMul", [codes, matrix])
        bias_name = self.graph.initializer(f"{tokens.projection}.bias", bias.astype(np.float32))
        rows = self._emit("Add", [rows, bias_name])
        first = [self.weights.tensor(item, (1, 1, hidden))[0] for item in tokens.prefix]
        prefix = self.graph.initializer("prefix", np.stack(first, axis=1))
        count = self._emit("Shape", [rows], {"start": 0, "end": 1})
        ones = self.graph.initializer("ones", np.array([len(first), hidden]))
        shape_of = self._emit("Concat", [count, ones], {"axis": 0})
        repeated = self._emit("Expand", [prefix, shape_of])
        both = self._emit("Concat", [repeated, rows], {"axis": 1})
        shape_of_position = (1, len(first) + cut.count, hidden)
        position = self.weights.tensor(tokens.position, shape_of_position)
        added = self.graph.initializer(tokens.position, position)
        return self._site(tokens.projection, self._emit("Add", [both, added]))

    def text_tokens(self, tables: TextTables) -> str:
        """The sum of three look-ups."""
        self.graph.input("input_ids", "int64", ("sequences", "length"))
        hidden = tables.hidden_size
        words = self._table(tables.words, (tables.vocab_size, hidden))
        types = self._table(tables.types, (tables.type_vocab_size, hidden))
        positions = self._table(tables.positions, (tables.max_positions, hidden))
        found = self._emit("Gather", [words, "input_ids"])
        zero, one = (self.graph.initializer(f"index_{i}", np.array(i)) for i in (0, 1))
        kind = self._emit("Gather", [types, zero])
        shape = self._emit("Shape", ["input_ids"])
        length = self._emit("Gather", [shape, one])
        place = self._emit("Gather", [positions, self._emit("Range", [zero, length, one])])
        rows = self._emit("Add", [self._emit("Add", [found, kind]), place])
        return self._site(tables.words, rows)

    def layer_norm(self, path: str, x: str, size: int) -> str:
        """LayerNormalization."""
        inputs = [x]
        for part in ("weight", "bias"):
            values = self.weights.vector(f"{path}.{part}", size)
            inputs.append(self.graph.initializer(f"{path}.{part}", values))
        y = self._emit("LayerNormalization", inputs, {"epsilon": self.layer_norm_eps})
        return self._site(path, y)

    def linear(self, path: str, x: str, shape: tuple[int, int], *, bias: bool = True) -> str:
        """``x @ weight.T + bias``."""
        matrix = self.weights.linear(path, shape)
        if isinstance(matrix, TernaryMatrix):
            raise UnsupportedModelError(f"{path}: encoders with ternary weights")
        turned = np.concatenate(list(matrix.blocks())).T  # MatMul is faster on it than on a view
        weight = self.graph.initializer(f"{path}.weight", np.ascontiguousarray(turned))
        y = self._emit("MatMul", [x, weight])
        if bias:
            stored = self.weights.vector(f"{path}.bias", shape[0])
            y = self._emit("Add", [y, self.graph.initializer(f"{path}.bias", stored)])
        return self._site(path, y)

    def attention(self, path: str, query: str, key: str, value: str, heads: int) -> str:
        """Softmax attention without a mask."""
        split = [self._reshape(part, (0, 0, heads, -1)) for part in (query, key, value)]
        orders = ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
        queries, keys, values = (
            self._emit("Transpose", [part], {"perm": order})
            for part, order in zip(split, orders, strict=True)
        )
        shape = self._emit("Shape", [queries], {"start": 3, "end": 4})
        dim = self._emit("Cast", [shape], {"to": 1})
        scaled = self._emit("Div", [queries, self._emit("Sqrt", [dim])])
        dots = self._site(f"{path}.scores", self._emit("MatMul", [scaled, keys]))
        weights = self._emit("Softmax", [dots], {"axis": -1})
        mixed = self._emit("Transpose", [self._emit("MatMul", [weights, values])],
                           {"perm": (0, 2, 1, 3)})  # fmt: skip
        return self._site(path, self._reshape(mixed, (0, 0, -1)))

    def activation(self, path: str, x: str, act: str) -> str:
        """Relu, or Gelu of either form."""
        if act == "relu":
            return self._site(path, self._emit("Relu", [x]))
        form: dict[str, Attribute] = {"approximate": "tanh" if act == "gelu_tanh" else "none"}
        return self._site(path, self._emit("Gelu", [x], form))

    def residual_add(self, path: str, x: str, y: str) -> str:
        """``x + y``; quantisation cuts the graph where the name says so."""
        return self._site(path, self.graph.standard("Add", f"/{path}/residual", [x, y]))

    def select_row(self, path: str, x: str, row: int) -> str:
        """Row ``row`` of each sequence."""
        index = self.graph.initializer(f"index_{row}", np.array(row))
        return self._emit("Gather", [x, index], {"axis": 1})

    def logits(self, heads: Sequence[str], labels: int) -> None:
        """The mean of the heads."""
        total = heads[0]
        for head in heads[1:]:
            total = self._emit("Add", [total, head])
        divisor = self.graph.number(float(len(heads)))
        self.graph.standard("Div", "logits", [total, divisor])
        self.graph.output("logits", "float32", ("images", labels))

    def embeddings(self, path: str, x: str, pooling: str, *, normalize: bool) -> None:
        """Mean or first row, and its direction."""
        axis = self.graph.initializer("axis_1", np.array([1]))
        if pooling == "mean":
            pooled = self._emit("ReduceMean", [x, axis], {"keepdims": 0})
        else:
            pooled = self.select_row(path, x, 0)
        if normalize:
            length = self._emit("ReduceL2", [pooled, axis])
            self.graph.standard("Div", "embeddings", [pooled, length])
        else:
            self.graph.standard("Identity", "embeddings", [pooled])
        self.graph.output("embeddings", "float32", ("sequences", "size"))

    def _site(self, path: str, value: str) -> str:
        self.sites.setdefault(path, []).append(value)
        return value

    def _table(self, path: str, shape: tuple[int, int]) -> str:
        name = f"{path}.weight"
        return self.graph.initializer(name, self.weights.tensor(name, shape))

    def _emit(
        self, op_type: str, inputs: Sequence[str], attributes: dict[str, Attribute] | None = None
    ) -> str:
        self._made += 1
        return self.graph.standard(op_type, f"{op_type}_{self._made}", inputs, attributes)

    def _reshape(self, x: str, shape: tuple[int, ...]) -> str:
        name = "shape_" + "_".join(str(size) for size in shape)
        return self._emit("Reshape", [x, self.graph.initializer(name, np.array(shape))])
