import numpy as np

from edgellm.ops import logits_head, requantize, residual_add

ACC = np.array([[1000, -1000, 20000, -33784, 135]], np.int32)
ONE = np.array([[2**30, 30]], np.int32)
MULTIPLIER = np.full(5, 2034096511, np.int32)
"""0.0037 with the shift 39."""
GOLDEN = [4, -4, 74, -125, 0]


def test_golden_vectors():
    assert requantize.reference(ACC, ONE, MULTIPLIER, shift=39).tolist() == [GOLDEN]


def test_residual_add_adds_the_same_term():
    x = np.arange(5)[None]
    y = residual_add.reference(x, ACC, ONE, MULTIPLIER, shift=39)
    np.testing.assert_array_equal(y - x, [GOLDEN])


def test_logits_are_requantised_accumulators_of_the_chosen_rows():
    x = np.array([[1, 2], [100, 10]], np.int8)
    weight = np.array([[10, 0], [-10, 0]], np.int8)
    scale = np.concatenate([ONE, ONE])
    rows = np.array([1, 0, 1])
    y = logits_head.reference(x, scale, weight, MULTIPLIER[:2], rows, shift=39)
    assert y.tolist() == [[4, -4], [0, 0], [4, -4]]
