"""BERT: a sentence encoder, as BertModel or in a sentence-transformers directory."""

from dataclasses import dataclass
from typing import ClassVar

from edgellm.config import JsonFields
from edgellm.errors import UnsupportedModelError
from edgellm.exporters.components.encoder_config import EncoderConfig, read_encoder
from edgellm.exporters.lowering.encoder_interface import EncoderLowering, TextTables
from edgellm.exporters.lowering.interface import V

TINY = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 288,
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "gelu",
    "max_position_embeddings": 48,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
"""A config.json for tests."""
MAX_VOCAB = 1 << 22
MAX_POSITIONS = 65_535


@dataclass(frozen=True)
class Config:
    """BERT's config.json."""

    encoder: EncoderConfig
    vocab_size: int
    type_vocab_size: int
    max_position_embeddings: int

    @classmethod
    def read(cls, fields: JsonFields) -> "Config":
        """Read and check config.json.

        Raises:
            CheckpointError: a field is missing, of the wrong type or out of range.
            UnsupportedModelError: a feature that no operator here has.
        """
        if (kind := fields.text("position_embedding_type", "absolute")) != "absolute":
            raise UnsupportedModelError(
                f"{fields.where}: position_embedding_type {kind!r} is not supported; allowed is "
                "'absolute'"
            )
        for name in ("is_decoder", "add_cross_attention"):
            if fields.flag(name, default=False):
                raise UnsupportedModelError(f"{fields.where}: {name} true is not supported")
        return cls(
            encoder=read_encoder(fields),
            vocab_size=fields.integer("vocab_size", high=MAX_VOCAB),
            type_vocab_size=fields.integer("type_vocab_size", 2, high=MAX_VOCAB),
            max_position_embeddings=fields.integer(
                "max_position_embeddings", 512, high=MAX_POSITIONS
            ),
        )


class Model:
    """Embeddings, post-norm layers, pooling.

    Attributes:
        base: prefix of the names of its tensors, "" or "bert."; a checkpoint says which.
        pooling: ``mean`` or ``cls``.
        normalize: whether embeddings get the length 1.
    """

    task: ClassVar[str] = "sentence-embedding"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.base = ""
        self.pooling = "mean"
        self.normalize = False

    def build(self, net: EncoderLowering[V]) -> None:
        """Emit the forward pass."""
        config = self.config
        hidden = config.encoder.hidden_size
        path = f"{self.base}embeddings"
        x = net.text_tokens(
            TextTables(
                words=f"{path}.word_embeddings",
                types=f"{path}.token_type_embeddings",
                positions=f"{path}.position_embeddings",
                vocab_size=config.vocab_size,
                type_vocab_size=config.type_vocab_size,
                max_positions=config.max_position_embeddings,
                hidden_size=hidden,
            )
        )
        x = net.layer_norm(f"{path}.LayerNorm", x, hidden)
        for layer in range(config.encoder.num_hidden_layers):
            path = f"{self.base}encoder.layer.{layer}"
            x = self._feed_forward(net, path, self._attend(net, path, x))
        net.embeddings("pooling", x, self.pooling, normalize=self.normalize)

    def _attend(self, net: EncoderLowering[V], path: str, x: V) -> V:
        config = self.config.encoder
        hidden, width = config.hidden_size, config.attention_width
        query, key, value = (
            net.linear(f"{path}.attention.self.{name}", x, (width, hidden))
            for name in ("query", "key", "value")
        )
        h = net.attention(f"{path}.attention.self", query, key, value, config.num_attention_heads)
        h = net.linear(f"{path}.attention.output.dense", h, (hidden, width))
        h = net.residual_add(f"{path}.attention.output", x, h)
        return net.layer_norm(f"{path}.attention.output.LayerNorm", h, hidden)

    def _feed_forward(self, net: EncoderLowering[V], path: str, x: V) -> V:
        config = self.config.encoder
        hidden, inner = config.hidden_size, config.intermediate_size
        h = net.linear(f"{path}.intermediate.dense", x, (inner, hidden))
        h = net.activation(f"{path}.intermediate", h, config.hidden_act)
        h = net.linear(f"{path}.output.dense", h, (hidden, inner))
        h = net.residual_add(f"{path}.output", x, h)
        return net.layer_norm(f"{path}.output.LayerNorm", h, hidden)
