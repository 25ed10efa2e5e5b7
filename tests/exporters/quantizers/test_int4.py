import numpy as np

from edgellm.exporters.quantizers.int4 import quantize_rows


def squared_error(rows: np.ndarray, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return ((codes * scales[:, None] - rows) ** 2).sum(axis=1)


def test_weights_that_are_multiples_are_kept_and_zero_rows_stay_zero() -> None:
    exact = np.array([[7, -3, 0, 1], [0, 0, 0, 0]], np.float32) * np.float32(0.5)
    codes, scales = quantize_rows(exact)

    assert codes.tolist() == [[7, -3, 0, 1], [0, 0, 0, 0]]
    assert scales.tolist() == [0.5, 0.0]


def test_codes_have_4_bits_and_less_error_than_the_scale_of_the_peak() -> None:
    rows = np.random.default_rng(0).standard_normal((32, 256)).astype(np.float32)
    codes, scales = quantize_rows(rows)
    peak = np.abs(rows).max(axis=1) / 7
    plain = np.rint(rows / peak[:, None])

    assert codes.min() >= -8
    assert codes.max() <= 7
    better = squared_error(rows, codes, scales) / squared_error(rows, plain, peak)
    assert better.max() <= 1.0
    assert better.mean() < 0.85
