"""What an encoder is written against: the few steps of a vision or sentence encoder.

``V`` is what a lowering knows about a value. Paths are those of the checkpoint, such as
``vit.encoder.layer.0.attention.attention.query``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgellm.exporters.lowering.interface import V


@dataclass(frozen=True)
class PatchShape:
    """How an image is cut: rows and columns of patches, and the size of one."""

    rows: int
    columns: int
    height: int
    width: int
    channels: int

    @property
    def count(self) -> int:
        """Patches of an image."""
        return self.rows * self.columns


@dataclass(frozen=True)
class ImageEmbedding:
    """Where the token rows of an image come from.

    Attributes:
        projection: path of the convolution.
        position: name of the position embeddings, (1, prefix + patches, hidden).
        prefix: names of the tokens before the patches, (1, 1, hidden) each.
        patches: how images are cut.
        hidden_size: width of a row.
    """

    projection: str
    position: str
    prefix: tuple[str, ...]
    patches: PatchShape
    hidden_size: int


@dataclass(frozen=True)
class TextTables:
    """The three embeddings whose sum begins a text: paths, and their numbers of rows."""

    words: str
    types: str
    positions: str
    vocab_size: int
    type_vocab_size: int
    max_positions: int
    hidden_size: int


class EncoderLowering(Protocol[V]):
    """The steps; each takes values and returns a value."""

    def image_tokens(self, tokens: ImageEmbedding) -> V:
        """Return the rows of all images: prefix tokens, then patches, with their positions."""
        ...

    def text_tokens(self, tables: TextTables) -> V:
        """Return the sum of the embeddings of each token."""
        ...

    def layer_norm(self, path: str, x: V, size: int) -> V:
        """Return LayerNorm(x)."""
        ...

    def linear(self, path: str, x: V, shape: tuple[int, int], *, bias: bool = True) -> V:
        """Return x @ weight.T, plus the bias if there is one."""
        ...

    def attention(self, path: str, query: V, key: V, value: V, heads: int) -> V:
        """Return softmax(query . key / sqrt(head_dim)) . value within each sequence."""
        ...

    def activation(self, path: str, x: V, act: str) -> V:
        """Return act(x) of a linear; ``act`` is ``relu``, ``gelu`` or ``gelu_tanh``."""
        ...

    def residual_add(self, path: str, x: V, y: V) -> V:
        """Return x + y, where y comes from a linear."""
        ...

    def select_row(self, path: str, x: V, row: int) -> V:
        """Return row ``row`` of each sequence."""
        ...

    def logits(self, heads: Sequence[V], labels: int) -> None:
        """Make the output of a classifier: the mean of these linears."""
        ...

    def embeddings(self, path: str, x: V, pooling: str, *, normalize: bool) -> None:
        """Make the output of a sentence encoder; ``pooling`` is ``mean`` or ``cls``."""
        ...
