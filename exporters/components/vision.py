"""The vision transformer that ViT and DeiT share: an image classifier; DeiT sets the switches."""

from dataclasses import dataclass
from typing import ClassVar

from edgellm.config import JsonFields
from edgellm.errors import CheckpointError, UnsupportedModelError
from edgellm.exporters.components.encoder_config import EncoderConfig, read_encoder
from edgellm.exporters.lowering.encoder_interface import (
    EncoderLowering,
    ImageEmbedding,
    PatchShape,
)
from edgellm.exporters.lowering.interface import V

MAX_TOKENS = 65_535
"""The most rows of a sequence that EncoderAttention takes."""
MAX_SIDE = 1 << 14
MAX_LABELS = 1 << 20
MAX_PATCH_BYTES = 131_071
"""128 * 127 times so many fit in int32."""


@dataclass(frozen=True)
class VisionConfig:
    """config.json of a vision transformer."""

    encoder: EncoderConfig
    image_height: int
    image_width: int
    patch_height: int
    patch_width: int
    num_channels: int
    qkv_bias: bool
    labels: tuple[str, ...]
    architecture: str

    @classmethod
    def read(cls, fields: JsonFields) -> "VisionConfig":
        """Read and check config.json.

        Raises:
            CheckpointError: a field is missing, of the wrong type or out of range.
            UnsupportedModelError: a feature that no operator here has.
        """
        height, width = _pair(fields, "image_size", 224)
        patch_height, patch_width = _pair(fields, "patch_size", 16)
        config = cls(
            encoder=read_encoder(fields),
            image_height=height,
            image_width=width,
            patch_height=patch_height,
            patch_width=patch_width,
            num_channels=fields.integer("num_channels", 3, high=64),
            qkv_bias=fields.flag("qkv_bias", default=True),
            labels=read_labels(fields),
            architecture=(fields.texts("architectures") or [""])[0],
        )
        config._check(fields.where)
        return config

    def _check(self, where: str) -> None:
        cut = self.patches
        if not cut.count:
            raise CheckpointError(
                f"{where}: no patch of {cut.height} x {cut.width} fits in an image of "
                f"{self.image_height} x {self.image_width}"
            )
        if cut.count + 2 > MAX_TOKENS:
            raise UnsupportedModelError(
                f"{where}: {cut.count} patches an image; allowed are {MAX_TOKENS - 2}"
            )
        if cut.height * cut.width * cut.channels > MAX_PATCH_BYTES:
            raise UnsupportedModelError(f"{where}: a patch has more than {MAX_PATCH_BYTES} bytes")

    @property
    def patches(self) -> PatchShape:
        """How an image is cut; what is left at the right and the bottom is not seen."""
        return PatchShape(
            self.image_height // self.patch_height,
            self.image_width // self.patch_width,
            self.patch_height,
            self.patch_width,
            self.num_channels,
        )


def _pair(fields: JsonFields, name: str, default: int) -> tuple[int, int]:
    """Return (height, width) of one or two integers."""
    if not isinstance(fields.values.get(name), list):
        side = fields.integer(name, default, high=MAX_SIDE)
        return side, side
    sides = fields.integers(name)
    if len(sides) != 2 or not all(1 <= side <= MAX_SIDE for side in sides):
        raise fields.fail(name, f"one or two integers from 1 to {MAX_SIDE} are needed")
    return sides[0], sides[1]


def read_labels(fields: JsonFields) -> tuple[str, ...]:
    """Return the names of the labels, by ``id2label``; without it they are called by number."""
    section = fields.section("id2label")
    if section is None:
        count = fields.integer("num_labels", 2, high=MAX_LABELS)
        return tuple(f"LABEL_{number}" for number in range(count))
    names = section.values
    numbers = [str(number) for number in range(len(names))]
    if not names or len(names) > MAX_LABELS or set(names) != set(numbers):
        raise fields.fail("id2label", "an object with the keys 0, 1, 2, ... is needed")
    return tuple(section.text(number) for number in numbers)


class VisionTransformer:
    """Patches behind one or two tokens, pre-norm layers, classifiers on those tokens."""

    task: ClassVar[str] = "image-classification"
    base: ClassVar[str]
    """Prefix of the names of its tensors."""
    tokens: ClassVar[tuple[str, ...]] = ("cls_token",)
    """The tokens before the patches."""
    heads: tuple[str, ...] = ("classifier",)
    """Classifiers, of the tokens in the same order; their mean counts."""

    def __init__(self, config: VisionConfig) -> None:
        self.config = config

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.config.labels

    @property
    def tokens_per_image(self) -> int:
        """Rows of an image."""
        return len(self.tokens) + self.config.patches.count

    def build(self, net: EncoderLowering[V]) -> None:
        """Emit the forward pass."""
        config = self.config
        hidden, labels = config.encoder.hidden_size, len(config.labels)
        embeddings = f"{self.base}.embeddings"
        x = net.image_tokens(
            ImageEmbedding(
                projection=f"{embeddings}.patch_embeddings.projection",
                position=f"{embeddings}.position_embeddings",
                prefix=tuple(f"{embeddings}.{name}" for name in self.tokens),
                patches=config.patches,
                hidden_size=hidden,
            )
        )
        for layer in range(config.encoder.num_hidden_layers):
            path = f"{self.base}.encoder.layer.{layer}"
            x = self._feed_forward(net, path, self._attend(net, path, x))
        logits = []
        for row, head in enumerate(self.heads):
            one = net.select_row(f"{self.base}.{self.tokens[row]}", x, row)
            one = net.layer_norm(f"{self.base}.layernorm", one, hidden)
            logits.append(net.linear(head, one, (labels, hidden)))
        net.logits(logits, labels)

    def _attend(self, net: EncoderLowering[V], path: str, x: V) -> V:
        config = self.config.encoder
        hidden, width = config.hidden_size, config.attention_width
        h = net.layer_norm(f"{path}.layernorm_before", x, hidden)
        query, key, value = (
            net.linear(
                f"{path}.attention.attention.{name}", h, (width, hidden), bias=self.config.qkv_bias
            )
            for name in ("query", "key", "value")
        )
        h = net.attention(
            f"{path}.attention.attention", query, key, value, config.num_attention_heads
        )
        h = net.linear(f"{path}.attention.output.dense", h, (hidden, width))
        return net.residual_add(f"{path}.attention", x, h)

    def _feed_forward(self, net: EncoderLowering[V], path: str, x: V) -> V:
        config = self.config.encoder
        hidden, inner = config.hidden_size, config.intermediate_size
        h = net.layer_norm(f"{path}.layernorm_after", x, hidden)
        h = net.linear(f"{path}.intermediate.dense", h, (inner, hidden))
        h = net.activation(f"{path}.intermediate", h, config.hidden_act)
        h = net.linear(f"{path}.output.dense", h, (hidden, inner))
        return net.residual_add(f"{path}.output", x, h)
