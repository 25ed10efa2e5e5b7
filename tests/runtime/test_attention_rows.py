"""How many rows of encoders' attention are worked on at once: they fit in the scratch memory."""

import pytest

from edgellm.runtime.kernels.vector import _attention_parts as parts
from edgellm.runtime.kernels.vector import _word_panels

LONGEST = 65_535


@pytest.mark.parametrize("dim", [1, 32, 64, 512])
def test_whole_tiles_fit(dim: int) -> None:
    inner = parts.round_up(dim, _word_panels.COLUMNS)
    for length in [*range(1, LONGEST, 61), LONGEST]:
        rows = parts.rows_at_once(length, dim)
        tall = parts.round_up(rows, _word_panels.TOGETHER)

        assert rows >= 1
        assert tall * parts.round_up(length, _word_panels.COLUMNS) <= parts.SCORES, length
        assert tall * inner <= parts.SUMS
