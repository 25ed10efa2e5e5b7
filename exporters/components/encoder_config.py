"""The part of config.json that vision and sentence encoders share."""

from dataclasses import dataclass

from edgellm.config import JsonFields
from edgellm.errors import CheckpointError, UnsupportedModelError

ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
}
"""``hidden_act`` of transformers, and the step of a lowering."""
MAX_HIDDEN = 65_536
MAX_HEAD_DIM = 512
MAX_LAYERS = 1024


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes and switches of an encoder; names are those of config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    hidden_act: str
    layer_norm_eps: float

    @property
    def attention_width(self) -> int:
        """Columns of the heads, side by side."""
        return self.num_attention_heads * self.head_dim


def read_encoder(fields: JsonFields) -> EncoderConfig:
    """Read and check the shared fields.

    Raises:
        CheckpointError: a field is missing, of the wrong type or out of range.
        UnsupportedModelError: an activation that no operator here has.
    """
    hidden = fields.integer("hidden_size", high=MAX_HIDDEN)
    heads = fields.integer("num_attention_heads", high=MAX_HIDDEN)
    if not fields.has("head_dim") and hidden % heads:
        raise CheckpointError(
            f"{fields.where}: hidden_size {hidden} is no multiple of num_attention_heads {heads}"
        )
    head_dim = fields.integer("head_dim", max(1, hidden // heads), high=MAX_HEAD_DIM)
    if heads * head_dim > MAX_HIDDEN:
        raise UnsupportedModelError(
            f"{fields.where}: {heads} heads of {head_dim} are wider than {MAX_HIDDEN}"
        )
    act = fields.text("hidden_act", "gelu")
    if act not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"{fields.where}: hidden_act {act!r} is not supported; "
            f"allowed are {', '.join(ACTIVATIONS)}"
        )
    return EncoderConfig(
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size", 4 * hidden, high=MAX_HIDDEN),
        num_hidden_layers=fields.integer("num_hidden_layers", high=MAX_LAYERS),
        num_attention_heads=heads,
        head_dim=head_dim,
        hidden_act=ACTIVATIONS[act],
        layer_norm_eps=fields.number("layer_norm_eps", 1e-12, high=1.0),
    )
