"""The part of config.json that all decoders share."""

from dataclasses import dataclass
from typing import ClassVar, Self

from edgellm.config import JsonFields
from edgellm.errors import CheckpointError, UnsupportedModelError
from edgellm.exporters.components.language_model import LanguageConfig
from edgellm.exporters.components.rotary import RotaryConfig

ACTIVATIONS = ("silu", "relu2")
MAX_HIDDEN = 65_536
"""The most columns that RmsNormQuantize can sum the squares of."""
MAX_HEAD_DIM = 512
"""The bound of Attention."""
MAX_LAYERS = 1024
MAX_VOCAB = 1 << 22


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(LanguageConfig):
    """Sizes and switches of a decoder that attends; names are those of config.json.

    ``windows`` holds, for each layer, how many positions a query sees; 0 is all.
    """

    hidden_act: str
    rope: RotaryConfig
    windows: tuple[int, ...]

    default_act: ClassVar[str] = "silu"
    default_eps: ClassVar[float] = 1e-6
    default_theta: ClassVar[float] = 10_000.0

    @classmethod
    def read(cls, fields: JsonFields) -> Self:
        """Read and check the fields of config.json.

        Raises:
            CheckpointError: a field is missing, of the wrong type or out of range.
            UnsupportedModelError: a feature that no operator here has.
        """
        hidden = fields.integer("hidden_size", high=MAX_HIDDEN)
        heads = fields.integer("num_attention_heads", high=MAX_HIDDEN)
        layers = fields.integer("num_hidden_layers", high=MAX_LAYERS)
        config = cls(
            vocab_size=fields.integer("vocab_size", high=MAX_VOCAB),
            hidden_size=hidden,
            intermediate_size=fields.integer("intermediate_size", high=MAX_HIDDEN),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=fields.integer("num_key_value_heads", heads, high=heads),
            head_dim=fields.integer("head_dim", cls.default_head_dim(hidden, heads)),
            hidden_act=fields.text("hidden_act", cls.default_act),
            max_position_embeddings=fields.integer("max_position_embeddings"),
            rms_norm_eps=fields.number("rms_norm_eps", cls.default_eps, high=1.0),
            tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
            rope=RotaryConfig.read(fields, cls.default_theta),
            windows=cls.read_windows(fields, layers),
        )
        config._check(fields.where)
        _refuse_unsupported(fields)
        return config

    @classmethod
    def default_head_dim(cls, hidden_size: int, num_attention_heads: int) -> int:
        """Return the head dimension of a config.json that has none."""
        return hidden_size // num_attention_heads

    @classmethod
    def read_windows(cls, fields: JsonFields, layers: int) -> tuple[int, ...]:
        """Return the window of each layer; here every layer sees everything."""
        return (0,) * layers

    def _check(self, where: str) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"{where}: num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2 or not 2 <= self.head_dim <= MAX_HEAD_DIM:
            raise CheckpointError(
                f"{where}: head_dim is {self.head_dim}; allowed are even numbers to {MAX_HEAD_DIM}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise UnsupportedModelError(
                f"{where}: hidden_act {self.hidden_act!r} is not supported; "
                f"allowed are {', '.join(ACTIVATIONS)}"
            )
        if self.num_attention_heads * self.head_dim > MAX_HIDDEN:
            raise UnsupportedModelError(
                f"{where}: {self.num_attention_heads} heads of {self.head_dim} are wider than "
                f"{MAX_HIDDEN}"
            )


def read_layer_types(fields: JsonFields, layers: int) -> tuple[int, ...]:
    """Return the windows by ``use_sliding_window`` and ``layer_types``, as Qwen has them."""
    if not fields.flag("use_sliding_window", default=False) or not fields.has("sliding_window"):
        return (0,) * layers
    window = fields.integer("sliding_window")
    first = fields.integer("max_window_layers", 28, low=0)
    types = fields.texts("layer_types") or [
        "sliding_attention" if layer >= first else "full_attention" for layer in range(layers)
    ]
    if len(types) != layers:
        raise fields.fail("layer_types", f"{layers} entries are needed, one a layer")
    windows = {"full_attention": 0, "sliding_attention": window}
    for name in types:
        if name not in windows:
            raise UnsupportedModelError(
                f"{fields.where}: layer type {name!r} is not supported; "
                f"allowed are {', '.join(windows)}"
            )
    return tuple(windows[name] for name in types)


def _refuse_unsupported(fields: JsonFields) -> None:
    for name in ("attention_bias", "mlp_bias"):
        if fields.flag(name, default=False):
            raise UnsupportedModelError(
                f"{fields.where}: {name} true (a bias on o_proj or down_proj) is not supported"
            )
    for name in ("num_experts", "num_local_experts"):
        if fields.integer(name, 1, low=0) > 1:
            raise UnsupportedModelError(
                f"{fields.where}: {name} {fields.values[name]}: experts are not supported"
            )
