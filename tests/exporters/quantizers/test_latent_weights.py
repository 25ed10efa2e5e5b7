"""Latent weights begin as what is stored, and end as what can be stored."""

import numpy as np
import pytest

from edgellm.exporters.quantizers import row_classes
from edgellm.exporters.quantizers.latent_weights import LatentWeight
from edgellm.exporters.quantizers.low_bit import LowBitLinear, Scheme
from edgellm.exporters.quantizers.row_classes import JoinedLinear, QuantizedWeight, RowSchemes

COLUMNS = 72
RECIPES = [
    Scheme("group", 2, 16),
    Scheme("group", 6, 0),
    Scheme("shiftadd", 1, 0),
    Scheme("shiftadd", 3, 64),
    Scheme("codebook", 3, 64, 0.05),
    RowSchemes((Scheme("codebook", 2, 64), Scheme("group", 3, 64)), (1, 0) * 5),
]


ORIGINAL = np.random.default_rng(4).normal(size=(10, COLUMNS)).astype(np.float32)


def quantized(recipe: Scheme | RowSchemes) -> QuantizedWeight:
    x = np.random.default_rng(6).normal(size=(200, COLUMNS))
    return row_classes.quantize(ORIGINAL.astype(np.float64), x.T @ x, recipe)


def parts_of(weight: QuantizedWeight) -> list[LowBitLinear]:
    return list(weight.parts) if isinstance(weight, JoinedLinear) else [weight]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_nothing_changes_without_a_step(recipe: Scheme | RowSchemes) -> None:
    weight = quantized(recipe)
    latent = LatentWeight(weight, ORIGINAL)

    levels = latent.rounded().T
    again = latent.with_codes(latent.codes())

    # Levels are single precision, whose half step is 6e-8 of each.
    assert levels == pytest.approx(weight.real(COLUMNS), rel=1e-6, abs=1e-7)
    for one, other in zip(parts_of(weight), parts_of(again), strict=True):
        assert one.tensors.keys() == other.tensors.keys()
        for name, tensor in one.tensors.items():
            np.testing.assert_array_equal(other.tensors[name], tensor)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_steps_lead_to_other_codes_of_the_same_levels(recipe: Scheme | RowSchemes) -> None:
    weight = quantized(recipe)
    latent = LatentWeight(weight, ORIGINAL)
    wanted = weight.real(COLUMNS).T + np.random.default_rng(5).normal(size=(COLUMNS, 10))
    before = np.abs(latent.rounded() - wanted).mean()

    for count in range(1, 21):
        latent.move((latent.rounded() - wanted).astype(np.float32), 0.1, count)
    levels = latent.rounded().T
    moved = latent.with_codes(latent.codes())

    assert np.abs(levels.T - wanted).mean() < 0.9 * before
    assert levels == pytest.approx(moved.real(COLUMNS), rel=1e-6, abs=1e-7)
    for one, other in zip(parts_of(weight), parts_of(moved), strict=True):
        np.testing.assert_array_equal(one.unit, other.unit)
        for name in one.tensors.keys() - {"codes", "planes"}:
            np.testing.assert_array_equal(other.tensors[name], one.tensors[name])


def test_trellises_stay_as_they_are() -> None:
    """No code of one can be moved for itself; the other rows are tuned."""
    recipe = RowSchemes((Scheme("trellis", 4, 0), Scheme("group", 3, 64)), (1, 0) * 5)
    weight = quantized(recipe)
    latent = LatentWeight(weight, ORIGINAL)
    before = latent.rounded()

    latent.move(np.ones_like(before), 10.0, 1)
    moved = latent.with_codes(latent.codes())

    assert isinstance(moved, JoinedLinear)
    np.testing.assert_array_equal(latent.rounded()[:, 1::2], before[:, 1::2])
    assert (latent.rounded()[:, ::2] != before[:, ::2]).any()
    np.testing.assert_array_equal(moved.real(COLUMNS)[1::2], weight.real(COLUMNS)[1::2])
