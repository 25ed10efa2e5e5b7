"""DeiT: ViT with a distillation token, and with teacher a classifier on that as well."""

from edgellm.exporters.components.vision import VisionConfig, VisionTransformer

TINY = {
    "model_type": "deit",
    "architectures": ["DeiTForImageClassificationWithTeacher"],
    "image_size": [30, 20],
    "patch_size": 10,
    "num_channels": 3,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "gelu",
    "id2label": {"0": "no", "1": "yes", "2": "perhaps"},
}
"""A config.json for tests."""


class Config(VisionConfig):
    """DeiT's config.json."""


class Model(VisionTransformer):
    """Two tokens; which heads there are is the architecture's."""

    base = "deit"
    tokens = ("cls_token", "distillation_token")

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        if config.architecture.endswith("WithTeacher"):
            self.heads = ("cls_classifier", "distillation_classifier")
        else:
            self.heads = ("classifier",)
