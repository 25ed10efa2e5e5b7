"""A logits head that is asked for the best few: those are exact, and it drops what it should."""

import ctypes

import numpy as np
import pytest

from edgellm.dtypes import pack_planes
from edgellm.ops import planar_logits_head as operator
from edgellm.ops._planes import residual_norms
from edgellm.runtime import cpu, kernels
from edgellm.runtime.head_reads import PlanarHead, open_rows
from edgellm.runtime.kernels import _objects, simd

DROPPED = np.iinfo(np.int32).min
SHIFT = 26
VARIANTS = [name for name in simd.available(cpu.host()) if name != simd.PORTABLE]


def random_head(rng, rows, columns, *, spread=127.0):
    weight = np.clip(np.rint(rng.normal(0, spread / 3.5, (rows, columns))), -127, 127)
    codes = weight.astype(np.int8)
    multiplier = rng.integers(2**30, 2**31 - 1, rows, dtype=np.int32)
    return PlanarHead(*pack_planes(codes), residual_norms(codes), multiplier, SHIFT)


def random_tokens(rng, count, columns):
    x = np.clip(np.rint(rng.normal(0, 35, (count, columns))), -127, 127).astype(np.int8)
    return x, np.array([[2**30 + t, 40] for t in range(count)], np.int32)


def run(head, tokens, top, *, variant, threads=1, rows=None):
    """Return the logits of a compiled kernel, and those of the definition."""
    x, scale = tokens
    rows = np.arange(len(x)) if rows is None else np.array(rows)
    constants = (head.high, head.low, head.norms, head.multiplier)
    inputs = [x, scale, *constants, rows]
    schema = operator.SCHEMA
    sizes = schema.bind([array.shape for array in inputs])
    out = np.full((len(rows), len(head.high)), 99, np.int32)
    kernel = kernels.find(schema.name, variant)
    notes = np.full((threads, kernel.notes), 99, np.int64)
    row = np.array(
        [
            0,
            *(array.ctypes.data for array in [*inputs, out]),
            *(sizes[letter] for letter in schema.letters),
            head.shift,
            top,
            notes.ctypes.data,
        ],
        np.int64,
    )
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(_objects.kernel_address(kernel))
    for stage in range(kernel.stages):
        for thread in range(threads):
            call(row.ctypes.data, thread + threads * stage, threads)
    return out, operator.reference(*inputs, shift=head.shift, top=top)


def check(actual, expected, top):
    """Everything is exact or dropped, and nothing as good as the last wanted is dropped."""
    kept = actual != DROPPED
    np.testing.assert_array_equal(actual[kept], expected[kept])
    least = np.sort(expected, axis=1)[:, -min(top, expected.shape[1])]
    assert kept[expected >= least[:, None]].all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("top", [1, 5, 40, 256, 257, 5000])
def test_the_best_logits_are_exact(variant, threads, top):
    rng = np.random.default_rng(top)
    head = random_head(rng, 2500, 256)
    x, scale = random_tokens(rng, 3, 256)

    actual, expected = run(head, (x, scale), top, variant=variant, threads=threads)

    check(actual, expected, top)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("columns", [192, 256, 320, 704])
@pytest.mark.parametrize("top", [0, 257, 5000])
def test_all_logits_of_one_token_are_exact(variant, threads, columns, top):
    rng = np.random.default_rng(columns)
    head, tokens = random_head(rng, 2501, columns), random_tokens(rng, 3, columns)

    actual, expected = run(head, tokens, top, variant=variant, threads=threads, rows=[1])

    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("top", "threads"), [(1, 1), (7, 1), (1, 3)])
def test_the_kernel_drops_what_numpy_drops(variant, top, threads):
    """Each thread knows the best row of all: where it is likely the best, too, limits are equal."""
    rng = np.random.default_rng(3)
    head = random_head(rng, 2500, 192)
    x, scale = random_tokens(rng, 4, 192)

    actual, _ = run(head, (x, scale), top, variant=variant, threads=threads)

    opened = list(open_rows(head, x, scale, top))
    assert 0 < len(opened[0][-1]) < 2500  # something was dropped
    for token, levels in zip(actual, opened, strict=True):
        np.testing.assert_array_equal(np.flatnonzero(token != DROPPED), levels[-1])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rows", [[2], [0, 1, 2], [4, 0, 0, 3], [*range(12)]])
def test_any_choice_of_tokens(variant, rows):
    rng = np.random.default_rng(4)
    head = random_head(rng, 300, 64)
    x, scale = random_tokens(rng, 12, 64)

    actual, expected = run(head, (x, scale), 2, variant=variant, rows=rows)

    check(actual, expected, 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_ties_stay(variant):
    """The same row many times: all of them are the best, or all are next to the best."""
    rng = np.random.default_rng(5)
    one = random_head(rng, 700, 128)
    x, scale = random_tokens(rng, 1, 128)
    _, logits = run(one, (x, scale), 0, variant=variant)
    order = np.argsort(-logits[0])
    chosen = np.concatenate([order[:1], np.repeat(order[1], 5), order[2:]])
    head = PlanarHead(
        one.high[chosen],
        np.ascontiguousarray(one.low[:, chosen]),
        np.ascontiguousarray(one.norms[:, chosen]),
        one.multiplier[chosen],
        SHIFT,
    )

    for top in (1, 2, 3):
        actual, expected = run(head, (x, scale), top, variant=variant)
        check(actual, expected, top)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shift", [-40, 8, 60])
def test_saturated_and_vanishing_logits(variant, shift):
    """All logits of one sign saturate, or all are 0: everything ties."""
    rng = np.random.default_rng(6)
    head = random_head(rng, 200, 64)
    head = PlanarHead(head.high, head.low, head.norms, head.multiplier, shift)
    x, scale = random_tokens(rng, 2, 64)

    actual, expected = run(head, (x, scale), 3, variant=variant)

    check(actual, expected, 3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_zero_tokens_and_zero_rows(variant):
    rng = np.random.default_rng(7)
    codes = rng.integers(-127, 128, (150, 64), np.int8)
    codes[::3] = 0
    multiplier = rng.integers(2**30, 2**31 - 1, 150, dtype=np.int32)
    multiplier[::3] = 0
    head = PlanarHead(*pack_planes(codes), residual_norms(codes), multiplier, SHIFT)
    x, scale = random_tokens(rng, 2, 64)
    x[1] = 0

    actual, expected = run(head, (x, scale), 4, variant=variant)

    check(actual, expected, 4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_that_are_as_wrong_as_can_be_after_four_bits(variant):
    """Low nibbles of all ones where x is positive: the first bits say the least they can."""
    rng = np.random.default_rng(8)
    x, scale = random_tokens(rng, 1, 512)
    codes = (rng.integers(-7, 7, (400, 512)) * 16).astype(np.int8)
    codes[77] += np.where(x[0] > 0, 15, 0).astype(np.int8)
    codes[78] = codes[77] + np.where(x[0] > 0, -15, 15).astype(np.int8)
    multiplier = np.full(400, 2**30, np.int32)
    head = PlanarHead(*pack_planes(codes), residual_norms(codes), multiplier, SHIFT)

    for top in (1, 2, 390):
        actual, expected = run(head, (x, scale), top, variant=variant)
        check(actual, expected, top)
