"""Find scales of channels with which a model loses less by int8 activations (SmoothQuant).

A row of activations has one scale, so a channel that is much larger than the others costs them
their bits. Where a site allows it (``smoothing_sites``), a channel is divided by
``a^s / w^(1-s)``, rounded to a power of two, and the weights that take it are multiplied: a and w
are the largest activation and weight of the channel, s the strength (arXiv 2211.10438). Queries
and keys are balanced likewise. How strong, and whether at all, is decided kind by kind, by what
the integer model loses against the float model on the calibration inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.errors import NothingToReadError
from edgellm.exporters.calibrated import Inputs, rows_of
from edgellm.exporters.float_parts import Activations, FloatParts, Linear, Run
from edgellm.exporters.lowering.smoothing_sites import KINDS, Kind, Site
from edgellm.exporters.sensitivity import distance, divergence
from edgellm.exporters.smoothed_weights import ChannelScales, Exponents
from edgellm.graph_names import LOGITS

STRENGTHS = (0.5, 0.25, 0.75)
LARGE = 200_000_000
LARGE_STRENGTHS = STRENGTHS[:1]
"""All that is tried of models with more weights than ``LARGE``."""
WORTH = 0.97
"""A loss must fall below this share of the best so far: a smaller gain may be chance."""
WORTH_OF_FEW_BITS = 0.5
"""The same where weights get fewer bits: their rounding suffers a little from scales (stories260k,
w4a8: 1.341 nats, not 1.334), and gains much where there are outliers (1.340, not 1.748)."""
LARGE_TOKENS = 512
"""That a language model of more weights than ``LARGE`` is measured on."""
MOST_EXPONENT = 12
"""Scales are at most so many doublings from the median of their site."""

Outputs = Sequence[Activations]
Attempt = Callable[[ChannelScales], Outputs]
"""Exports with scales and returns the outputs for the calibration inputs."""
Peaks = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Smoothing:
    """Scales, and what the manifest says of them."""

    scales: ChannelScales
    label: str


@dataclass(frozen=True)
class Smooth:
    """What ``--smooth`` needs.

    Attributes:
        inputs: (directory of the checkpoint, size of its vocabulary, longest text) -> what to
            calibrate on.
        run: computes a part of the float model.
        outputs: (directory of a bundle, inputs) -> its logits or embeddings as real numbers.
        required: the user asked for it, so a model that has nothing to smooth is refused.
    """

    inputs: Callable[[Path, int, int], Inputs]
    run: Run
    outputs: Callable[[Path, Inputs], Outputs]
    required: bool = False


@dataclass(frozen=True)
class SmoothingTask:
    """A model that may be smoothed.

    Attributes:
        parts: its float model.
        sites: where it has free scales.
        inputs: to calibrate on.
        attempt: see ``Attempt``.
        num_weights: of the model.
        worth: what a loss must fall below, as a share of the best so far.
    """

    parts: FloatParts
    sites: Sequence[Site]
    inputs: Inputs
    attempt: Attempt
    num_weights: int
    worth: float = WORTH


def find_smoothing(task: SmoothingTask) -> Smoothing | None:
    """Return the scales with which the integer model loses least, None where it is without."""
    exact = task.parts.run(None, [task.parts.output], task.inputs, [])
    wanted = [one[task.parts.output] for one in exact]
    measure = divergence if task.parts.output == LOGITS else distance

    def loss(scales: ChannelScales) -> float:
        pairs = zip(wanted, task.attempt(scales), strict=True)
        return float(
            np.average([measure(*pair) for pair in pairs], weights=[len(x) for x in wanted])
        )

    if not task.inputs:
        raise NothingToReadError
    peaks = _measure_peaks(task)
    best = ChannelScales()
    first = least = loss(best)
    chosen: dict[Kind, float] = {}
    for kind in KINDS:
        sites = [site for site in task.sites if site.kind == kind]
        start, limit = best, task.worth * least
        for strength in _strengths(task.num_weights) if sites else ():
            scales = start
            for site in sites:
                scales = scales.with_site(site, _exponents(*peaks[site.divided], strength))
            if (reached := loss(scales)) < min(least, limit):
                best, least, chosen[kind] = scales, reached, strength
    if not chosen:
        return None
    strengths = ", ".join(f"{kind} {strength:g}" for kind, strength in chosen.items())
    return Smoothing(best, f"{strengths}; loss {first:.3g} to {least:.3g}")


def _strengths(num_weights: int) -> tuple[float, ...]:
    return STRENGTHS if num_weights <= LARGE else LARGE_STRENGTHS


def _measure_peaks(task: SmoothingTask) -> Mapping[tuple[str, ...], tuple[Peaks, Peaks]]:
    """Return the largest activation and weight of each channel, by the divided tensors of a site.

    Of "scores" these are keys and queries.
    """
    paths = {path for site in task.sites for path in (*site.multiplied, *_makers(site))}
    linears = task.parts.find(paths)
    names = sorted({linears[path].x for path in paths})
    values = task.parts.run(None, names, task.inputs, [])
    found = {}
    for site in task.sites:
        taken = [linears[path] for path in site.multiplied]
        if site.kind == "scores":
            (maker,) = _makers(site)
            made, used = (_results(task.parts, one, values) for one in (linears[maker], *taken))
            found[site.divided] = (_peaks(made, site.rows), _peaks(used, site.columns))
        else:
            weights = np.concatenate([task.parts.weight(linear) for linear in taken])
            x = rows_of(values, taken[0].x)
            found[site.divided] = (_peaks(x, site.columns), _peaks(weights, site.columns))
    return found


def _makers(site: Site) -> tuple[str, ...]:
    return (site.divided[0].removesuffix(".weight"),) if site.kind == "scores" else ()


def _results(
    parts: FloatParts, linear: Linear, values: Sequence[dict[str, Activations]]
) -> Activations:
    """Return the outputs of a linear, without its bias."""
    outputs: Activations = rows_of(values, linear.x) @ parts.weight(linear).T
    return outputs


def _peaks(matrix: Activations, channels: npt.NDArray[np.intp]) -> Peaks:
    """Return the largest magnitude in the columns of each channel."""
    peaks = np.zeros(int(channels.max()) + 1)
    np.maximum.at(peaks, channels, np.abs(matrix).max(axis=0))
    return peaks


def _exponents(activations: Peaks, weights: Peaks, strength: float) -> Exponents:
    """Return exponents of two; those of channels that are always 0 are 0."""
    alive = (activations > 0) & (weights > 0)
    logs = np.zeros(len(activations))
    logs[alive] = strength * np.log2(activations[alive])
    logs[alive] -= (1 - strength) * np.log2(weights[alive])
    logs[alive] -= np.median(logs[alive]) if alive.any() else 0
    return np.clip(np.rint(logs), -MOST_EXPONENT, MOST_EXPONENT).astype(np.int32)
