"""A vision transformer in torch, with the tensor names of transformers' ViTForImageClassification.

Its weights are a plain dict of parameters by name, so they already are the checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

EPSILON = 1e-6
MEAN, DEVIATION = 0.1307, 0.3081
"""Of MNIST's pixels, 0 to 1; preprocessor_config.json says so, too."""


@dataclass(frozen=True)
class VitConfig:
    """Sizes of the model; the names are those of `config.json`."""

    image_size: int = 28
    patch_size: int = 7
    hidden_size: int = 64
    intermediate_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_labels: int = 10

    def __post_init__(self) -> None:
        """Refuse sizes that do not divide."""
        if self.image_size % self.patch_size or self.hidden_size % self.num_attention_heads:
            raise ValueError(f"patches must cut the image evenly, and heads the width: {self}")

    @property
    def tokens(self) -> int:
        """The class token and the patches."""
        return 1 + (self.image_size // self.patch_size) ** 2


def shapes(config: VitConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, by name."""
    width, inner, patch = config.hidden_size, config.intermediate_size, config.patch_size
    embeddings = "vit.embeddings"
    found: dict[str, tuple[int, ...]] = {
        f"{embeddings}.cls_token": (1, 1, width),
        f"{embeddings}.position_embeddings": (1, config.tokens, width),
        f"{embeddings}.patch_embeddings.projection.weight": (width, 1, patch, patch),
        f"{embeddings}.patch_embeddings.projection.bias": (width,),
    }
    linears = {"classifier": (config.num_labels, width)}
    norms = ["vit.layernorm"]
    for layer in range(config.num_hidden_layers):
        path = f"vit.encoder.layer.{layer}"
        for name in ("attention.query", "attention.key", "attention.value", "output.dense"):
            linears[f"{path}.attention.{name}"] = (width, width)
        linears[f"{path}.intermediate.dense"] = (inner, width)
        linears[f"{path}.output.dense"] = (width, inner)
        norms += [f"{path}.layernorm_before", f"{path}.layernorm_after"]
    for name, shape in linears.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        found |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return found


class Vit:
    """Patches behind a class token, pre-norm layers with GELU, a classifier on the class token."""

    def __init__(self, config: VitConfig, weights: dict[str, Tensor]) -> None:
        self.config = config
        self.weights = {name: Parameter(weights[name].float()) for name in shapes(config)}

    @classmethod
    def random(cls, config: VitConfig) -> Vit:
        """A model to be trained: biases 0, norms 1, the rest Gaussian."""
        weights = {}
        for name, shape in shapes(config).items():
            if name.endswith(".bias"):
                weights[name] = torch.zeros(shape)
            elif "layernorm" in name:
                weights[name] = torch.ones(shape)
            else:
                inputs = math.prod(shape[1:])
                weights[name] = torch.randn(shape) * min(0.1, inputs**-0.5)
        return cls(config, weights)

    @property
    def num_parameters(self) -> int:
        """How many numbers were learned."""
        return sum(weight.numel() for weight in self.weights.values())

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (images, labels) of pixels (images, 1, side, side), 0 to 1."""
        embeddings = "vit.embeddings"
        projection = f"{embeddings}.patch_embeddings.projection"
        weight, bias = self.weights[f"{projection}.weight"], self.weights[f"{projection}.bias"]
        patches = F.conv2d((images - MEAN) / DEVIATION, weight, bias, self.config.patch_size)
        x = patches.flatten(2).mT
        first = self.weights[f"{embeddings}.cls_token"].expand(len(images), -1, -1)
        x = torch.cat((first, x), 1) + self.weights[f"{embeddings}.position_embeddings"]
        for layer in range(self.config.num_hidden_layers):
            path = f"vit.encoder.layer.{layer}"
            x = x + self._attention(f"{path}.attention", self._norm(f"{path}.layernorm_before", x))
            h = self._norm(f"{path}.layernorm_after", x)
            h = F.gelu(self._linear(f"{path}.intermediate.dense", h))
            x = x + self._linear(f"{path}.output.dense", h)
        return self._linear("classifier", self._norm("vit.layernorm", x[:, 0]))

    def _attention(self, path: str, h: Tensor) -> Tensor:
        heads = self.config.num_attention_heads
        query, key, value = (
            self._linear(f"{path}.attention.{name}", h).unflatten(-1, (heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self._linear(f"{path}.output.dense", mixed.transpose(1, 2).flatten(2))

    def _linear(self, name: str, values: Tensor) -> Tensor:
        return F.linear(values, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, values: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(values, weight.shape, weight, bias, EPSILON)
