import math

import numpy as np
import pytest

from edgellm.ops import attention
from edgellm.ops._examples import dyadic
from edgellm.ops._heads import quantize_heads

FRAME = 18


def attributes(dim, window=0):
    step = math.log2(math.e) / math.sqrt(dim) / 127**2 * 2.0 ** (-2 * FRAME)
    mantissa, exponent = dyadic(step)
    return {"scaling_mantissa": mantissa, "scaling_exponent": exponent, "window": window}


def random_cache(rng, length, heads, dim):
    """Return codes and absmax of Gaussian rows of about unit variance."""
    rows = np.rint(rng.standard_normal((length, heads, dim)) * 2**FRAME).astype(np.int64)
    codes, absmax = quantize_heads(rows)
    return codes.astype(np.int8), absmax[..., 0].astype(np.int32)


def random_inputs(tokens, length, heads, share, dim):
    rng = np.random.default_rng(length)
    query = np.rint(rng.standard_normal((tokens, heads * share * dim)) * 2**FRAME)
    cache = [*random_cache(rng, length, heads, dim), *random_cache(rng, length, heads, dim)]
    return query.astype(np.int32), cache


def float_attention(query, key, key_absmax, value, value_absmax):
    """Softmax attention in float64 on the same int8 codes; real units."""
    tokens, (length, heads, dim) = query.shape[0], key.shape
    codes, absmax = quantize_heads(query.astype(np.int64).reshape(tokens, heads, -1, dim))
    unit = 2.0**-FRAME / 127
    q = codes * absmax * unit
    k, v = key * key_absmax[..., None] * unit, value * value_absmax[..., None] * unit
    scores = np.einsum("thgd,lhd->hgtl", q, k) / math.sqrt(dim)
    seen = np.arange(length) <= np.arange(length - tokens, length)[:, None]
    weights = np.where(seen, np.exp(scores - scores.max(axis=-1, keepdims=True)), 0)
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("hgtl,lhd->thgd", weights, v).reshape(query.shape)


@pytest.mark.parametrize(
    ("tokens", "length", "heads", "share", "dim"),
    [(1, 64, 2, 1, 64), (4, 64, 1, 3, 128), (2, 512, 2, 2, 128), (1, 4096, 1, 1, 64)],
)
def test_output_is_near_float_softmax(tokens, length, heads, share, dim):
    """A table of 64 entries is off by up to 0.54 % a weight (half its step); the errors of the
    weights partly cancel: 0.34 to 0.40 % of the output's norm were measured, 0.6 % are allowed."""
    query, cache = random_inputs(tokens, length, heads, share, dim)
    y = attention.reference(query, *cache, **attributes(dim)) * 2.0 ** -(FRAME + 5)
    wanted = float_attention(query, *cache)
    assert np.linalg.norm(y - wanted) <= 0.006 * np.linalg.norm(wanted)


def test_prefill_equals_decode():
    """Row t of a call with many tokens is what a call with that token alone returns."""
    query, cache = random_inputs(6, 20, 2, 2, 8)
    together = attention.reference(query, *cache, **attributes(8))
    for t in range(6):
        seen = [part[: 15 + t] for part in cache]
        alone = attention.reference(query[t : t + 1], *seen, **attributes(8))
        np.testing.assert_array_equal(alone[0], together[t])


def test_window_is_a_cut_of_the_cache():
    query, cache = random_inputs(1, 20, 2, 2, 8)
    windowed = attention.reference(query, *cache, **attributes(8, window=7))
    cut = attention.reference(query, *(part[-7:] for part in cache), **attributes(8))
    np.testing.assert_array_equal(windowed, cut)


@pytest.mark.parametrize("window", [0, 7])
def test_a_vector_added_to_all_keys_changes_nothing(window):
    """It adds the same to each score of a query: what the offsets of keys in a bundle stand on."""
    query, (_, _, value, value_absmax) = random_inputs(4, 20, 2, 2, 8)
    rng = np.random.default_rng(3)
    key = rng.integers(-60, 61, (20, 2, 8)).astype(np.int8)
    vector = rng.integers(-60, 61, (2, 8)).astype(np.int8)
    unit = np.full((20, 2), 2**FRAME, np.int32)
    one, two = (
        attention.reference(query, codes, unit, value, value_absmax, **attributes(8, window))
        for codes in (key, key + vector)
    )
    np.testing.assert_array_equal(one, two)


def test_equal_values_come_out_unchanged():
    """A mean of equal values is that value: 127 codes of absmax a are a, with 5 more bits."""
    query, (key, key_absmax, value, value_absmax) = random_inputs(1, 30, 1, 1, 4)
    same = np.full_like(value, 127)
    absmax = np.full_like(value_absmax, 2**14)
    y = attention.reference(query, key, key_absmax, same, absmax, **attributes(4))
    # Each folded weight is rounded: at most half of one in 30 weights whose sum is over 2^14.
    assert np.abs(y - 2**14 * 2**5).max() <= 2**14 * 2**5 * 30 / 2**15
