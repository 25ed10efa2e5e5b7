"""What the export needs to know of any language model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from edgellm.exporters.lowering.interface import Lowering, V
from edgellm.exporters.quantization import BitNetQuantization


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Sizes of a language model; names are those of config.json.

    ``state_size`` is the width of a layer's recurrent state, 0 for layers that attend.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    state_size: int = 0


class LanguageModel(ABC):
    """A model that can be built on any lowering."""

    task: ClassVar[str] = "text-generation"
    quantization: ClassVar[BitNetQuantization | None] = None
    """Of architectures whose linears are ternary though their config.json does not say so."""

    config: LanguageConfig

    @abstractmethod
    def build(self, net: Lowering[V]) -> None:
        """Emit the forward pass."""
