"""Measure what a model loses when single linears get fewer bits.

One linear after the other is rounded to the smallest scheme, alone, and the outputs of the model
are compared with those of the float model: by the Kullback-Leibler divergence of the logits, or by
the distance of the embeddings. For the other schemes that loss is scaled by the error of the
linear's own outputs.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgellm.exporters.allocation import Choice, Option, Options
from edgellm.exporters.calibrated import Inputs, rows_of
from edgellm.exporters.float_parts import Activations, Block, FloatParts, Input, Linear
from edgellm.exporters.progress import Progress
from edgellm.exporters.quantizers import low_bit
from edgellm.exporters.quantizers.grids import Floats
from edgellm.exporters.quantizers.low_bit import Scheme

SHARE = 4
"""One of so many inputs is measured on."""
LARGE = 200_000_000
LARGE_TOKENS = 512
"""Of models with more weights than ``LARGE``, all is measured on so many tokens."""
COMPENSATED = 0.6
"""What compensation leaves of the loss: the mean over the linears of stories260k at 2 bits."""
LOGITS = "logits"


def divergence(exact: Activations, reached: Activations) -> float:
    """Return the mean Kullback-Leibler divergence of rows of logits, in nats."""
    wanted = _log_softmax(exact)
    return float((np.exp(wanted) * (wanted - _log_softmax(reached))).sum(axis=-1).mean())


def distance(exact: Activations, reached: Activations) -> float:
    """Return the mean squared distance of rows, a share of their mean square length."""
    gap = ((exact.astype(np.float64) - reached) ** 2).sum(axis=-1).mean()
    return float(gap / max((exact.astype(np.float64) ** 2).sum(axis=-1).mean(), 1e-30))


class Sensitivity:
    """The losses of a model's linears."""

    def __init__(
        self, parts: FloatParts, linears: Mapping[str, tuple[int, int]], inputs: Inputs
    ) -> None:
        """Run the float model.

        Args:
            parts: of the model, as it is without quantisation.
            linears: (N, K) by path.
            inputs: those to calibrate on; a part of them is used.
        """
        self._parts = parts
        self._inputs = _choose(inputs, sum(rows * columns for rows, columns in linears.values()))
        self._blocks = parts.blocks(linears)
        self._streams: dict[str | None, list[Activations]] = {None: []}
        self._hessians: dict[str, Floats] = {}
        self._changed: dict[str, Scheme] = {}
        self._originals: dict[str, npt.NDArray[np.float32]] = {}
        self._rounded: dict[tuple[str, Scheme], npt.NDArray[np.float32]] = {}
        for block in self._blocks:
            reached = self._run(block.begin, [block.end])
            self._streams[block.end] = [one[block.end] for one in reached]
        self._exact = self._outputs(self._blocks[-1].end)

    def restore(self) -> None:
        """Put the weights back that ``loss`` replaced."""
        stages = [stage for block in self._blocks for stage in block.stages]
        for linear in [linear for stage in stages for linear in stage]:
            if linear.path in self._changed:
                self._parts.replace(linear, self._originals[linear.path])
        self._changed.clear()

    def options(
        self, schemes: Sequence[Scheme], progress: Progress = lambda _done, _total: None
    ) -> Options:
        """Return what each linear may become, with its loss.

        Args:
            schemes: to choose from.
            progress: called with the linears done and their number.
        """
        found: dict[str, list[Option]] = {}
        total = sum(len(stage) for block in self._blocks for stage in block.stages)
        for block in self._blocks:
            for stage in block.stages:
                x = rows_of(self._run(block.begin, [stage[0].x]), stage[0].x)
                for linear in stage:
                    found[linear.path] = self._measure(block, linear, x, schemes)
                    progress(len(found), total)
        return found

    def loss(self, choice: Choice) -> float:
        """Return the loss of the model with all linears quantised, each for itself."""
        if not self._originals:
            self._keep_originals()
        stages = [stage for block in self._blocks for stage in block.stages]
        for linear in [linear for stage in stages for linear in stage]:
            scheme = choice[linear.path].scheme
            if self._changed.get(linear.path) != scheme:
                self._parts.replace(linear, self._compensated(linear, scheme))
                self._changed[linear.path] = scheme
        return self._compare(self._outputs(None))

    def _measure(
        self, block: Block, linear: Linear, x: Activations, schemes: Sequence[Scheme]
    ) -> list[Option]:
        weight = self._parts.weight(linear)
        errors: dict[Scheme, float] = {}
        smallest = min(schemes, key=lambda scheme: scheme.stored_bits(linear.shape))
        for scheme in schemes:
            real = low_bit.quantize(weight.astype(np.float64), None, scheme).real(linear.shape[1])
            rest = (real - weight).astype(np.float32)
            errors[scheme] = float(((x @ rest.T) ** 2).mean())
            if scheme == smallest:
                self._parts.replace(linear, real)
        worst = max(0.0, self._compare(self._outputs(block.begin)))
        self._parts.replace(linear, weight)
        unit = COMPENSATED * worst / errors[smallest] if errors[smallest] > 0 else 0.0
        return [
            Option(scheme, scheme.stored_bits(linear.shape), unit * error)
            for scheme, error in errors.items()
        ]

    def _compensated(self, linear: Linear, scheme: Scheme) -> npt.NDArray[np.float32]:
        """Return the weight as it would be rounded for the activations of the float model."""
        key = (linear.path, scheme)
        if key not in self._rounded:
            weight = self._originals[linear.path].astype(np.float64)
            result = low_bit.quantize(weight, self._hessians[linear.x], scheme)
            self._rounded[key] = result.real(linear.shape[1]).astype(np.float32)
        return self._rounded[key]

    def _keep_originals(self) -> None:
        """Keep weights and Hessians of the float model, before the first weight is replaced."""
        for block in self._blocks:
            names = [stage[0].x for stage in block.stages]
            reached = self._run(block.begin, names)
            for stage in block.stages:
                x = rows_of(reached, stage[0].x).astype(np.float64)
                self._hessians[stage[0].x] = x.T @ x
                for linear in stage:
                    self._originals[linear.path] = self._parts.weight(linear)

    def _run(self, begin: str | None, outputs: Sequence[str]) -> list[dict[str, Activations]]:
        return self._parts.run(begin, outputs, self._inputs, self._streams[begin])

    def _outputs(self, begin: str | None) -> list[Activations]:
        """Return the outputs of the model, from a stream of the float model on."""
        return [one[self._parts.output] for one in self._run(begin, [self._parts.output])]

    def _compare(self, reached: Sequence[Activations]) -> float:
        measure = divergence if self._parts.output == LOGITS else distance
        losses = [measure(*pair) for pair in zip(self._exact, reached, strict=True)]
        rows = [len(one) for one in self._exact]
        return float(np.average(losses, weights=rows))


def _choose(inputs: Inputs, weights: int) -> list[Input]:
    """Return the inputs to measure on."""
    few = list(inputs[: max(1, len(inputs) // SHARE)])
    if weights <= LARGE:
        return few
    return [few[0][..., :LARGE_TOKENS]]


def _log_softmax(logits: Activations) -> npt.NDArray[np.float32]:
    shifted: npt.NDArray[np.float32] = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted
