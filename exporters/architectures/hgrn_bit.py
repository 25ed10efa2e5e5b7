"""MatMul-free language models: a gated recurrence instead of attention, and ternary linears.

Every linear has an RMSNorm of its own in front, the head too. Sources: arXiv 2406.02528 and its
repository ridgerchu/matmulfreellm (``models/hgrn_bit``, ``layers/hgrn_bit.py``,
``ops/fusedbitnet.py``), whose tensors have these names.
"""

from dataclasses import dataclass
from typing import Self

from edgellm.config import JsonFields
from edgellm.errors import CheckpointError, UnsupportedModelError
from edgellm.exporters.components.decoder_config import MAX_HIDDEN, MAX_LAYERS, MAX_VOCAB
from edgellm.exporters.components.language_model import LanguageConfig, LanguageModel
from edgellm.exporters.lowering.interface import Lowering, Recurrence, V
from edgellm.exporters.quantization import BitNetQuantization

TINY = {
    "model_type": "hgrn_bit",
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_heads": 1,
    "max_position_embeddings": 64,
    "use_lower_bound": True,
}
"""A config.json for tests."""

LINEAR_EPSILON = 1e-6
"""Of the norms in the linears: the default of ``layer_norm_linear_quant_fn``, which their kernel
runs with, whatever the module says."""
LOWER_BOUNDS = "model.lower_bounds"
ACTIVATIONS = ("swish", "silu")


@dataclass(frozen=True, kw_only=True)
class Config(LanguageConfig):
    """The fields of config.json; ``use_lower_bound``: forget gates have one in upper layers."""

    use_lower_bound: bool

    @classmethod
    def read(cls, fields: JsonFields) -> Self:
        """Read and check the fields of config.json.

        Raises:
            CheckpointError: a field is missing, of the wrong type or out of range.
            UnsupportedModelError: a feature that no operator here has.
        """
        _refuse_unsupported(fields)
        hidden = fields.integer("hidden_size", high=MAX_HIDDEN)
        heads = fields.integer("num_heads", 1, high=MAX_HIDDEN)
        width = hidden * fields.integer("expand_ratio", 1, high=64)
        if width > MAX_HIDDEN or width % heads:
            raise CheckpointError(
                f"{fields.where}: hidden_size * expand_ratio is {width}; allowed are multiples of "
                f"num_heads, {heads}, up to {MAX_HIDDEN}"
            )
        return cls(
            vocab_size=fields.integer("vocab_size", high=MAX_VOCAB),
            hidden_size=hidden,
            intermediate_size=fields.integer(
                "intermediate_size", _default_intermediate(fields, hidden), high=MAX_HIDDEN
            ),
            num_hidden_layers=fields.integer("num_hidden_layers", high=MAX_LAYERS),
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=width // heads,
            max_position_embeddings=fields.integer("max_position_embeddings", 2048),
            rms_norm_eps=fields.number("rms_norm_eps", 1e-6, high=1.0),
            tie_word_embeddings=False,
            state_size=width,
            use_lower_bound=fields.flag("use_lower_bound", default=True),
        )


class Model(LanguageModel):
    """Embedding, layers of recurrence and feed-forward, and a ternary head."""

    quantization = BitNetQuantization("autobitlinear", "online", ())

    def __init__(self, config: Config) -> None:
        self.config: Config = config

    def build(self, net: Lowering[V]) -> None:
        """Emit the forward pass."""
        config = self.config
        table = (config.vocab_size, config.hidden_size)
        x = net.embedding("model.embeddings", table)
        for layer in range(config.num_hidden_layers):
            x = self._mix(net, f"model.layers.{layer}", x, layer)
            x = self._feed_forward(net, f"model.layers.{layer}", x)
        h = net.wide_norm("model.norm", x, config.hidden_size)
        h = net.norm("lm_head.norm", h, config.hidden_size, LINEAR_EPSILON)
        net.linear_head("lm_head", h, table)

    def _mix(self, net: Lowering[V], path: str, x: V, layer: int) -> V:
        config = self.config
        hidden, width = config.hidden_size, config.state_size
        h = net.wide_norm(f"{path}.attn_norm", x, hidden)
        path = f"{path}.attn"
        i = _linear(net, f"{path}.i_proj", h, (width, hidden))
        f = _linear(net, f"{path}.f_proj", h, (width, hidden))
        g = _linear(net, f"{path}.g_proj", h, (width, hidden))
        bounds = LOWER_BOUNDS if config.use_lower_bound else None
        recurrence = Recurrence(layer, config.num_hidden_layers, width, bounds)
        state = net.recurrence(path, f, i, recurrence)
        # The norm is that of g, and the state its gate: so the checkpoints were trained.
        g = net.head_norm(f"{path}.g_norm", g, width)
        h = net.gate(f"{path}.g_norm.swish", state, g, "silu")
        return net.residual_add(path, x, _linear(net, f"{path}.o_proj", h, (hidden, width)))

    def _feed_forward(self, net: Lowering[V], path: str, x: V) -> V:
        hidden, inner = self.config.hidden_size, self.config.intermediate_size
        h = net.wide_norm(f"{path}.mlp_norm", x, hidden)
        path = f"{path}.mlp"
        h = net.norm(f"{path}.gate_proj.norm", h, hidden, LINEAR_EPSILON)
        gate, up = net.split_linear(f"{path}.gate_proj", h, (2 * inner, hidden))
        h = net.gate(f"{path}.act_fn", gate, up, "silu")
        return net.residual_add(path, x, _linear(net, f"{path}.down_proj", h, (hidden, inner)))


def _linear(net: Lowering[V], path: str, x: V, shape: tuple[int, int]) -> V:
    """Return a linear behind its own norm."""
    h = net.norm(f"{path}.norm", x, shape[1], LINEAR_EPSILON)
    return net.linear(path, h, shape)


def _default_intermediate(fields: JsonFields, hidden: int) -> int:
    """Return two thirds of hidden_ratio * hidden_size, rounded up to a multiple of 256."""
    inner = int(hidden * fields.integer("hidden_ratio", 4, high=64) * 2 / 3)
    return -(-inner // 256) * 256


def _refuse_unsupported(fields: JsonFields) -> None:
    for name in ("use_short_conv", "tie_word_embeddings"):
        if fields.flag(name, default=False):
            raise UnsupportedModelError(f"{fields.where}: {name} true is not supported")
    activation = fields.text("hidden_act", "swish")
    if activation not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"{fields.where}: hidden_act {activation!r} is not supported; "
            f"allowed are {', '.join(ACTIVATIONS)}"
        )
