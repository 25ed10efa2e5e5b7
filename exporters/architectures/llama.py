"""Llama: the plain decoder."""

from edgellm.exporters.components.decoder import Decoder
from edgellm.exporters.components.decoder_config import DecoderConfig

TINY = {
    "model_type": "llama",
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
"""A config.json for tests."""


class Config(DecoderConfig):
    """Llama's config.json."""


class Model(Decoder):
    """Every switch off."""
