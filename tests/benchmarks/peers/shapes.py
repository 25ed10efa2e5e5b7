"""The shapes that are compared: language models by their config.json, and single products."""

from dataclasses import dataclass

SEED_CONFIG = {
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
TERNARY_CONFIG = {
    "model_type": "bitnet",
    "hidden_act": "relu2",
    "quantization_config": {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
    },
}
INT8_CONFIG = {"model_type": "llama", "hidden_act": "silu"}


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder of the Llama kind, with tied embeddings."""

    name: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int

    @property
    def kv_width(self) -> int:
        """Columns of a token's keys."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def products_per_token(self) -> int:
        """Multiplications of a token with the weights of the layers, without the logits head."""
        attention = self.hidden * (2 * self.hidden + 2 * self.kv_width)
        return self.layers * (attention + 3 * self.hidden * self.feed_forward)

    def config(self, *, is_ternary: bool) -> dict[str, object]:
        """Return the config.json of random weights, ternary ones or floats."""
        sizes = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.feed_forward,
        }
        return {**SEED_CONFIG, **sizes, **(TERNARY_CONFIG if is_ternary else INT8_CONFIG)}


@dataclass(frozen=True)
class ProductShape:
    """A weight matrix of one linear layer."""

    columns: int
    rows: int

    @property
    def name(self) -> str:
        return f"{self.columns}x{self.rows}"


MODELS = {
    shape.name: shape
    for shape in (
        ModelShape("2b", 128256, 2560, 30, 20, 5, 6912),
        ModelShape("0.3b", 32000, 1024, 24, 16, 8, 3072),
    )
}
STORIES = ModelShape("stories260k", 512, 64, 5, 8, 4, 172)
"""A trained model: https://huggingface.co/karpathy/tinyllamas, in the layout of transformers."""
PRODUCTS = {
    shape.name: shape
    for shape in (ProductShape(2560, 6912), ProductShape(6912, 2560), ProductShape(2560, 2560))
}
