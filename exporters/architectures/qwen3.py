"""Qwen3: Llama with a norm on each head of the queries and keys."""

from edgellm.config import JsonFields
from edgellm.exporters.components.decoder import Decoder
from edgellm.exporters.components.decoder_config import DecoderConfig, read_layer_types

TINY = {
    "model_type": "qwen3",
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "tie_word_embeddings": True,
}
"""A config.json for tests."""


class Config(DecoderConfig):
    """Qwen3's config.json."""

    @classmethod
    def default_head_dim(cls, hidden_size: int, num_attention_heads: int) -> int:
        """Return 128: the heads of Qwen3 need not add up to the hidden size."""
        return 128

    @classmethod
    def read_windows(cls, fields: JsonFields, layers: int) -> tuple[int, ...]:
        """Return the windows by ``layer_types`` or ``max_window_layers``."""
        return read_layer_types(fields, layers)


class Model(Decoder):
    """Llama with head norms."""

    head_norms = True
