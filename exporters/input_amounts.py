"""How much a model is calibrated and measured on: enough for its size, and soon done."""

from collections.abc import Mapping

from edgellm.exporters.calibrated import Inputs
from edgellm.exporters.float_parts import Input

FEW_TOKENS = 8192
"""Of the texts, that models with more weights than ``MEDIUM`` are calibrated on. Others get all
that is read, four times as many: of stories260k that lowers the rise of the loss by 4 to 10 %, and
23 million weights take twice the time."""
MEDIUM = 32_000_000
SMALL = 4_000_000
SHARE = 4
"""Of models with more weights than ``SMALL``, one of so many inputs is measured on, of texts of
``FEW_TOKENS``. A classifier is sure of most images, so its loss comes from few: of vit-mnist's, 64
mislead."""
LARGE = 200_000_000
LARGE_TOKENS = 512
"""Of models with more weights than ``LARGE``, all is measured on so many tokens."""

Linears = Mapping[str, tuple[int, int]]
"""(N, K) by path."""


def first_texts(texts: Inputs, linears: Linears) -> list[Input]:
    """Return the texts (tokens,) to calibrate on, of those that are read; the last may be cut."""
    return list(texts) if _weights(linears) <= MEDIUM else _cut(texts, FEW_TOKENS)


def choose_inputs(inputs: Inputs, linears: Linears) -> list[Input]:
    """Return the first inputs, on which to measure: few, if the model is large."""
    weights = _weights(linears)
    if weights <= SMALL:
        return list(inputs)
    if inputs[0].ndim == 1:
        return _cut(inputs, LARGE_TOKENS if weights > LARGE else FEW_TOKENS // SHARE)
    few = list(inputs[: max(1, len(inputs) // SHARE)])
    return [few[0][..., :LARGE_TOKENS]] if weights > LARGE else few


def _cut(texts: Inputs, most: int) -> list[Input]:
    kept, left = list[Input](), most
    for text in texts:
        if left <= 0:
            break
        kept.append(text[:left])
        left -= len(kept[-1])
    return kept


def _weights(linears: Linears) -> int:
    return sum(rows * columns for rows, columns in linears.values())
