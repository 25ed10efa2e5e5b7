"""Measure what a model loses when single linears, and single rows, get fewer bits.

One linear after the other is rounded to 3 bits, alone, and the outputs of the model
are compared with those of the float model: by the Kullback-Leibler divergence of the logits, or by
the distance of the embeddings. That loss is divided among the rows by their errors and by what an
error of each output costs (``output_gradients.py``), and scaled by the errors of the other schemes,
as they are once columns to come have made good for those before (the diagonal of H's Cholesky
factor weighs what is left of each). With 1 and 2 bits columns cannot make good what those before
them lost, up to twelve times as much is left: some rows are really rounded to find out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgellm.exporters.allocation import Choice, Option, Options
from edgellm.exporters.calibrated import Calibrated, Inputs, rows_of
from edgellm.exporters.float_parts import Activations, Block, FloatParts, Input, Linear
from edgellm.exporters.input_amounts import choose_inputs
from edgellm.exporters.output_gradients import row_weights, streams_of
from edgellm.exporters.progress import Progress
from edgellm.exporters.quantizers import low_bit, rounding, row_classes, trellis
from edgellm.exporters.quantizers.cholesky import Singles
from edgellm.exporters.quantizers.grids import Floats
from edgellm.exporters.quantizers.low_bit import Scheme
from edgellm.exporters.quantizers.row_classes import Recipe
from edgellm.exporters.row_blocks import RowBlock, cut, recipes, schemes_of_rows
from edgellm.graph_names import LOGITS

MEASURED = 3
"""Bits a weight at which the loss is measured: with 1, it no longer grows as squares do."""
SAMPLE = 32
"""Rows of a linear that are rounded to see what compensation leaves. vit-mnist at 2.5 bits loses a
quarter less by the choice that follows."""
SAMPLE_OF_RING = 128
"""The same of trellises: the states of fewer rows go round in too small a ring."""
SOME_COLUMNS = 16
"""By so many the error of a trellis is known well enough, as a share of the weights' squares."""


Coding = tuple[bool, float]
"""Whether it is a trellis; bits, at most ``MEASURED``."""


def divergence(exact: Activations, reached: Activations) -> float:
    """Return the mean Kullback-Leibler divergence of rows of logits, in nats."""
    wanted = _log_softmax(exact)
    return float((np.exp(wanted) * (wanted - _log_softmax(reached))).sum(axis=-1).mean())


def distance(exact: Activations, reached: Activations) -> float:
    """Return the mean squared distance of rows, a share of their mean square length."""
    gap = ((exact.astype(np.float64) - reached) ** 2).sum(axis=-1).mean()
    return float(gap / max((exact.astype(np.float64) ** 2).sum(axis=-1).mean(), 1e-30))


