"""The decoder that Llama and its relatives share; an architecture sets the switches."""

from typing import ClassVar

from edgellm.exporters.components.attention import attention
from edgellm.exporters.components.decoder_config import DecoderConfig
from edgellm.exporters.components.language_model import LanguageModel
from edgellm.exporters.components.mlp import gated_mlp
from edgellm.exporters.lowering.interface import Heads, Lowering, V

EMBEDDING = "model.embed_tokens"


class Decoder(LanguageModel):
    """Embedding, layers of attention and feed-forward behind norms, and the head."""

    config: DecoderConfig
    attention_bias: ClassVar[bool] = False
    """q_proj, k_proj and v_proj have a bias."""
    head_norms: ClassVar[bool] = False
    """Queries and keys are normalised head by head: q_norm, k_norm."""
    sub_norms: ClassVar[bool] = False
    """A norm before o_proj and one before down_proj: attn_sub_norm, ffn_sub_norm."""

    def __init__(self, config: DecoderConfig) -> None:
        self.config = config

    def build(self, net: Lowering[V]) -> None:
        """Emit the forward pass."""
        config = self.config
        table = (config.vocab_size, config.hidden_size)
        x = net.embedding(EMBEDDING, table)
        for layer in range(config.num_hidden_layers):
            x = self._attend(net, f"model.layers.{layer}", x, layer)
            x = self._feed_forward(net, f"model.layers.{layer}", x)
        x = net.norm("model.norm", x, config.hidden_size)
        net.head("lm_head", x, table, EMBEDDING if config.tie_word_embeddings else None)

    def _attend(self, net: Lowering[V], path: str, x: V, layer: int) -> V:
        hidden, heads = self.config.hidden_size, self._heads(layer)
        width = heads.num_attention_heads * heads.head_dim
        h = net.norm(f"{path}.input_layernorm", x, hidden)
        path = f"{path}.self_attn"
        h = attention(net, path, h, hidden, heads)
        if self.sub_norms:
            h = net.norm(f"{path}.attn_sub_norm", h, width)
        h = net.linear(f"{path}.o_proj", h, (hidden, width))
        return net.residual_add(path, x, h)

    def _feed_forward(self, net: Lowering[V], path: str, x: V) -> V:
        config = self.config
        h = net.norm(f"{path}.post_attention_layernorm", x, config.hidden_size)
        path = f"{path}.mlp"
        h = gated_mlp(net, path, h, config)
        if self.sub_norms:
            h = net.norm(f"{path}.ffn_sub_norm", h, config.intermediate_size)
        h = net.linear(f"{path}.down_proj", h, (config.hidden_size, config.intermediate_size))
        return net.residual_add(path, x, h)

    def _heads(self, layer: int) -> Heads:
        config = self.config
        return Heads(
            layer,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
            config.windows[layer],
            self.attention_bias,
            self.head_norms,
            config.rope,
        )
