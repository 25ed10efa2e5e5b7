"""What few bits cost a model: each scheme against plain rounding of as many bits, and GPTQ alone.

    python -m tests.benchmarks.low_bit_losses CHECKPOINT CALIBRATION HELD_OUT [WHAT ...]

WHAT is ``KIND,BITS[,GROUP]`` with the kind plain, gptq, group, shiftadd, codebook or trellis, or
``budget,BITS`` for what ``--budget`` makes of them; by default gptq and all schemes with 4, 3 and 2
bits, in groups of 64. With ``+STEPS`` at its end the codes are tuned in so many steps. Calibration
data are a text (for a sentence encoder a sentence a line) or images, and so is what is held out; of
sentences it is pairs: ``score<tab>sentence<tab>sentence``.

Weights are replaced in the float model, so that what is compared is the loss by weights: of a
language model the rise of the nats a token, of a classifier the divergence of its answers in nats,
of embeddings the share of their squared length that their error has, and Spearman's correlation.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgellm import encoder_api, low_bit_api
from edgellm.exporters import build, encoder_build, encoder_source
from edgellm.exporters.architectures.bert import Model as TextEncoder
from edgellm.exporters.calibrated import Calibrated, Inputs, rows_of
from edgellm.exporters.checkpoint import Checkpoint
from edgellm.exporters.float_parts import Activations, FloatParts
from edgellm.exporters.low_bit_export import (
    Budget,
    LowBit,
    Task,
    choose_schemes,
    costs_of,
    prepare,
)
from edgellm.exporters.quantizers import rounding, uniform
from edgellm.exporters.quantizers.grids import Floats, dequantize, quantize
from edgellm.exporters.quantizers.low_bit import ROW, SCALE_BITS, Scheme, schemes_of
from edgellm.exporters.quantizers.row_classes import QuantizedWeight, Recipe, RowSchemes
from edgellm.exporters.sensitivity import distance, divergence
from edgellm.exporters.source import from_checkpoint
from edgellm.exporters.tuning import Tuned, Tuning
from edgellm.exporters.tuning_inputs import without
from edgellm.graph_names import LOGITS
from edgellm.ops._bit_planes import split_groups
from edgellm.runtime.encoder_evaluate import ScoredPairs, read_pairs, score_pairs
from edgellm.runtime.evaluate import cross_entropy, read_text
from edgellm.runtime.tokenizer import Tokenizer
from tests.benchmarks.matmuls import write

GROUP = 64
IMAGES = 1024
KINDS = ("group", "shiftadd", "codebook", "trellis")
OPTIONS = low_bit_api.Quantization(name="w4a8", tune=1000)
"""Any: what is calibrated on does not depend on it."""

Round = Callable[[Floats, Floats], Floats]
"""(weight (N, K), sum of x x' over its inputs) -> rounded weight."""


def main() -> None:
    checkpoint, calibration, held_out = (Path(name) for name in sys.argv[1:4])
    default = [f"{kind},{bits}" for bits in (4, 3, 2) for kind in ("gptq", *KINDS)]
    with tempfile.TemporaryDirectory(prefix="edgellm-losses-") as folder:
        trial = read_trial(checkpoint, calibration, held_out, Path(folder))
        write(f"{sum(array.size for array in trial.task.inputs)} ids or bytes to calibrate on")
        for what in sys.argv[4:] or default:
            named, _, steps = what.partition("+")
            kind, bits, *group = named.split(",")
            tuned = replace(trial.options, tune=int(steps or 0))
            task, held = prepare(trial.task, tuned)
            chosen = replace(trial, task=task)
            if kind == "budget":
                report_budget(chosen, float(bits))
            else:
                size = int(group[0]) if group else GROUP
                report(chosen, kind, float(bits), ROW if kind == "trellis" else size)
            if steps:
                report_tuning(chosen, what, int(steps), held)


def report_tuning(trial: "Trial", what: str, steps: int, held: Inputs) -> None:
    """Show the loss of what was calibrated last once it is tuned."""
    begin = time.perf_counter()
    tuned = trial.tune(steps, held)
    seconds = time.perf_counter() - begin
    write(
        f"{what}: {trial.show(trial.outputs())}, of inputs held out {tuned.before:.4f} to "
        f"{tuned.after:.4f}, {seconds:.0f} s"
    )


def report_budget(trial: "Trial", bits: float) -> None:
    """Show the loss of what a budget is spent on."""
    trial.restore()
    recipes = choose_schemes(
        trial.parts, trial.task, Budget(bits, schemes_of("auto", None))
    ).recipes
    trial.calibrate(recipes)
    write(f"budget {bits:g}: {trial.count(recipes)}, {trial.show(trial.outputs())}")


def report(trial: "Trial", kind: str, bits: float, group: int) -> None:
    """Show the loss of a scheme, beside that of plain rounding of as many bits or slightly more."""
    scheme = Scheme(kind if kind in KINDS else "group", bits, group)
    recipes = dict.fromkeys(trial.task.linears, scheme)
    if kind == "plain":
        trial.round_plainly(int(bits), group)
    elif kind == "gptq":
        trial.round_in_turn(partial(gptq, bits=int(bits), group=group))
    else:
        trial.calibrate(recipes)
    reached = trial.outputs()
    line = f"{scheme}: {trial.count(recipes)}, {trial.show(reached)}"
    line = line if kind in KINDS else f"{kind}, {line}"
    if kind not in ("plain", "trellis"):  # plain rounding has no half bits
        shapes = trial.task.linears.values()
        stored = sum(map(scheme.stored_bits, shapes)) / trial.task.num_weights
        size = max(8, int(SCALE_BITS / (stored - bits)) // 8 * 8)
        trial.round_plainly(int(bits), size)
        beside = trial.outputs()
        share = trial.loss(reached) / trial.loss(beside)
        line += f": {share:.2f} of plain in groups of {size}, {trial.show(beside)}"
    write(line)


@dataclass(frozen=True)
class Trial:
    """A float model whose weights are replaced.

    Attributes:
        task: what is quantised.
        parts: the model.
        originals: its weights.
        held_out: what it is judged on.
        exact: the outputs of the unquantised model for these.
        pairs: of sentences; their first sentences come first in ``held_out``.
        options: what is calibrated and tuned on.
        quantized: what was calibrated last.
    """

    task: Task
    parts: FloatParts
    originals: dict[str, Activations]
    held_out: Inputs
    exact: list[Activations]
    pairs: ScoredPairs | None
    options: LowBit
    quantized: dict[str, QuantizedWeight] = field(default_factory=dict)

    def restore(self) -> None:
        """Put the weights back."""
        for path, linear in self.parts.find(self.task.linears).items():
            self.parts.replace(linear, self.originals[path])

    def calibrate(self, recipes: Mapping[str, Recipe]) -> None:
        """Quantise all linears as an export does."""
        self.restore()
        self.quantized.clear()
        costs = costs_of(self.parts, self.task, recipes)
        Calibrated(self.parts, self.task.inputs, recipes, costs).run(self.quantized.__setitem__)

    def tune(self, steps: int, held: Inputs) -> Tuned:
        """Tune what was calibrated last, as an export does."""
        further = without(self.options.further(self.task.checkpoint.path, self.task.inputs), held)
        tuning = Tuning(self.parts, self.originals, self.quantized, held)
        tuned = tuning.run([*self.task.inputs, *further], steps)
        for path, linear in self.parts.find(self.task.linears).items():
            self.parts.replace(linear, tuned.weights[path].real(linear.shape[1]))
        return tuned

    def round_plainly(self, bits: int, group: int) -> None:
        """Round each weight to the nearest of equal steps from minimum to maximum."""
        for path, linear in self.parts.find(self.task.linears).items():
            weight = self.originals[path].astype(np.float64)
            groups = split_groups(weight, group)
            grid = uniform.fit(bits, clip=False)(groups, np.ones(groups.shape[1:]))
            self.parts.replace(linear, dequantize(quantize(weight, grid, group), grid, group))

    def round_in_turn(self, rounded: Round) -> None:
        """Round linear after linear, on the activations that those before it leave."""
        self.restore()
        inputs, streams = self.task.inputs, list[Activations]()
        for block in self.parts.blocks(self.task.linears):
            for stage in block.stages:
                name = stage[0].x
                x = rows_of(self.parts.run(block.begin, [name], inputs, streams), name)
                hessian = x.T.astype(np.float64) @ x
                for linear in stage:
                    weight = self.originals[linear.path].astype(np.float64)
                    self.parts.replace(linear, rounded(weight, hessian))
            values = self.parts.run(block.begin, [block.end], inputs, streams)
            streams = [one[block.end] for one in values]

    def count(self, recipes: Mapping[str, Recipe]) -> str:
        """Return the bits a weight of recipes in words."""
        linears = self.task.linears
        stored = sum(recipe.stored_bits(linears[path]) for path, recipe in recipes.items())
        codes = 0.0
        for path, recipe in recipes.items():
            rows, columns = linears[path]
            schemes = [recipe] * rows
            if isinstance(recipe, RowSchemes):
                schemes = [recipe.schemes[number] for number in recipe.classes]
            codes += columns * sum(scheme.bits for scheme in schemes)
        total = self.task.num_weights
        return f"{stored / total:.3f} bits stored, {codes / total:.3f} of them codes"

    def outputs(self) -> list[Activations]:
        """Return what the model now answers to what is held out."""
        values = self.parts.run(None, [self.parts.output], self.held_out, [])
        return [one[self.parts.output] for one in values]

    def loss(self, outputs: Sequence[Activations]) -> float:
        """Return what outputs are worse by than those of the unquantised model."""
        if self.is_language_model:
            return self._nats(outputs) - self._nats(self.exact)
        measure = divergence if self.parts.output == LOGITS else distance
        return measure(np.concatenate(self.exact), np.concatenate(outputs))

    def show(self, outputs: Sequence[Activations]) -> str:
        """Return the loss in words."""
        loss = self.loss(outputs)
        if self.is_language_model:
            return f"loss +{loss:.4f} nats ({loss / self._nats(self.exact):.1%})"
        if self.pairs is None:
            return f"loss {loss:.5f} nats"
        halves = np.split(np.concatenate(outputs), 2)
        found = score_pairs(lambda texts: halves[texts is self.pairs.second], self.pairs)
        return f"loss {loss:.4f}, Spearman {found.spearman:.4f}"

    @property
    def is_language_model(self) -> bool:
        """Return whether the inputs are texts without a batch axis."""
        return self.held_out[0].ndim == 1

    def _nats(self, outputs: Sequence[Activations]) -> float:
        pairs = zip(outputs, self.held_out, strict=True)
        total = sum(cross_entropy(one[:-1].astype(np.float64), ids[1:]) for one, ids in pairs)
        return total / sum(len(ids) - 1 for ids in self.held_out)


def read_trial(checkpoint: Path, calibration: Path, held_out: Path, folder: Path) -> Trial:
    """Read a model and its data, and run it on what is held out."""
    source, pairs = Checkpoint(checkpoint), None
    if encoder_api.is_encoder(checkpoint / "config.json"):
        options = encoder_api.low_bit_options(OPTIONS, checkpoint, calibration)
        model = encoder_source.from_checkpoint(source)
        task = encoder_build.low_bit_task(source, model, options, folder)
        if isinstance(model.model, TextEncoder):
            pairs = read_pairs(held_out)
            tokenizer = Tokenizer(checkpoint / "tokenizer.json", model.model.config.vocab_size)
            texts = (*pairs.first, *pairs.second)
            held = [np.array([tokenizer.encode(text)[: model.max_tokens]]) for text in texts]
        else:
            held = encoder_api.batched_inputs(checkpoint, held_out, IMAGES)(checkpoint, 0, 0)
    else:
        options, other = (
            low_bit_api.low_bit_options(OPTIONS, read_text(path))
            for path in (calibration, held_out)
        )
        model = from_checkpoint(source)
        task = build.low_bit_task(source, model, options, folder)
        held = build.low_bit_task(source, model, other, folder).inputs
    parts = FloatParts(task.write_float_model(folder / "float"), options.run)
    originals = {path: parts.weight(one) for path, one in parts.find(task.linears).items()}
    exact = [one[parts.output] for one in parts.run(None, [parts.output], held, [])]
    return Trial(task, parts, originals, held, exact, pairs, options)


def gptq(weight: Floats, hessian: Floats, bits: int, group: int) -> Floats:
    """Round by GPTQ alone (arXiv 2210.17323), most active columns first, from minimum to maximum.

    Args:
        weight: (N, K).
        hessian: (K, K) sum of x x'.
        bits: of a code.
        group: columns with a scale.
    """
    last = 2.0**bits - 1
    groups = split_groups(weight, group)
    low, high = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
    scale = np.where(high > low, (high - low) / last, 1.0)
    zero = np.rint(-low / scale)
    order = np.argsort(-np.diagonal(hessian), kind="stable")
    damped = rounding.damp(hessian).astype(np.float64)[np.ix_(order, order)]
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    rest, rounded = weight[:, order], np.empty_like(weight)
    for i, column in enumerate(order):
        steps, offset = scale[:, column // group], zero[:, column // group]
        codes = np.clip(np.rint(rest[:, i] / steps) + offset, 0, last)
        rounded[:, column] = steps * (codes - offset)
        error = (rest[:, i] - rounded[:, column]) / upper[i, i]
        rest[:, i:] -= error[:, None] * upper[i, i:]
    return rounded


if __name__ == "__main__":
    main()
