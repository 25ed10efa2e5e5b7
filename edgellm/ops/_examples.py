"""Random integers for the operators' examples, in the ranges that the operators document."""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgellm.dtypes import pack_ternary
from edgellm.int4 import pack_int4
from edgellm.ops._integers import INT32_MAX

Codes = Callable[..., npt.NDArray[np.int8]]
Integer = TypeVar("Integer", bound=np.integer)


def codes(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.int8]:
    """Return int8 codes in [-127, 127]."""
    return rng.integers(-127, 127, shape, np.int8, endpoint=True)


def codes_of_two_sizes(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.int8]:
    """Return codes of which the second half of the columns is within 43."""
    both = codes(rng, *shape)
    both[..., shape[-1] // 2 :] //= 3
    return both


def nibbles(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.uint8]:
    """Return int4 codes in [-7, 7], packed; the last size, a multiple of 64, is halved."""
    flat = rng.integers(-7, 7, (math.prod(shape[:-1]), shape[-1]), np.int8, endpoint=True)
    return pack_int4(flat).reshape(*shape[:-1], shape[-1] // 2)


def wide(rng: np.random.Generator, bits: int, *shape: int) -> npt.NDArray[np.int64]:
    """Return int64 of either sign with magnitudes below 2^bits."""
    return rng.integers(-(2**bits) + 1, 2**bits, shape, np.int64)


def narrow(rng: np.random.Generator, bits: int, *shape: int) -> npt.NDArray[np.int32]:
    """Return int32 of either sign with magnitudes below 2^bits."""
    return wide(rng, bits, *shape).astype(np.int32)


def scales(rng: np.random.Generator, rows: int, exponent: int) -> npt.NDArray[np.int32]:
    """Return (rows, 2) dyadic scales whose exponents are within 3 of ``exponent``."""
    near = rng.integers(exponent - 3, exponent + 3, rows, np.int32, endpoint=True)
    return np.stack([multipliers(rng, rows), near], axis=1)


def multipliers(rng: np.random.Generator, count: int) -> npt.NDArray[np.int32]:
    """Return ``count`` mantissas, 2^30 <= m < 2^31."""
    return rng.integers(2**30, INT32_MAX, count, np.int32, endpoint=True)


def ternary(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Return packed ternary weights."""
    return pack_ternary(rng.integers(-1, 1, (rows, columns), np.int8, endpoint=True))


def alternating(
    size: int, limit: int, dtype: type[Integer] | np.dtype[Integer]
) -> npt.NDArray[Integer]:
    """Return +limit, -limit, +limit, ..."""
    return np.where(np.arange(size) % 2 == 0, limit, -limit).astype(dtype)


def dyadic(value: float) -> tuple[int, int]:
    """Return the dyadic scale nearest to ``value`` >= 0; (0, 0) for 0."""
    if value == 0:
        return 0, 0
    fraction, exponent = math.frexp(value)
    mantissa = round(fraction * 2**31)
    return (mantissa, 31 - exponent) if mantissa < 2**31 else (2**30, 30 - exponent)


def norm_attributes(epsilon: float, gain: float) -> dict[str, int]:
    """Return the attributes that the RMSNorm operators share."""
    pairs = {"epsilon": dyadic(epsilon), "gain": dyadic(gain)}
    return {
        f"{name}_{part}": number
        for name, pair in pairs.items()
        for part, number in zip(("mantissa", "exponent"), pair, strict=True)
    }


def norm_weights(rng: np.random.Generator, columns: int) -> npt.NDArray[np.int16]:
    """Draw weights of a norm in Q12, from -2 to 2."""
    return rng.integers(-(2**13), 2**13, columns, np.int16)
