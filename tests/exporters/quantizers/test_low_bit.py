"""Low-bit linears: the integers mean the weights that were chosen, and the operators take them."""

import numpy as np
import pytest

from edgellm import ops
from edgellm.errors import ConfigError
from edgellm.exporters.quantizers import binary_coding, low_bit, rounding
from edgellm.exporters.quantizers.grids import dequantize
from edgellm.exporters.quantizers.low_bit import ROW, Kind, LowBitLinear, Scheme
from edgellm.exporters.quantizers.rounding import Rounded

SCHEMES = [
    *(Scheme("group", bits, 32) for bits in (2, 3, 4, 8)),
    *(Scheme("shiftadd", bits, 32) for bits in (1, 2, 3, 4)),
    *(Scheme("codebook", bits, 64) for bits in (2, 3, 4)),
    Scheme("codebook", 3, ROW, 0.01),
    *(Scheme("trellis", bits, ROW) for bits in (2, 2.5, 4)),
]


def run(linear: LowBitLinear, x: np.ndarray) -> np.ndarray:
    """Return what the operator makes of activations of scale 1, in real numbers."""
    reference = ops.find(linear.op_type).reference
    return reference(x, *linear.tensors.values(), **linear.attributes) * linear.unit


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("columns", [64, 75])
def test_operator_computes_with_the_weights_it_stands_for(scheme: Scheme, columns: int) -> None:
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(9, columns)) * np.exp(rng.normal(size=(9, 1)) * 3)
    x = rng.integers(-127, 128, (4, columns)).astype(np.int8)
    hessian = x.T.astype(np.float64) @ x

    linear = low_bit.quantize(weight, hessian, scheme)

    # One step of an accumulator is one unit, and it is rounded once.
    exact = x.astype(np.float64) @ linear.real(columns).T
    assert (np.abs(run(linear, x) - exact) <= 0.5 * linear.unit * (1 + 1e-6)).all()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_more_bits_lose_less(scheme: Scheme) -> None:
    weight = np.random.default_rng(6).normal(size=(64, 128))

    real = low_bit.quantize(weight, None, scheme).real(128)

    # 32 Gaussian numbers spread over 4.1 deviations, and equal steps lose step^2 / 12.
    step = 4.1 / (2**scheme.bits - 1)
    assert ((real - weight) ** 2).mean() < 1.15 * step**2 / 12


def test_alphas_of_either_sign_keep_their_weights() -> None:
    """Inputs depend on one another: from other codes no single change leads back to these."""
    rng = np.random.default_rng(8)
    alphas = np.array([8.0, -4.0, 2.0, -1.0]) * np.ones((6, 1, 1))
    rounded = Rounded(rng.integers(0, 16, (6, 64), np.uint8), binary_coding.from_alphas(alphas))
    weight = dequantize(rounded.codes, rounded.grid, 64)
    inputs = rng.normal(size=(8, 64))
    curvature = rounding.damp(inputs.T @ inputs)

    linear = low_bit._shift_add(weight, rounded, 64, curvature)

    np.testing.assert_array_equal(linear.real(64), weight)


@pytest.mark.parametrize("kind", ["group", "shiftadd", "codebook", "trellis"])
@pytest.mark.parametrize("case", ["zero", "constant column", "zero row", "tiny", "huge"])
def test_hard_weights(kind: Kind, case: str) -> None:
    weight = np.random.default_rng(7).normal(size=(5, 64))
    if case == "zero":
        weight[:] = 0
    elif case == "constant column":
        weight[:, 3] = 1
    elif case == "zero row":
        weight[2] = 0
    else:
        weight *= 1e-30 if case == "tiny" else 1e30
    hessian = np.diag(np.r_[np.zeros(8), np.ones(56)])

    linear = low_bit.quantize(weight, hessian, Scheme(kind, 3, ROW))

    real = linear.real(64)
    assert np.isfinite(real).all()
    assert (linear.unit > 0).all()
    # No code of a trellis is for zeros alone: what is next to nothing stands for them.
    nothing = 2.0**-20 if kind == "trellis" else 0
    if case == "zero":
        assert np.abs(real).max() <= nothing
    if case == "zero row":
        assert np.abs(real[2]).max() <= nothing * np.abs(weight).max()


@pytest.mark.parametrize(
    ("kind", "bits", "size", "message"),
    [
        ("group", 1, 64, "bits is 1; group allows 2 to 8"),
        ("shiftadd", 5, 64, "bits is 5; shiftadd allows 1 to 4"),
        ("codebook", 5, 64, "bits is 5; codebook allows 2 to 4"),
        ("codebook", 3, 32, "group size is 32; codebook allows multiples of 64"),
        ("trellis", 1.4, ROW, "bits is 1.4; trellis allows 1.5 to 4"),
        ("trellis", float("nan"), ROW, "bits is nan; trellis allows"),
        ("trellis", 3, 64, "group size is 64; trellis has one scale a row: leave it out"),
        ("group", 4, 12, "group size is 12"),
        ("group", 4, -8, "group size is -8"),
    ],
)
def test_scheme_refuses(kind: Kind, bits: int, size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scheme(kind, bits, size)


@pytest.mark.parametrize(
    ("kind", "outliers", "message"),
    [
        ("codebook", 0.2, "the share of outliers is 0.2; allowed are 0 to 10%"),
        ("codebook", -0.1, "the share of outliers is -0.1"),
        ("codebook", float("nan"), "the share of outliers is nan"),
        ("group", 0.01, "group keeps no outliers apart"),
    ],
)
def test_outliers_that_are_not_allowed(kind: Kind, outliers: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scheme(kind, 3, 64, outliers)


def test_tables_take_a_quarter_of_a_bit() -> None:
    for bits in (2, 3, 4):
        scheme = Scheme.parse("codebook", bits, None)
        assert scheme.stored_bits((8, 4096)) == 8 * 4096 * (bits + 0.25)


def test_stored_bits_are_those_of_the_tensors() -> None:
    weight = np.random.default_rng(8).normal(size=(64, 512))
    for scheme in (Scheme("codebook", 3, 256, 0.01), Scheme("shiftadd", 2, 64)):
        linear = low_bit.quantize(weight, None, scheme)
        stored = 8 * sum(array.nbytes for array in linear.tensors.values())
        assert stored == scheme.stored_bits((64, 512))


def test_group_is_never_wider_than_a_row() -> None:
    assert Scheme("group", 4, 128).columns(75) == 80
    assert Scheme("group", 4, ROW).columns(75) == 80
    assert Scheme("group", 4, 32).columns(75) == 32
