"""Choose the next token from integer logits, in integers only: one seed, one text, on every device.

The order is: repetition penalty, temperature, top-k, top-p, min-p, draw. User floats become
integers once, in steps of 2^-16 (``0.7`` is 45875/65536). Probabilities are integer weights
``2^30 * 2^-(distance to the best logit in halvings)`` from a table; cuts and the draw compare
integers. The random number is a function of the seed and the position in the text (Philox), so a
text that is rewound and continued comes out the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from numbers import Integral, Real
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError
from edgellm.ops._integers import INT32_MAX, exp2_table, round_shift, saturate

Int64 = npt.NDArray[np.int64]

STEP_BITS = 16
"""User floats are rounded to multiples of 2^-16."""
ONE = 1 << STEP_BITS
LOGITS_FRAME = 16
"""real logit = integer * 2^-16, in every bundle."""
WEIGHT_BITS = 30
"""The best token weighs 2^30; 2^24 tokens at most, so a total stays below 2^54."""
TABLE_BITS = 8
"""256 entries: a weight is off by a factor of 2^(1/512) at most, 0.14 %."""
FRACTION_BITS = 16
MAX_HALVINGS = 31
ID_BITS = 24
"""Vocabularies have at most 2^24 tokens (the manifest is checked for it)."""
PENALTY_STEP = 32
MAX_TEMPERATURE = 100.0
MAX_PENALTY = 100.0
RANGES = (
    ("temperature", 0.0, MAX_TEMPERATURE),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("repetition_penalty", 0.01, MAX_PENALTY),
)
COUNTS = (("top_k", 1 << ID_BITS), ("seed", (1 << 64) - 1))
LOG2_E = Fraction(6196328019, 1 << 32)
"""log2(e) to 33 bits."""


class SamplingOptions(TypedDict, total=False):
    """The keyword arguments of everything that samples; see ``SamplingParams``."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. The default is greedy: the best logit, on ties the lowest id.

    Args:
        temperature: 0 is greedy; below 1 sharper, above 1 flatter; at most 100.
        top_k: keep only the k best tokens; 0 keeps all.
        top_p: keep the best tokens that together have this probability; 1 keeps all.
        min_p: drop tokens less probable than this share of the best one's probability.
        repetition_penalty: above 1 makes tokens that occurred in the text less likely.
        seed: of the random numbers, 0 <= seed < 2^64.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field."""
        for name, low, high in RANGES:
            object.__setattr__(self, name, _number(name, getattr(self, name), low, high))
        for name, most in COUNTS:
            object.__setattr__(self, name, _count(name, getattr(self, name), most))


def _number(name: str, value: float, low: float, high: float) -> float:
    """Return a number as Python's own, which NumPy's are not."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(f"{name} is {value!r}; allowed are numbers from {low:g} to {high:g}")
    return float(value)


def _count(name: str, value: int, high: int) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= value <= high:
        raise ConfigError(f"{name} is {value!r}; allowed are whole numbers from 0 to {high}")
    return int(value)


def steps(value: float) -> int:
    """Return a user's float in steps of 2^-16, rounded half up, at least 1 if above 0."""
    whole = math.floor(Fraction(value) * ONE + Fraction(1, 2))
    return max(whole, 1) if value > 0 else whole


