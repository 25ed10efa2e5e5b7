from fractions import Fraction

import numpy as np

from edgellm.ops.embedding import reference


def test_rows_are_within_half_a_unit():
    rng = np.random.default_rng(1)
    table = rng.integers(-127, 128, (7, 16)).astype(np.int8)
    multiplier = rng.integers(2**30, 2**31, 7).astype(np.int32)
    ids = np.array([6, 0, 3])
    hidden = reference(ids, table, multiplier, shift=20)
    for row, token in zip(hidden, ids, strict=True):
        for got, code in zip(row, table[token], strict=True):
            exact = Fraction(int(code) * int(multiplier[token]), 2**20)
            assert -Fraction(1, 2) <= exact - int(got) < Fraction(1, 2)
