"""Rows of one weight in classes: each has a scheme of its own, and is a product of its own.

Each class is rounded as if the others were not there.
``JoinColumns`` puts the outputs in their order again: a bit an output for every class but one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgellm.exporters.quantizers import low_bit
from edgellm.exporters.quantizers.cholesky import Singles
from edgellm.exporters.quantizers.grids import Floats
from edgellm.exporters.quantizers.low_bit import LowBitLinear, Scheme

RING_ROWS = 128
"""Of a trellis at least, where a linear has as many. (Of Gaussian weights a ring of 128 rows leaves
1.12 times the least error that there can be, of 64 1.18, of 32 1.28, of 16 1.77.)"""


@dataclass(frozen=True)
class RowSchemes:
    """How the rows of a weight are quantised.

    Attributes:
        schemes: two or more; each has rows.
        classes: (N,) the number of each row's scheme.
    """

    schemes: tuple[Scheme, ...]
    classes: tuple[int, ...]

    def __str__(self) -> str:
        """Return the schemes with their rows."""
        counts = np.bincount(self.classes)
        parts = [f"{count} of {scheme}" for scheme, count in zip(self.schemes, counts, strict=True)]
        return f"rows: {'; '.join(parts)}"

    def stored_bits(self, shape: tuple[int, int]) -> int:
        """Return the bits that a weight (N, K) takes, with those that say which row is where."""
        counts = np.bincount(self.classes)
        parts = zip(self.schemes, counts, strict=True)
        weights = sum(scheme.stored_bits((int(count), shape[1])) for scheme, count in parts)
        return weights + 8 * sum(places.size for places in places_of(self.classes))


Recipe = Scheme | RowSchemes


@dataclass(frozen=True)
class JoinedLinear:
    """A weight in classes of rows.

    Attributes:
        parts: the weight of each class.
        classes: (N,) the class of each row.
    """

    parts: tuple[LowBitLinear, ...]
    classes: npt.NDArray[np.uint8]

    @property
    def unit(self) -> Floats:
        """Return (N,): the unit of each row's integers."""
        unit = np.empty(len(self.classes))
        for number, part in enumerate(self.parts):
            unit[self.classes == number] = part.unit
        return unit

    def real(self, columns: int) -> Floats:
        """Return the weights that the integers stand for, (N, columns)."""
        weight = np.empty((len(self.classes), columns))
        for number, part in enumerate(self.parts):
            weight[self.classes == number] = part.real(columns)
        return weight


QuantizedWeight = LowBitLinear | JoinedLinear


def join(schemes: Sequence[Scheme]) -> Recipe:
    """Return the recipe for a weight whose rows have such schemes.

    Trellises of few rows become one, of as many bits in all: its rows share them as it serves best.
    """
    becomes = merged(Counter(schemes))
    schemes = [becomes[scheme] for scheme in schemes]
    counts = Counter(schemes)
    # The smallest class first: each place of JoinColumns counts what came before it, too.
    known = sorted(counts, key=lambda one: (counts[one], one.bits, one.kind, one.group_size))
    if len(known) == 1:
        return known[0]
    return RowSchemes(tuple(known), tuple(known.index(scheme) for scheme in schemes))


def merged(counts: Mapping[Scheme, int]) -> dict[Scheme, Scheme]:
    """Return what each of the schemes that so many rows have becomes in ``join``."""
    trellises = sorted((one for one in counts if one.kind == "trellis"), key=lambda one: one.bits)
    rings = [[one] for one in trellises]

    def rows(ring: Sequence[Scheme]) -> int:
        return sum(counts[scheme] for scheme in ring)

    def bits(ring: Sequence[Scheme]) -> float:
        return sum(scheme.bits * counts[scheme] for scheme in ring) / rows(ring)

    while len(rings) > 1 and min(map(rows, rings)) < RING_ROWS:
        sizes = [rows(ring) for ring in rings]
        small = sizes.index(min(sizes))
        near = min(
            (other for other in (small - 1, small + 1) if 0 <= other < len(rings)),
            key=lambda other: abs(bits(rings[other]) - bits(rings[small])),
        )
        first = min(small, near)
        rings[first : first + 2] = [rings[first] + rings[first + 1]]
    becomes = {scheme: scheme for scheme in counts}
    for ring in rings:
        becomes |= dict.fromkeys(ring, replace(ring[0], bits=bits(ring)))
    return becomes


def schemes_in(recipes: Iterable[Recipe]) -> list[Scheme]:
    """Return all schemes that recipes have, some several times."""
    parts = [(recipe,) if isinstance(recipe, Scheme) else recipe.schemes for recipe in recipes]
    return [scheme for part in parts for scheme in part]


def quantize(
    weight: Floats,
    hessian: Floats | Singles | None,
    recipe: Recipe,
    costs: Floats | None = None,
) -> QuantizedWeight:
    """Quantise a weight (N, K) as ``low_bit.quantize``, each class of rows by its scheme."""
    if isinstance(recipe, Scheme):
        return low_bit.quantize(weight, hessian, recipe, costs)
    classes = np.array(recipe.classes, np.uint8)
    parts = [
        low_bit.quantize(
            weight[classes == number],
            hessian,
            scheme,
            None if costs is None else costs[classes == number],
        )
        for number, scheme in enumerate(recipe.schemes)
    ]
    return JoinedLinear(tuple(parts), classes)


def places_of(classes: npt.ArrayLike) -> list[npt.NDArray[np.uint8]]:
    """Return what joins class 1 to class 0, class 2 to both, and so on: bits as JoinColumns has."""
    each = np.asarray(classes)
    return [
        np.packbits(each[each <= number] == number, bitorder="little")
        for number in range(1, int(each.max()) + 1)
    ]
