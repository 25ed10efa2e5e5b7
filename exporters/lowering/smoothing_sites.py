"""Lowerings that make nothing: they find where channels can be scaled without changing a model.

Two tensors multiply the same channel one after the other: what divides the first and multiplies
the second changes nothing but how large the activations between them are, channel by channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgellm.exporters.lowering.encoder_interface import ImageEmbedding, TextTables
from edgellm.exporters.lowering.interface import Heads, Recurrence

Kind = Literal["norms", "values", "gates", "scores"]
KINDS: tuple[Kind, ...] = ("norms", "values", "gates", "scores")
Channels = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Site:
    """Activations whose channels have a free scale.

    Attributes:
        kind: "norms": behind a norm; "values": attention's results; "gates": inputs of the last
            linear of a feed-forward block; "scores": queries and keys, head by head.
        divided: names of the tensors whose rows make the activations.
        multiplied: paths of the linears that take them; of "scores", that of the queries.
        rows: (n,) which scale each row of the divided tensors has.
        columns: (m,) which scale each column of the multiplied has; of "scores", each row.
    """

    kind: Kind
    divided: tuple[str, ...]
    multiplied: tuple[str, ...]
    rows: Channels
    columns: Channels


@dataclass(frozen=True)
class Made:
    """A value: the tensors whose rows are its channels, none where it cannot be scaled.

    Attributes:
        kind: of the site it can become.
        tensors: names.
        path: of the linear that made it.
        size: how many rows these have.
        columns: which of the rows each channel comes from; None for one after the other.
    """

    kind: Kind = "norms"
    tensors: tuple[str, ...] = ()
    path: str = ""
    size: int = 0
    columns: Channels | None = field(default=None, compare=False)


NOTHING = Made()


class _Uses:
    """Who takes what."""

    def __init__(self) -> None:
        self._linears: dict[tuple[str, ...], list[str]] = {}
        self._made: dict[tuple[str, ...], Made] = {}
        self._blocked: set[tuple[str, ...]] = set()
        self._scores: list[Site] = []

    def sites(self) -> list[Site]:
        """Return what was found."""
        found = []
        for tensors, paths in self._linears.items():
            if tensors in self._blocked:
                continue
            made = self._made[tensors]
            rows = np.arange(made.size)
            columns = rows if made.columns is None else made.columns
            found.append(Site(made.kind, tensors, tuple(paths), rows, columns))
        return [*found, *self._scores]

    def take(self, x: Made, path: str) -> None:
        """A linear takes a value."""
        if x.tensors:
            self._linears.setdefault(x.tensors, []).append(path)
            self._made[x.tensors] = x

    def block(self, *values: Made) -> None:
        """Something else takes values, which would see their scales."""
        self._blocked.update(value.tensors for value in values)

    def score(self, query: Made, key: Made, rows: Channels, columns: Channels) -> None:
        """Queries meet keys."""
        if query.path and key.path:
            self._scores.append(Site("scores", key.tensors, (query.path,), rows, columns))


def _linear(path: str, rows: int, *, bias: bool) -> Made:
    tensors = (f"{path}.weight", f"{path}.bias") if bias else (f"{path}.weight",)
    return Made("gates", tensors, path, rows)


class DecoderSites:
    """Finds the sites of a language model that is built on it."""

    def __init__(self) -> None:
        self._uses = _Uses()

    def sites(self) -> list[Site]:
        """Return what was found."""
        return self._uses.sites()

    def embedding(self, path: str, shape: tuple[int, int]) -> Made:
        """A stream has no scale."""
        return NOTHING

    def norm(self, path: str, x: Made, size: int, epsilon: float | None = None) -> Made:
        """A norm's weight makes its channels."""
        self._uses.block(x)
        return Made("norms", (f"{path}.weight",), "", size)

    def wide_norm(self, path: str, x: Made, size: int) -> Made:
        """Other norms would see a scale."""
        self._uses.block(x)
        return NOTHING

    def linear(
        self,
        path: str,
        x: Made,
        shape: tuple[int, int],
        *,
        bias: bool = False,
        gate: Made | None = None,
    ) -> Made:
        """A linear takes channels and makes others."""
        self._uses.take(x, path)
        return _linear(path, shape[0], bias=bias)

    def split_linear(self, path: str, x: Made, shape: tuple[int, int]) -> tuple[Made, Made]:
        """The halves are not followed."""
        self._uses.take(x, path)
        return NOTHING, NOTHING

    def head_norm(self, path: str, x: Made, head_dim: int) -> Made:
        """A norm undoes what scales its input."""
        self._uses.block(x)
        return NOTHING

    def rotary(self, path: str, x: Made, heads: Heads) -> Made:
        """Both channels of a pair keep their scale if it is the same."""
        return x

    def attention(self, path: str, query: Made, key: Made, value: Made, heads: Heads) -> Made:
        """A group of query heads shares the scales of its keys and values."""
        groups, dim = heads.num_key_value_heads, heads.head_dim
        shared = np.repeat(np.arange(groups), heads.num_attention_heads // groups)
        pairs = np.arange(dim) % (dim // 2)
        rows = np.add.outer(np.arange(groups) * (dim // 2), pairs).reshape(-1)
        columns = np.add.outer(shared * (dim // 2), pairs).reshape(-1)
        self._uses.score(query, key, rows, columns)
        spread = np.add.outer(shared * dim, np.arange(dim)).reshape(-1)
        return Made("values", value.tensors, value.path, value.size, spread)

    def recurrence(self, path: str, forget: Made, x: Made, recurrence: Recurrence) -> Made:
        """A recurrence is not followed."""
        self._uses.block(forget, x)
        return NOTHING

    def gate(self, path: str, gate: Made, up: Made, act: str) -> Made:
        """``act(gate) * up`` is linear in up."""
        return up

    def residual_add(self, path: str, x: Made, y: Made) -> Made:
        """A stream has no scale."""
        self._uses.block(x, y)
        return NOTHING

    def head(self, path: str, x: Made, shape: tuple[int, int], tied_to: str | None) -> None:
        """A table may be the embedding, too: its columns stay."""
        self._uses.block(x)

    def linear_head(self, path: str, x: Made, shape: tuple[int, int]) -> None:
        """The head stays as it is."""
        self._uses.block(x)


class EncoderSites:
    """Finds the sites of an encoder that is built on it."""

    def __init__(self) -> None:
        self._uses = _Uses()

    def sites(self) -> list[Site]:
        """Return what was found."""
        return self._uses.sites()

    def image_tokens(self, tokens: ImageEmbedding) -> Made:
        """A stream has no scale."""
        return NOTHING

    def text_tokens(self, tables: TextTables) -> Made:
        """A stream has no scale."""
        return NOTHING

    def layer_norm(self, path: str, x: Made, size: int) -> Made:
        """A norm's weight and bias make its channels."""
        self._uses.block(x)
        return Made("norms", (f"{path}.weight", f"{path}.bias"), "", size)

    def linear(self, path: str, x: Made, shape: tuple[int, int], *, bias: bool = True) -> Made:
        """A linear takes channels and makes others."""
        self._uses.take(x, path)
        return _linear(path, shape[0], bias=bias)

    def attention(self, path: str, query: Made, key: Made, value: Made, heads: int) -> Made:
        """Each head has its own keys and values."""
        channels = np.arange(key.size)
        self._uses.score(query, key, channels, channels)
        return Made("values", value.tensors, value.path, value.size)

    def activation(self, path: str, x: Made, act: str) -> Made:
        """What is above 0 stays above 0; other functions would see a scale."""
        if act == "relu":
            return x
        self._uses.block(x)
        return NOTHING

    def residual_add(self, path: str, x: Made, y: Made) -> Made:
        """A stream has no scale."""
        self._uses.block(x, y)
        return NOTHING

    def select_row(self, path: str, x: Made, row: int) -> Made:
        """A row of a stream."""
        self._uses.block(x)
        return NOTHING

    def logits(self, heads: Sequence[Made], labels: int) -> None:
        """The output stays as it is."""
        self._uses.block(*heads)

    def embeddings(self, path: str, x: Made, pooling: str, *, normalize: bool) -> None:
        """The output stays as it is."""
        self._uses.block(x)
