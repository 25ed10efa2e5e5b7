"""Mistral: Llama with a sliding window in every layer."""

from edgellm.config import JsonFields
from edgellm.exporters.components.decoder import Decoder
from edgellm.exporters.components.decoder_config import DecoderConfig

TINY = {
    "model_type": "mistral",
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "sliding_window": 8,
    "tie_word_embeddings": False,
}
"""A config.json for tests."""

DEFAULT_WINDOW = 4096
"""What transformers takes when config.json does not name ``sliding_window`` at all."""


class Config(DecoderConfig):
    """Mistral's config.json; ``sliding_window`` null means that every layer sees everything."""

    @classmethod
    def read_windows(cls, fields: JsonFields, layers: int) -> tuple[int, ...]:
        """Return the same window for each layer."""
        if "sliding_window" in fields.values and not fields.has("sliding_window"):
            return (0,) * layers
        return (fields.integer("sliding_window", DEFAULT_WINDOW),) * layers


class Model(Decoder):
    """Every switch off; the windows are in the config."""
