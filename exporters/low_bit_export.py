"""Quantise the linears of a checkpoint on calibration texts, so that it can be interrupted."""

import hashlib
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgellm.errors import ConfigError, ExportError, NothingToReadError
from edgellm.exporters import row_blocks
from edgellm.exporters.allocation import Choice, Options, allocate, refine
from edgellm.exporters.calibrated import Calibrated, Inputs
from edgellm.exporters.checkpoint import Checkpoint
from edgellm.exporters.float_parts import Activations, FloatParts, Run
from edgellm.exporters.lowering.stored_weights import LinearQuantizer
from edgellm.exporters.output_gradients import output_costs
from edgellm.exporters.progress import Progress
from edgellm.exporters.quantized_results import Results
from edgellm.exporters.quantizers import low_bit
from edgellm.exporters.quantizers.grids import Floats
from edgellm.exporters.quantizers.low_bit import Scheme
from edgellm.exporters.quantizers.row_classes import QuantizedWeight, Recipe, schemes_in
from edgellm.exporters.row_blocks import RowBlock
from edgellm.exporters.sensitivity import Sensitivity
from edgellm.exporters.tuning import Tuning
from edgellm.exporters.tuning_inputs import split, without

LOG = logging.getLogger(__name__)

WORK_SUFFIX = ".quantizing"
FORMAT = 4
"""Of these files: results of an earlier one are computed anew."""
MOST_BITS = 16
MOST_STEPS = 10_000
"""Of tuning."""
MOST_TO_MEASURE = 32_000_000
"""Weights of the linears: of more, evolution takes too long, which runs the whole model some 150
times, and so does a forecast that quantises all of it."""

More = Callable[[Path, Inputs], Inputs]
WriteFloatModel = Callable[[Path], Path]
"""Writes the float model into a directory and returns the path of its graph."""


@dataclass(frozen=True)
class Budget:
    """Bits for all linears together, to be spent where they help the most.

    Attributes:
        bits: a weight, with scales and zeros.
        schemes: to choose from.
        refine: check the choice by evolution.
    """

    bits: float
    schemes: tuple[Scheme, ...]
    refine: bool = True


def make_plan(
    name: str,
    bits: float | None,
    group_size: int | None,
    budget: float | None,
    *,
    outliers: float,
    refine: bool,
) -> Scheme | Budget:
    """Return what options ask for.

    Args:
        name: of a scheme as for ``Scheme.parse``; with a budget a family of them, or "auto".
        bits: of "shiftadd", "codebook" and "trellis".
        group_size: columns with one scale, ROW for all of a row; None for the default.
        budget: bits a weight of all linears together.
        outliers: share of the weights that "codebook" stores apart.
        refine: check by evolution what the budget is spent on.

    Raises:
        ConfigError: an option is unknown or out of range, or does not belong to the others.
    """
    if budget is None:
        if name in ("group", "auto"):
            raise ConfigError(f"quant {name!r} needs a budget: bits a weight, with scales")
        return Scheme.parse(name, bits, group_size, outliers)
    if not 0 < budget <= MOST_BITS:  # also refuses what is no number
        raise ConfigError(f"budget is {budget}; allowed are more than 0 to {MOST_BITS} bits")
    if name not in low_bit.FAMILIES or bits is not None:
        known = ", ".join(low_bit.FAMILIES)
        raise ConfigError(f"a budget chooses the bits: give quant as one of {known}, and no bits")
    return Budget(budget, low_bit.schemes_of(name, group_size, outliers), refine)


@dataclass(frozen=True)
class LowBit:
    """What ``--quant`` asks for.

    Attributes:
        plan: how linears are quantised, all of them or each as it is found best.
        inputs: (directory of the checkpoint, size of its vocabulary, longest text) -> what to
            calibrate on, such as the token ids of each text.
        run: computes a part of the float model.
        further: (directory of the checkpoint, inputs) -> more inputs like these, to tune on.
        tune: steps in which all codes are tuned together, 0 for none.
        also: (directory of the checkpoint, inputs) -> more inputs that are made of these, to
            calibrate on as well.
    """

    plan: Scheme | Budget
    inputs: Callable[[Path, int, int], Inputs]
    run: Run
    further: More
    tune: int = 0
    also: More = lambda _directory, _inputs: ()

    def __post_init__(self) -> None:
        """Refuse steps that cannot be."""
        if not 0 <= self.tune <= MOST_STEPS:
            raise ConfigError(f"steps of tuning are {self.tune}; allowed are 0 to {MOST_STEPS}")
        if self.tune and isinstance(self.plan, Scheme) and self.plan.kind == "trellis":
            raise ConfigError(
                "codes of trellis overlap, and none can be tuned for itself: leave tuning out, or "
                "choose another scheme"
            )

    def work(self, task: "Task") -> int:
        """Return what quantising counts as progress: the weights, again where they are tuned."""
        return task.num_weights * (2 if self.tune else 1)