class Sensitivity:
    """The losses of a model's linears.

    Attributes:
        costs: (N,) what the square of an error of each output costs, by path.
        row_blocks: what ``options`` found options for, by name.
    """

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
        self.row_blocks: dict[str, RowBlock] = {}
        self._inputs = choose_inputs(inputs, linears)
        # Weights fit the inputs that they were rounded for better than any others.
        self._judged, self._fitted = self._inputs, list(inputs[len(self._inputs) :])
        if not self._fitted:
            self._judged, self._fitted = self._inputs[1::2] or self._inputs, self._inputs[::2]
        self._blocks = parts.blocks(linears)
        self._streams = streams_of(parts, self._blocks, self._inputs)
        self._hessians: dict[str, Floats] = {}
        self._changed: dict[str, list[Scheme]] = {}
        self._originals: dict[str, npt.NDArray[np.float32]] = {}
        self._rounded: dict[tuple[str, Scheme], npt.NDArray[np.float32]] = {}
        self._excess: dict[str, dict[Coding, float]] = {}
        self._exact = self._outputs(self._blocks[-1].end)
        self._answers = self._run_whole(self._judged)
        self.costs = row_weights(self._parts, self._blocks, self._inputs, self._streams)

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
        """Return what each block of rows may become, with its loss.

        Args:
            schemes: to choose from.
            progress: called with the linears done and their number.
        """
        found: dict[str, list[Option]] = {}
        done, total = 0, sum(len(stage) for block in self._blocks for stage in block.stages)
        for block in self._blocks:
            for stage in block.stages:
                hessian = self._hessian(block, stage[0])
                for linear in stage:
                    costs = self._measure(block, linear, hessian, self.costs[linear.path], schemes)
                    found |= self._divide(linear, costs)
                    done += 1
                    progress(done, total)
        return found

    def loss(self, choice: Choice) -> float:
        """Return about what the model loses by a choice: each linear is quantised for itself.

        It is measured on other inputs than those that the codes are found for. So that many choices
        are soon measured, rows of trellises are those of a whole weight with as many bits.
        """
        if not self._originals:
            self._keep_originals()
        wanted = schemes_of_rows(choice, self.row_blocks)
        stages = [stage for block in self._blocks for stage in block.stages]
        for linear in [linear for stage in stages for linear in stage]:
            schemes = wanted[linear.path]
            if self._changed.get(linear.path) != schemes:
                self._parts.replace(linear, self._mixed(linear, schemes))
                self._changed[linear.path] = schemes
        return self._compare(self._answers, self._run_whole(self._judged))

    def calibrated(self, choice: Choice) -> float:
        """Return the loss of the model quantised as an export does it.

        It is measured on other inputs than those that it is quantised for.
        """
        return self._calibrated(choice, self._fitted, self._judged, self._answers)

    def better(self, choice: Choice, refined: Choice) -> Choice:
        """Return the better of two choices, the second of which is the best by ``loss``.

        It was found on the inputs that ``loss`` measures on, so it is judged on the others.
        """
        if refined == choice:
            return choice
        answers = self._run_whole(self._fitted)
        lost = [
            self._calibrated(one, self._judged, self._fitted, answers) for one in (choice, refined)
        ]
        return refined if lost[1] < lost[0] else choice

    def _calibrated(
        self, choice: Choice, fitted: Inputs, judged: Inputs, answers: Sequence[Activations]
    ) -> float:
        """Return the loss on some inputs of the model quantised on others."""
        stages = [stage for block in self._blocks for stage in block.stages]
        originals = [(one, self._parts.weight(one)) for stage in stages for one in stage]
        whole = Calibrated(self._parts, fitted, recipes(choice, self.row_blocks), self.costs)
        whole.run(lambda _path, _linear: None)
        lost = self._compare(answers, self._run_whole(judged))
        for linear, weight in originals:
            self._parts.replace(linear, weight)
        return lost

    def together(self, choice: Choice) -> float:
        """Return what the model is expected to lose by all linears together, none being rounded.

        Losses do not add up once they are large. So all weights are moved at once: each row by the
        error of plain rounding, made as small as compensation leaves it.
        """
        wanted = recipes(choice, self.row_blocks)
        originals: list[tuple[Linear, npt.NDArray[np.float32]]] = []
        for block in self._blocks:
            # All of a block before its first weight moves: they are those of the float model.
            hessians = [self._hessian(block, stage[0]) for stage in block.stages]
            for stage, hessian in zip(block.stages, hessians, strict=True):
                left = rounding.left_by_compensation(hessian)
                for linear in stage:
                    weight = self._parts.weight(linear)
                    originals.append((linear, weight))
                    recipe = wanted[linear.path]
                    plain = row_classes.quantize(weight.astype(np.float64), None, recipe)
                    rest = plain.real(linear.shape[1]) - weight
                    whole = np.einsum("nk,nk->n", rest @ hessian, rest)
                    excess = self._excesses_of(linear, recipe)
                    share = np.sqrt(excess * (rest**2 @ left) / np.where(whole > 0, whole, 1.0))
                    self._parts.replace(linear, weight + rest * share[:, None])
        lost = self._compare(self._exact, self._outputs(None))
        for linear, weight in originals:
            self._parts.replace(linear, weight)
        return max(0.0, lost)

    def _hessian(self, block: Block, linear: Linear) -> Singles:
        """Return the damped H of a linear's inputs."""
        x = rows_of(self._run(block.begin, [linear.x]), linear.x).astype(np.float64)
        return rounding.damp(x.T @ x)

    def _measure(
        self,
        block: Block,
        linear: Linear,
        hessian: Singles,
        weights: Floats,
        schemes: Sequence[Scheme],
    ) -> dict[Scheme, Floats]:
        """Return the loss by each row (N,), by scheme."""
        weight = self._parts.weight(linear)
        left = rounding.left_by_compensation(hessian)
        costs: dict[Scheme, Floats] = {}
        excess = self._excess.setdefault(linear.path, {})
        unit = 0.0
        measured = min(
            schemes,
            key=lambda scheme: abs(scheme.stored_bits(linear.shape) - MEASURED * weight.size),
        )
        for scheme in schemes:
            if scheme.kind == "trellis" and scheme != measured:
                costs[scheme] = weights * _expect_errors(weight, scheme) * left.sum()
            else:
                plain = low_bit.quantize(weight.astype(np.float64), None, scheme)
                rest = plain.real(linear.shape[1]) - weight
                costs[scheme] = weights * (rest**2 @ left)
            if (coding := _coding(scheme)) not in excess:
                excess[coding] = _excess(weight, hessian, costs[scheme], weights, scheme)
            if scheme == measured:
                self._parts.replace(linear, weight + rest)
                worst = max(0.0, self._compare(self._exact, self._outputs(block.begin)))
                self._parts.replace(linear, weight)
                cost = float(weights @ np.einsum("nk,nk->n", rest @ hessian, rest))
                unit = worst / cost if cost > 0 else 0.0
        return {scheme: unit * excess[_coding(scheme)] * cost for scheme, cost in costs.items()}

    def _excesses_of(self, linear: Linear, recipe: Recipe) -> Floats:
        """Return for each row (N,) what ``_excess`` found for its bits."""
        found = self._excess.get(linear.path, {})
        if isinstance(recipe, Scheme):
            return np.full(linear.shape[0], _nearest(found, recipe))
        each = [_nearest(found, scheme) for scheme in recipe.schemes]
        return np.array(each)[np.array(recipe.classes)]

    def _divide(self, linear: Linear, costs: Mapping[Scheme, Floats]) -> dict[str, list[Option]]:
        """Return the options of a linear's blocks of rows."""
        ranked = next(iter(costs.values()))
        blocks = cut(linear.path, ranked)
        self.row_blocks |= blocks
        return {
            name: [
                Option(
                    scheme,
                    scheme.stored_bits((len(block.rows), linear.shape[1])),
                    _cost_together(scheme, cost[block.rows]),
                )
                for scheme, cost in costs.items()
            ]
            for name, block in blocks.items()
        }

    def _mixed(self, linear: Linear, schemes: Sequence[Scheme]) -> npt.NDArray[np.float32]:
        """Return the weight as its rows would be rounded for the activations of the float model."""
        known = {scheme: number for number, scheme in enumerate(dict.fromkeys(schemes))}
        each = np.stack([self._compensated(linear, scheme) for scheme in known])
        return each[[known[scheme] for scheme in schemes], np.arange(linear.shape[0])]

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
        streams: list[Activations] = []
        for block in self._blocks:
            names = [stage[0].x for stage in block.stages]
            reached = self._parts.run(block.begin, [*names, block.end], self._fitted, streams)
            streams = [one.pop(block.end) for one in reached]
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

    def _run_whole(self, inputs: Sequence[Input]) -> list[Activations]:
        values = self._parts.run(None, [self._parts.output], inputs, [])
        return [one[self._parts.output] for one in values]

    def _compare(self, exact: Sequence[Activations], reached: Sequence[Activations]) -> float:
        measure = divergence if self._parts.output == LOGITS else distance
        losses = [measure(*pair) for pair in zip(exact, reached, strict=True)]
        return float(np.average(losses, weights=[len(one) for one in exact]))


