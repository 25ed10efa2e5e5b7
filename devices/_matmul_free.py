"""Shapes of MatMul-free language models, as workloads: the operators that their export has."""

from dataclasses import dataclass

from edgellm.device import Block, Call, Elementwise, ForwardPass, MatMul, Operand


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a model of recurrences and gated linear units.

    Attributes:
        hidden: width of the residual stream, and of the states.
        layers: how many.
        vocab: rows of the ternary head; 0 leaves it to the host.
    """

    hidden: int
    layers: int
    vocab: int = 0

    @property
    def intermediate(self) -> int:
        """Width of the linear unit: two thirds of 4 * hidden, in steps of 256."""
        return -(-(8 * self.hidden // 3) // 256) * 256


# ridgerchu/matmulfreellm. What Ternip publishes is of the layers alone.
SHAPES = {
    "mmfreelm-370m": Shape(hidden=1024, layers=24),
    "mmfreelm-1.3b": Shape(hidden=2048, layers=24),
    "mmfreelm-2.7b": Shape(hidden=2560, layers=32),
    "mmfreelm-370m-head": Shape(hidden=1024, layers=24, vocab=32000),
    "mmfreelm-block-512": Shape(hidden=512, layers=1),
}


@dataclass(frozen=True)
class MatmulFreeWorkload:
    """A MatMul-free model with weights and activations of so many bits."""

    name: str
    shape: Shape
    weight_bits: float
    activation_bits: int

    def blocks(self, forward: ForwardPass) -> tuple[Block, ...]:
        """Return a layer that repeats, and the head of the last token."""
        rows = forward.tokens * forward.sequences
        blocks = [Block(tuple(self._layer(rows)), self.shape.layers)]
        if self.shape.vocab:
            last, hidden = forward.sequences, self.shape.hidden
            norms = [_vector("Norm", f"norm.{i}", "norm", (last, hidden)) for i in range(2)]
            head = self._linear("lm_head", last, hidden, self.shape.vocab)
            scale = _vector("Requantize", "logits", "requantize", (last, self.shape.vocab))
            blocks.append(Block((*norms, head, scale)))
        return tuple(blocks)

    def _layer(self, rows: int) -> list[Call]:
        hidden, inner = self.shape.hidden, self.shape.intermediate
        calls = [_vector("Norm", "attn_norm", "norm", (rows, hidden))]
        for name in ("i_proj", "f_proj", "g_proj"):
            calls += self._normed(name, rows, hidden, hidden)
            calls.append(_vector("Requantize", name, "requantize", (rows, hidden)))
        return [
            *calls,
            _vector("Recurrence", "recurrence", "recurrence", (rows, hidden), binary=True),
            _vector("Norm", "g_norm", "norm", (rows, hidden)),
            _vector("Activation", "g_norm.swish", "activation", (rows, hidden), binary=True),
            *self._normed("o_proj", rows, hidden, hidden),
            _vector("Add", "attn", "add", (rows, hidden), binary=True),
            _vector("Norm", "mlp_norm", "norm", (rows, hidden)),
            *self._normed("gate_proj", rows, hidden, 2 * inner),
            _vector("Requantize", "gate_proj", "requantize", (rows, 2 * inner)),
            _vector("Activation", "act_fn", "activation", (rows, inner), binary=True),
            *self._normed("down_proj", rows, inner, hidden),
            _vector("Add", "mlp", "add", (rows, hidden), binary=True),
        ]

    def _normed(self, name: str, rows: int, inputs: int, outputs: int) -> list[Call]:
        """Return a linear behind its own norm."""
        norm = _vector("Norm", f"{name}.norm", "norm", (rows, inputs))
        return [norm, self._linear(name, rows, inputs, outputs)]

    def _linear(self, name: str, rows: int, inputs: int, outputs: int) -> Call:
        work = MatMul(
            m=rows,
            k=inputs,
            n=outputs,
            activation_bits=self.activation_bits,
            weight_bits=self.weight_bits,
        )
        return Call(op_type="Linear", name=name, work=work)


def _vector(
    op_type: str, name: str, kind: str, shape: tuple[int, int], *, binary: bool = False
) -> Call:
    work = Elementwise(kind=kind, elements=shape[0] * shape[1], binary=binary)
    operand = Operand(name, "int32", shape)
    return Call(op_type=op_type, name=f"{name} {op_type}", work=work, inputs=(operand,))