@dataclass(frozen=True)
class Task:
    """A checkpoint that is to be quantised.

    Attributes:
        checkpoint: where the weights come from.
        linears: (N, K) of the linears, by path.
        inputs: to calibrate on.
        work: a directory for intermediate results; the float model takes 4 bytes a parameter there.
        write_float_model: writes that model.
        variant: what was done to the weights before.
    """

    checkpoint: Checkpoint
    linears: Mapping[str, tuple[int, int]]
    inputs: Inputs
    work: Path
    write_float_model: WriteFloatModel
    variant: str = ""

    @property
    def num_weights(self) -> int:
        """Weights of the linears."""
        return sum(rows * columns for rows, columns in self.linears.values())


@dataclass(frozen=True)
class Quantized:
    """Linears that are quantised, and what the manifest calls them."""

    find: LinearQuantizer
    label: str


def quantize_checkpoint(task: Task, options: LowBit, progress: Progress | None = None) -> Quantized:
    """Quantise all linears of a float checkpoint.

    Args:
        task: what.
        options: how.
        progress: called with what is done of ``options.work``, and that.

    Returns:
        What to export with; it reads the results in ``work``, which may go afterwards.

    Raises:
        ConfigError: see ``check``.
        ExportError: ``work`` exists and is not of an earlier export.
    """
    check(task, options.plan)
    task, held = prepare(task, options)
    results = Results(task.work, _key(task, options.plan))
    done, total = 0, options.work(task)

    def save(path: str, linear: QuantizedWeight) -> None:
        nonlocal done
        results.save(path, linear)
        done += math.prod(task.linears[path])
        if progress is not None:
            progress(done, total)

    parts = FloatParts(task.write_float_model(task.work / "float"), options.run)
    recipes = results.recipes()
    if not recipes:
        recipes = choose_schemes(parts, task, options.plan).recipes
        results.save_recipes(recipes)
    originals = _weights(parts, task) if options.tune else {}
    costs = costs_of(parts, task, recipes)
    Calibrated(parts, task.inputs, recipes, costs).run(save, results.load)
    tuned: Mapping[str, QuantizedWeight] = {}
    if options.tune:
        quantized = {path: one for path in originals if (one := results.load(path))}
        tuned = _tune(Tuning(parts, originals, quantized, held), task, options, held, progress)
    shutil.rmtree(task.work / "float")

    def find(path: str, _weight: Floats) -> QuantizedWeight | None:
        linear = tuned.get(path) or results.load(path)
        if linear is None and path in task.linears:
            raise ExportError(f"{path}: the calibration did not reach this linear")
        return linear

    return Quantized(find, low_bit.describe(schemes_in(recipes.values())))


def prepare(task: Task, options: LowBit) -> tuple[Task, Inputs]:
    """Return the task with all that is calibrated on, and what is held out for tuning.

    Raises:
        ConfigError: the model is too large to be tuned, or the inputs are too few for it.
    """
    held: Inputs = ()
    inputs: Inputs = task.inputs
    if options.tune:
        check_tuning(task)
        held, inputs = split(inputs)
    also = options.also(task.checkpoint.path, inputs)
    return replace(task, inputs=[*inputs, *also]), held


def _tune(
    tuning: Tuning, task: Task, options: LowBit, held: Inputs, progress: Progress | None
) -> Mapping[str, QuantizedWeight]:
    """Return tuned weights by path."""
    further = without(options.further(task.checkpoint.path, task.inputs), held)
    found = tuning.run([*task.inputs, *further], options.tune, _in_weights(progress, task))
    if found.after == found.before:
        LOG.warning("tuning changed nothing: nothing that it found loses less on inputs held out")
    return found.weights


def _weights(parts: FloatParts, task: Task) -> dict[str, Activations]:
    return {path: parts.weight(linear) for path, linear in parts.find(task.linears).items()}


