"""How much of the inputs a model is calibrated and measured on."""

import numpy as np
import pytest

from edgellm.exporters.input_amounts import (
    FEW_TOKENS,
    LARGE,
    LARGE_TOKENS,
    MEDIUM,
    SHARE,
    SMALL,
    choose_inputs,
    first_texts,
)

TEXTS = [np.full(3000, text) for text in range(11)]


@pytest.mark.parametrize(
    ("weights", "calibrated", "measured"),
    [
        (SMALL, 33_000, 33_000),
        (SMALL + 1, 33_000, FEW_TOKENS // SHARE),
        (MEDIUM + 1, FEW_TOKENS, FEW_TOKENS // SHARE),
        (LARGE + 1, FEW_TOKENS, LARGE_TOKENS),
    ],
)
def test_larger_models_take_fewer_tokens(weights: int, calibrated: int, measured: int) -> None:
    linears = {"a": (1, weights - 1), "b": (1, 1)}

    texts = first_texts(TEXTS, linears)
    some = choose_inputs(texts, linears)

    everything = np.concatenate(TEXTS)
    assert (np.concatenate(texts) == everything[:calibrated]).all()
    assert (np.concatenate(some) == everything[:measured]).all()
    assert sum(map(len, texts)) == calibrated
    assert sum(map(len, some)) == measured
    assert all(map(len, [*texts, *some]))


def test_few_images_are_measured_of_models_that_are_not_small() -> None:
    batches = [np.full((8, 4), batch) for batch in range(8)]

    assert len(choose_inputs(batches, {"a": (1, SMALL)})) == len(batches)
    assert [one[0, 0] for one in choose_inputs(batches, {"a": (1, MEDIUM)})] == [0, 1]
