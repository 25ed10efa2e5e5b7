"""BitNet b1.58: Llama with squared ReLU and a norm before o_proj and down_proj; ternary linears.

That the linears are ternary is said by ``quantization_config``, as for any other architecture.
"""

from edgellm.exporters.components.decoder import Decoder
from edgellm.exporters.components.decoder_config import DecoderConfig

TINY = {
    "model_type": "bitnet",
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "quantization_config": {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
    },
}
"""A config.json for tests."""


class Config(DecoderConfig):
    """BitNet's config.json."""

    default_act = "relu2"
    default_eps = 1e-5
    default_theta = 500_000.0


class Model(Decoder):
    """Llama with sub-norms."""

    sub_norms = True