def _in_weights(progress: Progress | None, task: Task) -> Progress:
    """Return what tuning calls with its steps when all weights are quantised."""
    if progress is None:
        return lambda _done, _total: None
    weights = task.num_weights
    return lambda done, total: progress(weights + weights * done // total, 2 * weights)


@dataclass(frozen=True)
class Choices:
    """How each linear is quantised, and what that is expected to cost.

    Attributes:
        recipes: by path.
        options: what each block of rows might have become; empty where there was nothing to choose.
        blocks: these, by name.
        chosen: what they become.
        forecast: returns the loss of the model with all of them: measured, of models of up to
            ``MOST_TO_MEASURE`` weights; 0 where there was nothing to choose. Those of the options
            are of one at a time.
    """

    recipes: dict[str, Recipe]
    options: Options = field(default_factory=dict)
    blocks: Mapping[str, RowBlock] = field(default_factory=dict)
    chosen: Choice = field(default_factory=dict)
    forecast: Callable[[], float] = lambda: 0.0


def choose_schemes(parts: FloatParts, task: Task, plan: Scheme | Budget) -> Choices:
    """Return how each linear is quantised; with a budget, by what each row costs and helps."""
    if isinstance(plan, Scheme):
        return Choices(dict.fromkeys(task.linears, plan))
    most = int(plan.bits * task.num_weights)
    sensitivity = Sensitivity(parts, task.linears, task.inputs)
    options = sensitivity.options(plan.schemes)
    blocks = sensitivity.row_blocks

    def bits(choice: Choice) -> int:
        return row_blocks.stored_bits(choice, blocks, task.linears)

    choice = allocate(options, most, bits)
    is_small = task.num_weights <= MOST_TO_MEASURE
    if plan.refine and is_small:
        refined, _ = refine(choice, options, most, sensitivity.loss, bits)
        sensitivity.restore()
        choice = sensitivity.better(choice, refined)
    elif plan.refine:
        LOG.warning(
            "the choice is not checked by evolution, which is for up to %d weights in linears; "
            "here are %d",
            MOST_TO_MEASURE,
            task.num_weights,
        )
    forecast = partial(sensitivity.calibrated if is_small else sensitivity.together, choice)
    return Choices(row_blocks.recipes(choice, blocks), options, blocks, choice, forecast)


def costs_of(parts: FloatParts, task: Task, recipes: Mapping[str, Recipe]) -> Mapping[str, Floats]:
    """Return what errors of each output cost, (N,) by path: of models that have trellises."""
    if all(scheme.kind != "trellis" for scheme in schemes_in(recipes.values())):
        return {}
    return output_costs(parts, task.linears, task.inputs)


def round_plainly(options: LowBit) -> Quantized:
    """Return a quantiser that needs no texts: every weight goes to the nearest level.

    Raises:
        ConfigError: there is a budget, which takes a calibration to spend, or tuning.
    """
    plan = options.plan
    if isinstance(plan, Budget):
        raise ConfigError("a budget needs a checkpoint: random weights are not calibrated")
    if options.tune:
        raise ConfigError("tuning needs a checkpoint: random weights answer nothing worth keeping")
    return Quantized(lambda _path, weight: low_bit.quantize(weight, None, plan), str(plan))


def check(task: Task, plan: Scheme | Budget) -> None:
    """Refuse at once what cannot be done; warn of a short text.

    Raises:
        ConfigError: there is nothing to calibrate on, or the budget is too small.
    """
    check_budget(task.linears, plan)
    # The rows of an image are its patches: more than the pixels of most.
    tokens = sum(array.size for array in task.inputs)
    widest = max(columns for _, columns in task.linears.values())
    if not tokens:
        raise NothingToReadError
    if tokens < widest:
        LOG.warning(
            "%d tokens to calibrate on are few for linears of %d columns; give a longer text with "
            "--calib",
            tokens,
            widest,
        )


def check_budget(linears: Mapping[str, tuple[int, int]], plan: Scheme | Budget) -> None:
    """Refuse a budget that is too small for linears (N, K).

    Raises:
        ConfigError: it is.
    """
    if not isinstance(plan, Budget):
        return
    shapes, weights = linears.values(), sum(map(math.prod, linears.values()))
    least = sum(min(scheme.stored_bits(shape) for scheme in plan.schemes) for shape in shapes)
    if least > plan.bits * weights:
        enough = math.ceil(1000 * least / weights) / 1000  # rounded up: what is said is enough
        raise ConfigError(
            f"the budget is {plan.bits:g} bits a weight; the smallest of the schemes takes "
            f"{enough:.3f} with its scales: give as many, or larger groups"
        )


def check_tuning(task: Task) -> None:
    """Refuse a model that is too large to be tuned.

    Raises:
        ConfigError: it is.
    """
    if task.num_weights > MOST_TO_MEASURE:
        raise ConfigError(
            f"tuning is for up to {MOST_TO_MEASURE} weights in linears, and here are "
            f"{task.num_weights}: leave it out"
        )


def _key(task: Task, plan: Scheme | Budget) -> str:
    """Return what a result depends on, as a checksum."""
    facts = hashlib.sha256(f"{FORMAT} {plan!r} {task.variant}".encode())
    for file in sorted(task.checkpoint.path.glob("*.safetensors")):
        status = file.stat()
        facts.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    for array in task.inputs:
        facts.update(f"{array.dtype} {array.shape}".encode())
        facts.update(np.ascontiguousarray(array).tobytes())
    return facts.hexdigest()
