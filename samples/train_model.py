"""BitNet b1.58 in torch: the model that is trained, its optimiser, and its packed file.

Parameter names and arithmetic are those of Hugging Face's `BitNetForCausalLM`, so the state dict is
already the checkpoint but for the packing of the ternary matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INT8_MAX = 127
SMALLEST_SCALE = 1e-5


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model; the names are those of `config.json`."""

    vocab_size: int = 1024
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 6
    num_attention_heads: int = 3
    num_key_value_heads: int = 1
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        """Refuse sizes that the architecture or the packed layout cannot hold."""
        widths = (self.hidden_size, self.intermediate_size, self.shared_size)
        if self.hidden_size % self.num_attention_heads or self.head_dim % 2:
            raise ValueError(f"{self.num_attention_heads=} must cut {self.hidden_size=} evenly")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(f"{self.num_key_value_heads=} must divide {self.num_attention_heads=}")
        if any(width % 4 for width in widths):
            raise ValueError(f"four ternary values share a byte: {widths} must be multiples of 4")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def shared_size(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.num_key_value_heads * self.head_dim


def ternarise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in {-1, 0, 1} of the shape of `weight`, and the scale [] that multiplies them."""
    scale = weight.abs().mean().clamp(min=SMALLEST_SCALE)
    return (weight / scale).round().clamp(-1, 1), scale


def quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Int8 codes (as floats) of `values` [..., width] and the scale [..., 1] that divides them."""
    scale = INT8_MAX / values.abs().amax(-1, keepdim=True).clamp(min=SMALLEST_SCALE)
    return (values * scale).round().clamp(-INT8_MAX - 1, INT8_MAX), scale


class BitLinear(nn.Module):
    """A linear layer without bias: ternary weights, int8 activations, straight-through gradient.

    `weight` [outputs, inputs] is the float weight that learns, or, once `weight_scale` [1] is set,
    the ternary codes as they were read from a packed checkpoint.
    """

    def __init__(self, inputs: int, outputs: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * std)
        self.weight_scale: Tensor | None = None

    def forward(self, values: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        with torch.no_grad():
            codes, fineness = quantise(values)
            if self.weight_scale is None:
                ternary, scale = ternarise(self.weight)
                stored = scale.bfloat16().float()
            else:
                ternary, scale = self.weight, torch.ones(())
                stored = self.weight_scale
        if torch.is_grad_enabled():
            # Straight through: round() has the gradient of the identity. Both factors of the
            # product stay small integers, which bfloat16 holds exactly.
            smooth = values * fineness
            codes = smooth + (codes - smooth).detach()
            smooth = self.weight / scale
            ternary = smooth + (ternary - smooth).detach()
        return F.linear(codes, ternary) / fineness * stored


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learnt gain [width]."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, values: Tensor) -> Tensor:
        """[..., width] -> the same shape, in float32."""
        values = values.float()
        inverse = torch.rsqrt(values.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * (values * inverse)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions and the norm before `o_proj`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width = config.hidden_size
        shared = config.shared_size
        std = width**-0.5
        self.q_proj = BitLinear(width, width, std)
        self.k_proj = BitLinear(width, shared, std)
        self.v_proj = BitLinear(width, shared, std)
        self.o_proj = BitLinear(width, width, std * (2 * config.num_hidden_layers) ** -0.5)
        self.attn_sub_norm = RMSNorm(width, config.rms_norm_eps)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[batch, length, hidden] -> the same; `cos` and `sin` are [length, head_dim]."""
        batch, length, width = hidden.shape
        query, key, value = (
            projection(hidden).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        # The rotation is done in float32; autocast takes the product back to bfloat16.
        mixed = F.scaled_dot_product_attention(query, key, value.float(), is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(batch, length, width)
        return self.o_proj(self.attn_sub_norm(mixed))


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, half-rotation form: [batch, heads, length, head_dim] -> the same."""
    first, second = heads.chunk(2, -1)
    return heads * cos + torch.cat((-second, first), -1) * sin


class FeedForward(nn.Module):
    """Squared-ReLU gated feed-forward block with the norm before `down_proj`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = BitLinear(width, inner, width**-0.5)
        self.up_proj = BitLinear(width, inner, width**-0.5)
        depth = (2 * config.num_hidden_layers) ** -0.5
        self.down_proj = BitLinear(inner, width, inner**-0.5 * depth)
        self.ffn_sub_norm = RMSNorm(inner, config.rms_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, length, hidden] -> the same."""
        inner = F.relu(self.gate_proj(hidden)).square() * self.up_proj(hidden)
        return self.down_proj(self.ffn_sub_norm(inner))


class Layer(nn.Module):
    """One transformer layer: attention and feed-forward, each behind a norm and a residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[batch, length, hidden] -> the same."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cos, sin)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Backbone(nn.Module):
    """Everything below the head; exists so that parameter names begin with `model.`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.05)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class BitNet(nn.Module):
    """BitNet b1.58 with a tied head in full precision."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        half = torch.arange(0, config.head_dim, 2) / config.head_dim
        angle = torch.outer(
            torch.arange(config.max_position_embeddings).float(), config.rope_theta**-half
        )
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [batch, length] -> logits [batch, length, vocabulary]."""
        length = ids.shape[1]
        hidden = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            hidden = layer(hidden, self.cos[:length], self.sin[:length])
        return F.linear(self.model.norm(hidden), self.model.embed_tokens.weight)


class Muon:
    """Momentum whose update is orthogonalised: for the matrices inside the layers.

    Matrices of one shape are stacked and handled by the same few batched products.
    """

    def __init__(self, parameters: list[nn.Parameter], momentum: float = 0.95) -> None:
        shapes = sorted({tuple(p.shape) for p in parameters})
        self.groups = [[p for p in parameters if tuple(p.shape) == shape] for shape in shapes]
        self.velocity = [torch.zeros(len(group), *group[0].shape) for group in self.groups]
        self.momentum = momentum

    @torch.no_grad()
    def step(self, rate: float, decay: float) -> None:
        """One update at learning rate `rate` and decoupled weight decay `decay`."""
        for group, velocity in zip(self.groups, self.velocity, strict=True):
            gradient = torch.stack([p.grad for p in group if p.grad is not None])
            velocity.lerp_(gradient, 1 - self.momentum)
            update = orthogonalise(gradient.lerp_(velocity, self.momentum))
            rows, columns = velocity.shape[1:]
            factor = -rate * max(1.0, rows / columns) ** 0.5
            for parameter, change in zip(group, update, strict=True):
                parameter.mul_(1 - rate * decay).add_(change, alpha=factor)


def orthogonalise(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices of [count, rows, columns], by a quintic Newton iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).bfloat16()
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()