class Sampler:
    """Chooses tokens by ``params``; keeps no state, so it can serve any number of texts."""

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self._top_p = steps(params.top_p)
        self._min_p = steps(params.min_p)
        self._penalty = steps(params.repetition_penalty)

    @cached_property
    def _inverse_temperature(self) -> tuple[int, int]:
        """Dyadic (mantissa, exponent): halvings, in steps of 2^-16, of one step of a logit."""
        return _dyadic(LOG2_E * ONE / steps(self.params.temperature))

    def needed(self, seen: Sequence[int]) -> int:
        """Return how many of the best logits ``choose`` needs; 0 for all.

        Args:
            seen: as for ``choose``.
        """
        best = 1 if self.params.temperature == 0 else self.params.top_k
        if best == 0 or self._penalty < ONE:
            return 0
        if self._penalty == ONE:
            return best
        # At worst the penalty takes away all that were seen: so many more are candidates. In steps,
        # because logits that are computed ahead serve a text with a few more.
        return -(-(best + len(set(seen))) // PENALTY_STEP) * PENALTY_STEP

    def choose(self, logits: npt.NDArray[np.int32], position: int, seen: Sequence[int]) -> int:
        """Return the id of the next token.

        Args:
            logits: (vocab,) int32, real = logits * 2^-16; -2^31 for those that are not among as
                many best as are ``needed``.
            position: of the token in the text, counted from 0.
            seen: ids that occurred in the text; used by the repetition penalty only.
        """
        if self._penalty != ONE:
            logits = penalize(logits, np.array(seen, dtype=np.int64), self._penalty)
        if self.params.temperature == 0:
            return int(np.argmax(logits))
        ids, weights = self.candidates(logits)
        ends = np.cumsum(weights)
        draw = (random_bits(self.params.seed, position) * int(ends[-1])) >> 128
        return int(ids[np.searchsorted(ends, draw, side="right")])

    def candidates(self, logits: npt.NDArray[np.int32]) -> tuple[Int64, Int64]:
        """Return the ids that may be drawn and their weights, best first; ties in order of id.

        The temperature must be above 0.
        """
        far = exp2_weights(int(logits.max()) - logits.astype(np.int64), self._inverse_temperature)
        ids = best_first(logits, np.flatnonzero(far), self.params.top_k)
        weights = far[ids]
        ends = np.cumsum(weights)
        needed = -(-int(ends[-1]) * self._top_p >> STEP_BITS)  # rounded up, at most the total
        size = int(np.searchsorted(ends, needed)) + 1
        ids, weights = ids[:size], weights[:size]
        keep = (weights << STEP_BITS) >= weights[0] * self._min_p  # below 2^47
        return ids[keep], weights[keep]


def penalize(logits: npt.NDArray[np.int32], seen: Int64, penalty: int) -> npt.NDArray[np.int32]:
    """Return the logits with those of ``seen`` divided by the penalty, or multiplied if negative.

    Args:
        logits: (vocab,) int32.
        seen: ids, repeated ones count once.
        penalty: in steps of 2^-16; results are rounded half up and saturate at int32.
    """
    ids = np.unique(seen)
    old = logits[ids].astype(np.int64)
    smaller = ((old << STEP_BITS) + (penalty >> 1)) // penalty
    larger = round_shift(old * penalty, STEP_BITS)  # |old * penalty| < 2^31 * 100 * 2^16 < 2^54
    result = logits.copy()
    result[ids] = saturate(np.where(old > 0, smaller, larger), INT32_MAX).astype(np.int32)
    return result


def exp2_weights(distance: Int64, scale: tuple[int, int]) -> Int64:
    """Return ``2^30 * 2^-(distance * scale)``, 0 from 31 halvings on.

    Args:
        distance: how far each logit is below the best, 0 <= distance < 2^32.
        scale: dyadic (mantissa, exponent) that gives halvings with 16 fraction bits.
    """
    mantissa, exponent = scale
    # 2^31 steps are 32768 nats: nothing is left of that at any temperature up to 100.
    capped = np.minimum(distance, INT32_MAX)
    if exponent > 0:
        halvings = round_shift(capped * mantissa, exponent)
    else:  # a tiny temperature: each step of a logit is worth more than all halvings
        halvings = np.where(capped > 0, np.int64(MAX_HALVINGS) << FRACTION_BITS, 0)
    whole = np.minimum(halvings >> FRACTION_BITS, MAX_HALVINGS)
    low = (1 << FRACTION_BITS) - 1
    entry = _weight_table()[(halvings & low) >> (FRACTION_BITS - TABLE_BITS)]
    return np.where(whole < MAX_HALVINGS, round_shift(entry, whole), 0)


@cache
def _weight_table() -> Int64:
    return exp2_table(1 << TABLE_BITS, WEIGHT_BITS)


def _dyadic(value: Fraction) -> tuple[int, int]:
    """Return (mantissa, exponent): mantissa * 2^-exponent is nearest, 2^30 <= mantissa < 2^31."""
    exponent = 31 - (value.numerator.bit_length() - value.denominator.bit_length())
    scaled = value * Fraction(2) ** exponent
    while scaled >= 1 << 31:
        scaled, exponent = scaled / 2, exponent - 1
    mantissa = math.floor(scaled + Fraction(1, 2))
    return (mantissa, exponent) if mantissa < 1 << 31 else (mantissa >> 1, exponent - 1)


def best_first(logits: npt.NDArray[np.int32], ids: Int64, count: int) -> Int64:
    """Return the ``count`` best of ``ids`` (0: all), best logit first, on ties lowest id first."""
    mask = (1 << ID_BITS) - 1
    keys = (logits[ids].astype(np.int64) << ID_BITS) + (mask - ids)  # all different, below 2^55
    if 0 < count < len(keys):
        keys = np.partition(keys, len(keys) - count)[-count:]
    return mask - (np.sort(keys)[::-1] & mask)


def random_bits(seed: int, position: int) -> int:
    """Return 128 random bits, a function of seed and position only (Philox4x32-10).

    J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    word = 0xFFFFFFFF
    key = [seed & word, seed >> 32]
    counter = [position & word, position >> 32, 0, 0]
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            (second >> 32) ^ counter[1] ^ key[0],
            second & word,
            (first >> 32) ^ counter[3] ^ key[1],
            first & word,
        ]
        key = [(key[0] + 0x9E3779B9) & word, (key[1] + 0xBB67AE85) & word]
    return sum(part << (32 * place) for place, part in enumerate(counter))
