import numpy as np

from edgellm.exporters.quantizers.int8 import quantize_rows


def test_the_largest_weight_of_a_row_becomes_127():
    codes, scales = quantize_rows(np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]], np.float32))

    assert codes.tolist() == [[64, -127, 32], [0, 0, 0]]  # 63.5 and 31.75, half to even
    assert scales.tolist() == [2 / 127, 0.0]


def test_the_error_is_at_most_half_a_step():
    rows = np.random.default_rng(0).standard_normal((16, 100)).astype(np.float32)
    codes, scales = quantize_rows(rows)

    assert np.abs(codes).max(axis=1).tolist() == [127] * 16
    assert (np.abs(codes * scales[:, None] - rows) <= scales[:, None] * 0.5000001).all()