def _excess(
    weight: Activations, hessian: Singles, costs: Floats, weights: Floats, scheme: Scheme
) -> float:
    """Return how many times the expected error some rows have once they are rounded.

    Args:
        weight: (N, K).
        hessian: (K, K), damped.
        costs: (N,) what is expected of each row.
        weights: (N,) what an error of each output costs.
        scheme: how they are rounded.
    """
    count = SAMPLE_OF_RING if scheme.kind == "trellis" else SAMPLE
    rows = np.unique(np.linspace(0, len(weight) - 1, count).astype(np.intp))
    some = weight[rows].astype(np.float64)
    rest = low_bit.quantize(some, hessian, scheme, weights[rows]).real(weight.shape[1]) - some
    expected = _cost_together(scheme, costs[rows])
    found = float(weights[rows] @ np.einsum("nk,nk->n", rest @ hessian, rest))
    return found / expected if expected > 0 else 1.0


def _nearest(excess: Mapping[Coding, float], scheme: Scheme) -> float:
    """Return the excess of the bits that are next to those of a scheme."""
    kind, bits = _coding(scheme)
    known = [coding for coding in excess if coding[0] == kind]
    return excess[min(known, key=lambda one: abs(one[1] - bits))] if known else 1.0


def _cost_together(scheme: Scheme, costs: Floats) -> float:
    """Return what rows (N,) of a scheme are expected to cost."""
    return trellis.cost_together(costs) if scheme.kind == "trellis" else float(costs.sum())


def _coding(scheme: Scheme) -> Coding:
    return scheme.kind == "trellis", min(scheme.bits, MEASURED)


def _expect_errors(weight: Activations, scheme: Scheme) -> Floats:
    """Return the squared error of a weight of each row (N,) of a trellis, by some columns."""
    columns = np.unique(np.linspace(0, weight.shape[1] - 1, SOME_COLUMNS).astype(np.intp))
    some = weight[:, columns].astype(np.float64)
    errors = (low_bit.quantize(some, None, scheme).real(len(columns)) - some) ** 2
    share = float(errors.sum() / max((some**2).sum(), 1e-300))
    squares: Floats = (weight.astype(np.float64) ** 2).mean(axis=1)
    return share * squares


def _log_softmax(logits: Activations) -> npt.NDArray[np.float32]:
    shifted: npt.NDArray[np.float32] = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted
