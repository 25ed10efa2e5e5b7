"""What an architecture is written against: the few steps of a decoder, whatever they become.

``V`` is what a lowering knows about a value. Paths are those of the checkpoint, such as
``model.layers.0.self_attn.q_proj``; shapes of weights are those of the checkpoint too.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from edgellm.exporters.components.rotary import RotaryConfig

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
    rope: RotaryConfig


@dataclass(frozen=True)
class Recurrence:
    """The recurrence of one layer: its parameter of lower bounds for all layers, and its width."""

    layer: int
    num_layers: int
    size: int
    lower_bounds: str | None

    def complement(self, parameter: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return (size,) 1 - lower bound of the forget gates.

        The bounds are the cumulative softmax over the layers, less that of the first: they rise
        from 0, so that upper layers remember for longer.

        Args:
            parameter: (num_layers, size), as the checkpoint has it.
        """
        powers = np.exp(parameter.astype(np.float64) - parameter.max(axis=0))
        shares = powers / powers.sum(axis=0)
        bounds: npt.NDArray[np.float64] = shares[1 : self.layer + 1].sum(axis=0)
        return 1.0 - bounds


class Lowering(Protocol[V]):
    """The steps; each takes values and returns a value."""

    def embedding(self, path: str, shape: tuple[int, int]) -> V:
        """Return the rows of the table for the input ids: the residual stream."""
        ...

    def norm(self, path: str, x: V, size: int, epsilon: float | None = None) -> V:
        """Return RMSNorm(x), by default with the model's epsilon; for linears and the head only."""
        ...

    def wide_norm(self, path: str, x: V, size: int) -> V:
        """Return RMSNorm(x) of the residual stream, for other norms."""
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

    def split_linear(self, path: str, x: V, shape: tuple[int, int]) -> tuple[V, V]:
        """Return the two halves of x @ weight.T."""
        ...

    def head_norm(self, path: str, x: V, head_dim: int) -> V:
        """Return RMSNorm of each head of x."""
        ...

    def rotary(self, path: str, x: V, heads: Heads) -> V:
        """Return x with each head rotated by its position."""
        ...

    def attention(self, path: str, query: V, key: V, value: V, heads: Heads) -> V:
        """Return softmax(query . key) . value over the cached and the new positions."""
        ...

    def recurrence(self, path: str, forget: V, x: V, recurrence: Recurrence) -> V:
        """Return h = f * h + (1 - f) * silu(x) after each token, with h = 0 before the first.

        f is sigmoid(forget), raised to [lower bound, 1].
        """
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

    def linear_head(self, path: str, x: V, shape: tuple[int, int]) -> None:
        """Make the logits by a linear, which may be ternary."""
        ...
