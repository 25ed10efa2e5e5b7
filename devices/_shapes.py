"""Shapes of published models, as workloads: what a paper ran, without its weights."""

import re
from dataclasses import dataclass, replace

from edgellm.device import Attention, Block, Call, Elementwise, ForwardPass, MatMul, Move, Work
from edgellm.devices import _matmul_free
from edgellm.devices._matmul_free import MatmulFreeWorkload
from edgellm.errors import ConfigError, UnknownNameError

SCALE_BITS = 16
"""Stored for the scale of a group of weights; a zero has the bits of a weight."""
MAX_BITS = 32
MAX_WEIGHTS = 10**13
PRECISION = re.compile(r"w(\d+(?:\.\d+)?)a(\d+)(?:g(\d+))?(?:qk(0\.\d+))?")
COUNTED = re.compile(r"weights-(\d+(?:\.\d+)?)([mb])")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a transformer.

    ``matrices`` are those of the MLP: 3 where it is gated. ``scores_all``: the head runs for every
    token of a prompt, as in a plain forward pass, and not for the last one only.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    matrices: int = 3
    causal: bool = True
    scores_all: bool = False

    @property
    def head_dim(self) -> int:
        """Numbers of a head."""
        return self.hidden // self.heads


# As their config.json files say. The logits' head counts, the table of embeddings does not.
SHAPES = {
    "llama2-7b": Shape(
        hidden=4096, layers=32, heads=32, kv_heads=32, intermediate=11008, vocab=32000
    ),
    "llama2-13b": Shape(
        hidden=5120, layers=40, heads=40, kv_heads=40, intermediate=13824, vocab=32000
    ),
    "opt-6.7b": Shape(
        hidden=4096, layers=32, heads=32, kv_heads=32, intermediate=16384, vocab=50272, matrices=2
    ),
    "bitnet-3b": Shape(
        hidden=3200, layers=26, heads=32, kv_heads=32, intermediate=8640, vocab=32000
    ),
    "bitnet-2b-4t": Shape(
        hidden=2560, layers=30, heads=20, kv_heads=5, intermediate=6912, vocab=128256
    ),
    "vit-base": Shape(
        hidden=768,
        layers=12,
        heads=12,
        kv_heads=12,
        intermediate=3072,
        vocab=0,
        matrices=2,
        causal=False,
    ),
    "vit-huge": Shape(
        hidden=1280,
        layers=32,
        heads=16,
        kv_heads=16,
        intermediate=5120,
        vocab=0,
        matrices=2,
        causal=False,
    ),
}
SHAPES["bitnet-3b-forward"] = replace(SHAPES["bitnet-3b"], scores_all=True)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Bits of weights and activations; group_size 0 where a row has one scale.

    ``query_key_density`` is the share of the weights of q_proj and k_proj that is stored.
    """

    weight_bits: float
    activation_bits: int
    group_size: int = 0
    query_key_density: float = 1.0

    @property
    def group_bits(self) -> int:
        """Bits of a group's scale and zero."""
        return SCALE_BITS + round(self.weight_bits) if self.group_size else 0


def parse_precision(text: str) -> Precision:
    """Parse "w4a8", "w1.6a8", with groups of 128 weights "w4a8g128"; "w4a8qk0.7" is sparse.

    Raises:
        ConfigError: it is none of these.
    """
    match = PRECISION.fullmatch(text)
    if match is None:
        raise ConfigError(f"precision {text!r}; allowed are w4a8, w1.6a8, w4a8g128 and the like")
    bits, activation, group = float(match[1]), int(match[2]), int(match[3] or 0)
    density = float(match[4] or 1)
    if not (0 < bits <= MAX_BITS and 0 < activation <= MAX_BITS):
        raise ConfigError(f"precision {text!r}: allowed are 1 to {MAX_BITS} bits")
    if density <= 0:
        raise ConfigError(f"precision {text!r}: none of the weights of q_proj and k_proj are left")
    return Precision(
        weight_bits=bits,
        activation_bits=activation,
        group_size=group,
        query_key_density=density,
    )


