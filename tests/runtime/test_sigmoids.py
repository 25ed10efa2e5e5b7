"""The table of sigmoids in kernels: what the definition says, from entry to entry and beyond."""

import numpy as np
import pytest

from edgellm.ops._sigmoid import LOG2_E, LOGIT_BITS
from edgellm.ops._sigmoid import sigmoid as defined
from edgellm.runtime.kernels._sigmoid import ENTRY_BITS, LAST, sigmoid


@pytest.mark.parametrize("frame", [1, 12, 18, 24, 31])
def test_every_entry_from_its_first_value_to_its_last(frame: int) -> None:
    step = 2**30 / LOG2_E * 2.0 ** (frame - ENTRY_BITS)  # of x, from entry to entry
    turns = np.arange(LAST + 3 * 2**ENTRY_BITS) * step - 2.0 ** (frame - LOGIT_BITS - 1)
    near = np.ceil(turns)[:, None] + [-1, 0, 1]
    x = np.unique(np.clip(near, 0, 2**31 - 1).astype(np.int64))
    x = np.concatenate([-x, x])

    found = [sigmoid(value, 30 + frame - LOGIT_BITS) for value in x]

    assert np.array(found, np.int64).tolist() == defined(x, frame).tolist()
