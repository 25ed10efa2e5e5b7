"""What an architecture is written against: the few steps of a decoder, whatever they become.

``V`` is what a lowering knows about a value. Paths are those of the checkpoint, such as
``model.layers.0.self_attn.q_proj``; shapes of weights are those of the checkpoint too.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

V = TypeVar("V")


@dataclass(frozen=True)
class Heads:
    """The heads of one layer, and how many positions a query sees (window 0: all)."""

    layer: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    window: int
    has_bias: bool
    has_norms: bool


class Lowering(Protocol[V]):
    """The steps; each takes values and returns a value."""

    def embedding(self, path: str, shape: tuple[int, int]) -> V:
        """Return the rows of the table for the input ids: the residual stream."""
        ...

    def norm(self, path: str, x: V, size: int) -> V:
        """Return RMSNorm(x); only linears and the head may use it."""
        ...

    def linear(
        self,
        path: str,
        x: V,
        shape: tuple[int, int],
        *,
        bias: bool = False,
        gate: V | None = None,
    ) -> V:
        """Return x @ weight.T, plus the bias if there is one.

        With a gate, the result is used only where the gate is greater than 0.
        """
        ...

    def head_norm(self, path: str, x: V, head_dim: int) -> V:
        """Return RMSNorm of each head of x."""
        ...

    def rotary(self, path: str, x: V) -> V:
        """Return x with each head rotated by its position."""
        ...

    def attention(self, path: str, query: V, key: V, value: V, heads: Heads) -> V:
        """Return softmax(query . key) . value over the cached and the new positions."""
        ...

    def gate(self, path: str, gate: V, up: V, act: str) -> V:
        """Return act(gate) * up; ``act`` is ``silu`` or ``relu2``."""
        ...

    def residual_add(self, path: str, x: V, y: V) -> V:
        """Return x + y, where x is the residual stream and y comes from a linear."""
        ...

    def head(self, path: str, x: V, shape: tuple[int, int], tied_to: str | None) -> None:
        """Make the logits; ``tied_to`` names the embedding whose table the head shares."""
        ...
