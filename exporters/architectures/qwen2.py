"""Qwen2: Llama with a bias on q_proj, k_proj and v_proj, and sliding windows in some layers."""

from edgellm.config import JsonFields
from edgellm.exporters.components.decoder import Decoder
from edgellm.exporters.components.decoder_config import DecoderConfig, read_layer_types

TINY = {
    "model_type": "qwen2",
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "use_sliding_window": True,
    "sliding_window": 8,
    "max_window_layers": 1,
    "tie_word_embeddings": True,
}
"""A config.json for tests."""


class Config(DecoderConfig):
    """Qwen2's config.json."""

    @classmethod
    def read_windows(cls, fields: JsonFields, layers: int) -> tuple[int, ...]:
        """Return the windows by ``layer_types`` or ``max_window_layers``."""
        return read_layer_types(fields, layers)


class Model(Decoder):
    """Llama with attention biases."""

    attention_bias = True
