"""How much a model is measured on: enough for its size, and soon done."""

from collections.abc import Mapping

from edgellm.exporters.calibrated import Inputs
from edgellm.exporters.float_parts import Input

SMALL = 4_000_000
SHARE = 4
"""Of models with more weights than ``SMALL``, one of so many inputs is measured on. A classifier is
sure of most images, so its loss comes from few: of vit-mnist's, 64 mislead."""
LARGE = 200_000_000
LARGE_TOKENS = 512
"""Of models with more weights than ``LARGE``, all is measured on so many tokens."""

Linears = Mapping[str, tuple[int, int]]
"""(N, K) by path."""


def choose_inputs(inputs: Inputs, linears: Linears) -> list[Input]:
    """Return the inputs to measure on, of those to calibrate on: few, if the model is large."""
    weights = sum(rows * columns for rows, columns in linears.values())
    if weights <= SMALL:
        return list(inputs)
    few = list(inputs[: max(1, len(inputs) // SHARE)])
    if weights <= LARGE:
        return few
    return [few[0][..., :LARGE_TOKENS]]
