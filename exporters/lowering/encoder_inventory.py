"""An encoder lowering that makes nothing: it lists the parameters that a model asks for."""

import math
from collections.abc import Sequence

from edgellm.exporters.lowering.encoder_interface import ImageEmbedding, TextTables
from edgellm.exporters.lowering.inventory import Parameter


class EncoderInventory:
    """Collects ``parameters`` while a model is built on it; its values are None."""

    def __init__(self) -> None:
        self._parameters: dict[str, Parameter] = {}

    @property
    def parameters(self) -> list[Parameter]:
        """Every tensor, once."""
        return list(self._parameters.values())

    @property
    def num_parameters(self) -> int:
        """How many numbers the model has."""
        return sum(math.prod(parameter.shape) for parameter in self.parameters)

    def image_tokens(self, tokens: ImageEmbedding) -> None:
        """List the convolution, the prefix tokens and the positions."""
        hidden, cut = tokens.hidden_size, tokens.patches
        kernel = (hidden, cut.channels, cut.height, cut.width)
        self._add(f"{tokens.projection}.weight", kernel)
        self._add(f"{tokens.projection}.bias", (hidden,))
        for name in tokens.prefix:
            self._add(name, (1, 1, hidden))
        self._add(tokens.position, (1, len(tokens.prefix) + cut.count, hidden))

    def text_tokens(self, tables: TextTables) -> None:
        """List the tables."""
        for path, rows in (
            (tables.words, tables.vocab_size),
            (tables.types, tables.type_vocab_size),
            (tables.positions, tables.max_positions),
        ):
            self._add(f"{path}.weight", (rows, tables.hidden_size))

    def layer_norm(self, path: str, x: None, size: int) -> None:
        """List weight and bias."""
        self._add(f"{path}.weight", (size,))
        self._add(f"{path}.bias", (size,))

    def linear(self, path: str, x: None, shape: tuple[int, int], *, bias: bool = True) -> None:
        """List the weight, and the bias if there is one."""
        self._parameters[f"{path}.weight"] = Parameter(f"{path}.weight", shape, is_linear=True)
        if bias:
            self._add(f"{path}.bias", shape[:1])

    def attention(self, path: str, query: None, key: None, value: None, heads: int) -> None:
        """List nothing."""

    def activation(self, path: str, x: None, act: str) -> None:
        """List nothing."""

    def residual_add(self, path: str, x: None, y: None) -> None:
        """List nothing."""

    def select_row(self, path: str, x: None, row: int) -> None:
        """List nothing."""

    def logits(self, heads: Sequence[None], labels: int) -> None:
        """List nothing."""

    def embeddings(self, path: str, x: None, pooling: str, *, normalize: bool) -> None:
        """List nothing."""

    def _add(self, name: str, shape: tuple[int, ...]) -> None:
        self._parameters[name] = Parameter(name, shape)
