"""ViT: an image classifier on the class token."""

from edgellm.exporters.components.vision import VisionConfig, VisionTransformer

TINY = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "image_size": 28,
    "patch_size": 7,
    "num_channels": 1,
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "head_dim": 20,
    "hidden_act": "gelu",
    "qkv_bias": False,
    "layer_norm_eps": 1e-6,
    "id2label": {"0": "zero", "1": "one", "2": "two", "3": "three", "4": "four"},
}
"""A config.json for tests."""


class Config(VisionConfig):
    """ViT's config.json."""


class Model(VisionTransformer):
    """Every switch off."""

    base = "vit"