@dataclass(frozen=True)
class ShapeWorkload:
    """A published shape at some precision."""

    name: str
    shape: Shape
    precision: Precision

    def blocks(self, forward: ForwardPass) -> tuple[Block, ...]:
        """Return the embedding, a layer that repeats, and the head of the last token."""
        shape = self.shape
        rows = forward.tokens * forward.sequences
        embed = _call("Embedding", "embed_tokens", Move(bytes=rows * shape.hidden))
        blocks = [Block((embed,)), Block(tuple(self._layer(forward, rows)), shape.layers)]
        if shape.vocab:
            last = rows if shape.scores_all else forward.sequences
            norm = Elementwise(kind="norm", elements=last * shape.hidden)
            head = self._linear("lm_head", last, shape.hidden, shape.vocab)
            blocks.append(Block((_call("Norm", "norm", norm), head)))
        return tuple(blocks)

    def _layer(self, forward: ForwardPass, rows: int) -> list[Call]:
        shape = self.shape
        hidden, wide = shape.hidden, shape.intermediate
        kv = shape.kv_heads * shape.head_dim
        attention = Attention(
            tokens=forward.tokens,
            length=forward.past + forward.tokens,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            sequences=forward.sequences,
            causal=shape.causal,
        )
        gated = shape.matrices == 3
        norm = Elementwise(kind="norm", elements=rows * hidden)
        add = Elementwise(kind="add", elements=rows * hidden, binary=True)
        gate = [self._linear("gate_proj", rows, hidden, wide)] if gated else []
        activation = Elementwise(kind="activation", elements=rows * wide, binary=gated)
        return [
            _call("Norm", "input_layernorm", norm),
            self._sparse("q_proj", rows, hidden, hidden),
            self._sparse("k_proj", rows, hidden, kv),
            self._linear("v_proj", rows, hidden, kv),
            _call("CacheAppend", "cache", Move(bytes=2 * rows * kv)),
            _call("Attention", "attention", attention),
            self._linear("o_proj", rows, hidden, hidden),
            _call("Add", "attention_residual", add),
            _call("Norm", "post_attention_layernorm", norm),
            *gate,
            self._linear("up_proj", rows, hidden, wide),
            _call("Activation", "activation", activation),
            self._linear("down_proj", rows, wide, hidden),
            _call("Add", "mlp_residual", add),
        ]

    def _linear(self, name: str, rows: int, inputs: int, outputs: int) -> Call:
        return _call("Linear", name, _product(self.precision, rows, inputs, outputs))

    def _sparse(self, name: str, rows: int, inputs: int, outputs: int) -> Call:
        work = _product(self.precision, rows, inputs, outputs)
        work = replace(work, density=self.precision.query_key_density)
        return _call("Linear", name, work)


@dataclass(frozen=True)
class CountedWorkload:
    """A model of which a source says the number of weights and nothing else."""

    name: str
    weights: int
    precision: Precision

    def blocks(self, forward: ForwardPass) -> tuple[Block, ...]:
        """Return a look-up, with which a pass begins, and one product with all weights."""
        rows = forward.tokens * forward.sequences
        inputs = 1000
        work = _product(self.precision, rows, inputs, self.weights // inputs)
        embed = _call("Embedding", "embed_tokens", Move(bytes=rows * inputs))
        return (Block((embed, _call("Linear", "all_weights", work))),)


def workload(name: str, precision: str) -> ShapeWorkload | CountedWorkload | MatmulFreeWorkload:
    """Return a published shape by its name, or "weights-13b" for so many weights.

    Raises:
        UnknownNameError: there is no such shape.
        ConfigError: the precision is none.
    """
    bits = parse_precision(precision)
    label = f"{name} {precision}"
    if match := COUNTED.fullmatch(name):
        weights = round(float(match[1]) * (10**6 if match[2] == "m" else 10**9))
        if not 10**6 <= weights <= MAX_WEIGHTS:
            raise ConfigError(f"{name}: allowed are 1m to {MAX_WEIGHTS // 10**9}b weights")
        return CountedWorkload(label, weights, bits)
    if name in _matmul_free.SHAPES:
        shape = _matmul_free.SHAPES[name]
        return MatmulFreeWorkload(label, shape, bits.weight_bits, bits.activation_bits)
    if name not in SHAPES:
        known = ", ".join([*SHAPES, *_matmul_free.SHAPES, "weights-13b"])
        raise UnknownNameError(f"no shape {name!r}; there are {known}")
    return ShapeWorkload(label, SHAPES[name], bits)


def _product(precision: Precision, rows: int, inputs: int, outputs: int) -> MatMul:
    return MatMul(
        m=rows,
        k=inputs,
        n=outputs,
        activation_bits=precision.activation_bits,
        weight_bits=precision.weight_bits,
        group_size=precision.group_size,
        group_bits=precision.group_bits,
    )


def _call(op_type: str, name: str, work: Work) -> Call:
    return Call(op_type=op_type, name=name, work=work)
