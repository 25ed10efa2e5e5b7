"""A lowering that makes nothing: it lists the parameters that a model asks for."""

import math
from dataclasses import dataclass

from edgellm.exporters.lowering.interface import Heads, Recurrence


@dataclass(frozen=True)
class Parameter:
    """One tensor of the checkpoint; ``is_linear`` if a quantisation may make it ternary."""

    name: str
    shape: tuple[int, ...]
    is_linear: bool = False


class Inventory:
    """Collects ``parameters`` while a model is built on it; its values are None."""

    def __init__(self) -> None:
        self.parameters: list[Parameter] = []
        self.has_table_head = False

    @property
    def num_parameters(self) -> int:
        """How many numbers the model has; a tied head counts once."""
        return sum(math.prod(parameter.shape) for parameter in self.parameters)

    def embedding(self, path: str, shape: tuple[int, int]) -> None:
        """List the table."""
        self._add(f"{path}.weight", shape)

    def norm(self, path: str, x: None, size: int, epsilon: float | None = None) -> None:
        """List the norm weight."""
        self._add(f"{path}.weight", (size,))

    def wide_norm(self, path: str, x: None, size: int) -> None:
        """List the norm weight."""
        self._add(f"{path}.weight", (size,))

    def linear(
        self,
        path: str,
        x: None,
        shape: tuple[int, int],
        *,
        bias: bool = False,
        gate: None = None,
    ) -> None:
        """List the weight, and the bias if there is one."""
        self.parameters.append(Parameter(f"{path}.weight", shape, is_linear=True))
        if bias:
            self._add(f"{path}.bias", shape[:1])

    def split_linear(self, path: str, x: None, shape: tuple[int, int]) -> tuple[None, None]:
        """List the weight."""
        self.linear(path, x, shape)
        return None, None

    def head_norm(self, path: str, x: None, head_dim: int) -> None:
        """List the norm weight."""
        self._add(f"{path}.weight", (head_dim,))

    def rotary(self, path: str, x: None, heads: Heads) -> None:
        """List nothing: the tables follow from the config."""

    def attention(self, path: str, query: None, key: None, value: None, heads: Heads) -> None:
        """List nothing."""

    def recurrence(self, path: str, forget: None, x: None, recurrence: Recurrence) -> None:
        """List the lower bounds, which all layers share, once."""
        if recurrence.lower_bounds is not None and recurrence.layer == 0:
            self._add(recurrence.lower_bounds, (recurrence.num_layers, recurrence.size))

    def gate(self, path: str, gate: None, up: None, act: str) -> None:
        """List nothing."""

    def residual_add(self, path: str, x: None, y: None) -> None:
        """List nothing."""

    def head(self, path: str, x: None, shape: tuple[int, int], tied_to: str | None) -> None:
        """List the head unless it shares the embedding's table."""
        self.has_table_head = True
        if tied_to is None:
            self._add(f"{path}.weight", shape)

    def linear_head(self, path: str, x: None, shape: tuple[int, int]) -> None:
        """List the weight."""
        self.linear(path, x, shape)

    def _add(self, name: str, shape: tuple[int, ...]) -> None:
        self.parameters.append(Parameter(name, shape))
