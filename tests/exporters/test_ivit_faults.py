"""The exporter says where I-ViT's operators are outside of their range, and by how much."""

import numpy as np
import pytest

from edgellm.exporters.lowering.ivit_faults import Faults, gelu_error, softmax_error


def scores(deviation, columns):
    rng = np.random.default_rng(0)
    return [rng.normal(0, deviation, (40, columns)).astype(np.float32)]


def test_a_sound_layer_is_no_fault():
    faults = Faults()
    faults.see_softmax("layer", scores(1.0, 64), 1 / 32)
    faults.see_gelu("layer", np.array([1.0, 2.0, 5.0]))
    faults.see_norm("layer", np.random.default_rng(1).normal(0, 1000, (20, 64)))
    assert faults.report() == []


def test_the_worst_layer_is_named():
    faults = Faults()
    for path, scale in (("one", 0.1), ("two", 0.4), ("three", 0.2)):
        faults.see_softmax(path, scores(1.0, 16), scale)
    (line,) = faults.report()
    assert "a scale of 0.400 in two (the worst of 3), above 1/16" in line


def test_lost_probability_is_told():
    """Spread over 4096 columns, 16 bits keep about 89 %."""
    faults = Faults()
    faults.see_softmax("layer", scores(1.0, 4096), 1 / 28)
    (line,) = faults.report()
    assert "loses probability mass: it keeps 8" in line
    assert "layer (there alone)" in line


@pytest.mark.parametrize(
    ("maximum", "told"), [(10.0, "a maximum of 9.4 or more"), (-0.5, "no positive element")]
)
def test_rows_that_gelu_is_not_for_are_told(maximum, told):
    faults = Faults()
    faults.see_gelu("layer", np.array([1.0, 2.0, 3.0, maximum]))
    (line,) = faults.report()
    assert f"25.0% of the rows of layer (there alone) have {told}" in line


def test_rows_whose_root_is_not_found_are_told():
    faults = Faults()
    faults.see_norm("layer", np.array([[30.0, -10, 5, 15], [3000, -1000, 500, 1500]]))
    (line,) = faults.report()
    assert "50.0% of the rows of layer" in line


def test_scores_are_clipped_where_the_softmax_is_best():
    """An outlier far below the maximum costs nothing when clipped, and resolution when kept."""
    rows = scores(1.0, 50)
    rows[0][:, 0] = -60
    error = softmax_error(rows)
    assert error(5.0) < error(60.0) / 4


def test_gelu_is_better_without_an_outlier_of_the_range():
    rows = np.random.default_rng(2).normal(0, 1, (50, 64))
    error = gelu_error(rows)
    assert error(5.0) < error(40.0) / 4
