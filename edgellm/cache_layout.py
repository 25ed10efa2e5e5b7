"""The key/value cache of a language model, by the bits of a number: what the graph has of it."""

from collections.abc import Iterator
from dataclasses import dataclass

from edgellm.int4 import BLOCK, INT4_LIMIT

Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class CacheLayout:
    """How keys and values are kept.

    Attributes:
        bits: of a number.
        dtype: of what holds them.
        append: the operator that appends to it.
        attention: the operator that reads it.
        limit: the largest code, which stands for the absmax.
        head_step: the columns of a head are a multiple of it.
    """

    bits: int
    dtype: str
    append: str
    attention: str
    limit: int
    head_step: int

    def row_bytes(self, head_dim: int) -> int:
        """Return the bytes of a head of one position, without its absmax."""
        return head_dim * self.bits // 8

    def ports(
        self, prefix: str, length: str, heads: int, head_dim: int
    ) -> Iterator[tuple[str, str, Shape]]:
        """Yield name, dtype and shape of what a layer keeps of a text."""
        for part in ("key", "value"):
            yield f"{prefix}.{part}", self.dtype, (length, heads, self.row_bytes(head_dim))
            yield f"{prefix}.{part}_absmax", "int32", (length, heads)


CACHE_LAYOUTS = {
    8: CacheLayout(8, "int8", "CacheAppend", "Attention", 127, 1),
    4: CacheLayout(4, "uint8", "Int4CacheAppend", "Int4Attention", INT4_LIMIT, BLOCK),
}
"""By bits."""
APPENDS = {layout.append: layout for layout in CACHE_LAYOUTS.values()}
"""By the operator that appends."""
ATTENTIONS = {layout.attention for layout in CACHE_LAYOUTS.values()}
