"""Trellises: near the best of all rings, near what theory allows; outliers, hard weights."""

import numpy as np
import pytest

from edgellm.errors import ConfigError
from edgellm.exporters.quantizers import trellis
from edgellm.exporters.quantizers.trellis_search import TrellisSearch
from edgellm.trellis_codes import (
    LEVEL_RMS,
    STATE_BITS,
    first_bits,
    num_planes,
    state_levels,
    unpack_states,
)


@pytest.mark.parametrize(("rows", "row_bytes"), [(64, 20), (172, 16), (700, 24)])
def test_levels_of_a_ring_are_found_again(rows: int, row_bytes: int) -> None:
    codes = np.random.default_rng(2).integers(0, 256, (rows, row_bytes)).astype(np.uint8)
    levels = state_levels()[unpack_states(codes, 64)][:, :5]
    search = TrellisSearch(rows, num_planes(rows, 64, row_bytes))
    equal = np.ones(rows, np.float32)

    for column in levels.T:
        found = state_levels()[search.nearest(column.astype(np.float32), equal)]
        np.testing.assert_array_equal(found, column)


def test_neighbours_share_bits_all_around_the_ring() -> None:
    values = np.random.default_rng(1).normal(size=300).astype(np.float32) * np.float32(LEVEL_RMS)

    states = TrellisSearch(300, 94).nearest(values, np.ones_like(values)).astype(int)

    firsts = first_bits(300, 94)
    bits: dict[int, set[int]] = {}
    for first, state in zip(firsts, states, strict=True):
        for bit in range(STATE_BITS):
            bits.setdefault(int(first + bit) % (8 * 94), set()).add(state >> bit & 1)
    assert len(bits) == 8 * 94
    assert all(len(found) == 1 for found in bits.values())


@pytest.mark.parametrize(("bits", "left"), [(2, 1.2), (2.5, 1.24), (3, 1.3)])
@pytest.mark.parametrize("rows", [100, 600])
def test_gaussian_weights_lose_little_more_than_theory_says(
    bits: float, left: float, rows: int
) -> None:
    """4^-bits is the least error for Gaussian weights (rate-distortion theory)."""
    weight = np.random.default_rng(3).normal(size=(rows, 40))

    found = trellis.quantize(weight, np.eye(40), bits, None, calibrated=False)

    planes = num_planes(rows, 40, found.row_bytes)
    error = ((found.real() - weight) ** 2).mean()
    assert 4.0 ** (-8 * planes / rows) < error < left * 4.0 ** (-8 * planes / rows)
    assert trellis.stored_bits(weight.shape, bits) == 8 * rows * found.row_bytes


@pytest.mark.parametrize("rows", [64, 300])
def test_rows_of_which_more_depends_lose_less(rows: int) -> None:
    """As theory says, with so few states: each loses as much as makes its cost the mean."""
    rng = np.random.default_rng(10)
    weight = rng.normal(size=(rows, 4000 // rows)) * np.exp(rng.normal(size=(rows, 1)) / 2)
    costs = np.exp(rng.normal(size=rows))
    curvature = np.eye(weight.shape[1], dtype=np.float32)
    errors = []
    for known in (None, costs):
        rest = trellis.quantize(weight, curvature, 2.5, known, calibrated=False).real() - weight
        errors.append((rest**2).mean(axis=1))

    lost = [float((costs * each).sum()) for each in errors]
    expected = costs * (weight**2).mean(axis=1)
    saved = trellis.cost_together(expected) / expected.sum()
    assert saved < 0.6
    assert lost[1] < 1.15 * saved * lost[0]


@pytest.mark.parametrize("cost", [0.0, np.inf, np.nan])
def test_costs_may_be_nothing_or_no_numbers(cost: float) -> None:
    weight = np.random.default_rng(11).normal(size=(64, 70))
    curvature = np.eye(70, dtype=np.float32)

    nothing, equal = (
        trellis.quantize(weight, curvature, 2.5, costs, calibrated=True).real()
        for costs in (np.full(64, cost), None)
    )

    np.testing.assert_array_equal(nothing, equal)


def test_errors_are_made_good_in_other_columns() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, 96)) @ rng.normal(size=(96, 96))
    weight, hessian = rng.normal(size=(128, 96)), (x.T @ x).astype(np.float32)
    errors = []
    for calibrated in (True, False):
        rest = trellis.quantize(weight, hessian, 2, None, calibrated=calibrated).real() - weight
        errors.append(((rest @ hessian) * rest).sum())

    assert errors[0] < 0.7 * errors[1]


def test_what_is_far_is_stored_apart_and_paid_for() -> None:
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(64, 512))
    weight[1, 7], weight[20, 100] = 60.0, -80.0

    found = trellis.quantize(weight, np.eye(512, dtype=np.float32), 2.5, None, calibrated=True)

    assert np.argwhere(found.outliers.mask).tolist() == [[1, 7], [20, 100]]
    assert np.abs(found.real() - weight)[found.outliers.mask].max() < 0.05
    stored = 8 * sum(array.nbytes for array in found.tensors().values())
    assert stored <= trellis.stored_bits(weight.shape, 2.5)


def test_nothing_is_apart_where_its_bits_serve_better_as_codes() -> None:
    weight = np.random.default_rng(6).normal(size=(64, 64))
    weight[3, 5] = 6.0

    found = trellis.quantize(weight, np.eye(64, dtype=np.float32), 2.5, None, calibrated=False)

    assert not found.outliers.mask.any()
    assert {name: len(array) for name, array in found.tensors().items() if name != "codes"} == {
        "offsets": 1,
        "columns": 1,
        "values": 1,
    }


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 15, 16])
@pytest.mark.parametrize("columns", [1, 70])
def test_few_rows_are_as_stored(rows: int, columns: int) -> None:
    """However small the ring is, what is stored is what was found."""
    weight = np.random.default_rng(9).normal(size=(rows, columns))
    found = trellis.quantize(weight, np.eye(columns, dtype=np.float32), 1.5, None, calibrated=True)

    again = trellis.from_tensors(found.tensors(), columns, found.unit)

    np.testing.assert_array_equal(again.real(), found.real())
    planes = num_planes(rows, columns, found.row_bytes)
    assert 1 <= planes <= rows  # see TrellisLinear's demands
    assert ((found.real() - weight) ** 2).mean() < 0.8


def test_a_row_of_one_weight_keeps_it() -> None:
    weight = np.random.default_rng(8).normal(size=(64, 256))
    weight[3] = 0
    weight[3, 5] = -9.0

    found = trellis.quantize(weight, np.eye(256, dtype=np.float32), 4, None, calibrated=True)

    real = found.real()[3]
    assert real[5] == pytest.approx(-9.0, rel=1e-3)
    assert np.abs(np.delete(real, 5)).max() < 0.01 * 9.0


def test_tensors_are_read_back() -> None:
    weight = np.random.default_rng(7).standard_t(2, (70, 300))
    found = trellis.quantize(weight, np.eye(300, dtype=np.float32), 3, None, calibrated=False)

    again = trellis.from_tensors(found.tensors(), 300, found.unit)

    assert found.outliers.mask.any()
    np.testing.assert_array_equal(again.real(), found.real())


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(ConfigError, match="33000 columns; trellis allows at most 32768"):
        trellis.quantize(
            np.ones((1, 33_000)), np.eye(1, dtype=np.float32), 2, None, calibrated=False
        )
