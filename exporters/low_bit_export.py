"""Quantise the linears of a checkpoint on calibration texts, so that it can be interrupted."""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from edgellm.errors import ConfigError, ExportError
from edgellm.exporters.allocation import Options, allocate, refine
from edgellm.exporters.calibrated import Calibrated, Inputs
from edgellm.exporters.checkpoint import Checkpoint
from edgellm.exporters.float_parts import FloatParts, Run
from edgellm.exporters.lowering.stored_weights import LinearQuantizer
from edgellm.exporters.progress import Progress
from edgellm.exporters.quantizers import low_bit
from edgellm.exporters.quantizers.grids import Floats
from edgellm.exporters.quantizers.low_bit import LowBitLinear, Scheme
from edgellm.exporters.sensitivity import Sensitivity

LOG = logging.getLogger(__name__)

WORK_SUFFIX = ".quantizing"
KEY = "key.txt"
SUFFIX = ".npz"
SCHEMES = "schemes.json"
MOST_BITS = 16
MOST_TO_REFINE = 32_000_000
"""Weights of the linears: evolution runs the whole model some 150 times."""

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
    name: str, bits: int | None, group_size: int, budget: float | None, *, refine: bool
) -> Scheme | Budget:
    """Return what options ask for.

    Args:
        name: of a scheme as for ``Scheme.parse``; with a budget a family of them, or "auto".
        bits: of "shiftadd".
        group_size: columns with one scale, ROW for all of a row.
        budget: bits a weight of all linears together.
        refine: check by evolution what the budget is spent on.

    Raises:
        ConfigError: an option is unknown or out of range, or does not belong to the others.
    """
    if budget is None:
        if name in low_bit.FAMILIES and name != "shiftadd":
            raise ConfigError(f"quant {name!r} needs a budget: bits a weight, with scales")
        return Scheme.parse(name, bits, group_size)
    if not 0 < budget <= MOST_BITS:  # also refuses what is no number
        raise ConfigError(f"budget is {budget}; allowed are more than 0 to {MOST_BITS} bits")
    if name not in low_bit.FAMILIES or bits is not None:
        known = ", ".join(low_bit.FAMILIES)
        raise ConfigError(f"a budget chooses the bits: give quant as one of {known}, and no bits")
    return Budget(budget, low_bit.schemes_of(name, group_size), refine)


@dataclass(frozen=True)
class LowBit:
    """What ``--quant`` asks for.

    Attributes:
        plan: how linears are quantised, all of them or each as it is found best.
        inputs: (directory of the checkpoint, size of its vocabulary, longest text) -> what to
            calibrate on, such as the token ids of each text.
        run: computes a part of the float model.
    """

    plan: Scheme | Budget
    inputs: Callable[[Path, int, int], Inputs]
    run: Run


@dataclass(frozen=True)
class Task:
    """A checkpoint that is to be quantised.

    Attributes:
        checkpoint: where the weights come from.
        linears: (N, K) of the linears, by path.
        inputs: to calibrate on.
        work: a directory for intermediate results; the float model takes 4 bytes a parameter there.
        write_float_model: writes that model.
    """

    checkpoint: Checkpoint
    linears: Mapping[str, tuple[int, int]]
    inputs: Inputs
    work: Path
    write_float_model: WriteFloatModel

    @property
    def num_weights(self) -> int:
        """Weights of the linears: what the calibration reports as progress."""
        return sum(rows * columns for rows, columns in self.linears.values())


class Results:
    """The results of linears, on disk as they come.

    A run that is interrupted leaves them, and the next with the same model, texts and scheme goes
    on from there; anything else begins anew. A directory that is not of such a run is left alone.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self._directory = directory
        if directory.exists() and not (directory / KEY).is_file():
            raise ExportError(
                f"{directory}: is in the way of intermediate results and was not made by an "
                "export; move it away, or choose another output"
            )
        if directory.exists() and (directory / KEY).read_text(encoding="utf-8") != key:
            shutil.rmtree(directory)
        elif any(directory.glob(f"*{SUFFIX}")):
            LOG.warning("%s: going on from an interrupted export", directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / KEY).write_text(key, encoding="utf-8")

    def save(self, path: str, linear: LowBitLinear) -> None:
        """Store the result of a linear."""
        target = self._directory / f"{path}{SUFFIX}"
        part = target.with_suffix(".part")
        facts = np.array([linear.op_type, *(f"{k}={v}" for k, v in linear.attributes.items())])
        with part.open("wb") as stream:
            arrays = {"facts": facts, "unit": linear.unit, **linear.tensors}
            np.savez(stream, allow_pickle=False, **arrays)
        part.replace(target)

    def save_schemes(self, schemes: Mapping[str, Scheme]) -> None:
        """Store which scheme each linear gets."""
        part = self._directory / f"{SCHEMES}.part"
        part.write_text(json.dumps({path: asdict(one) for path, one in schemes.items()}))
        part.replace(self._directory / SCHEMES)

    def schemes(self) -> dict[str, Scheme]:
        """Return the stored schemes, none if there are none."""
        file = self._directory / SCHEMES
        if not file.is_file():
            return {}
        return {path: Scheme(**facts) for path, facts in json.loads(file.read_text()).items()}

    def load(self, path: str) -> LowBitLinear | None:
        """Return a stored result, None if there is none."""
        target = self._directory / f"{path}{SUFFIX}"
        if not target.is_file():
            return None
        with np.load(target, allow_pickle=False) as stored:
            op_type, *pairs = stored["facts"].tolist()
            attributes = {name: int(value) for name, value in (pair.split("=") for pair in pairs)}
            tensors = {name: stored[name] for name in stored.files if name not in ("facts", "unit")}
            return LowBitLinear(op_type, tensors, attributes, stored["unit"])


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
        progress: called with the parameters of linears done, and their number.

    Returns:
        What to export with; it reads the results in ``work``, which may go afterwards.

    Raises:
        ConfigError: there is nothing to calibrate on, or the budget is too small.
        ExportError: ``work`` exists and is not of an earlier export.
    """
    _check_inputs(task)
    results = Results(task.work, _key(task, options.plan))
    done = 0

    def save(path: str, linear: LowBitLinear) -> None:
        nonlocal done
        results.save(path, linear)
        done += math.prod(task.linears[path])
        if progress is not None:
            progress(done, task.num_weights)

    parts = FloatParts(task.write_float_model(task.work / "float"), options.run)
    schemes = results.schemes()
    if not schemes:
        schemes = choose_schemes(parts, task, options.plan).schemes
        results.save_schemes(schemes)
    Calibrated(parts, task.inputs, schemes).run(save, results.load)
    shutil.rmtree(task.work / "float")

    def find(path: str, _weight: Floats) -> LowBitLinear | None:
        linear = results.load(path)
        if linear is None and path in task.linears:
            raise ExportError(f"{path}: the calibration did not reach this linear")
        return linear

    return Quantized(find, low_bit.describe(schemes.values()))


@dataclass(frozen=True)
class Choices:
    """The scheme of each linear, and what it is expected to cost.

    Attributes:
        schemes: by path.
        options: what each linear might have become; empty where there was nothing to choose.
        loss: of the model with all of them: expected, or measured with each rounded for itself;
            0 where there was nothing to choose.
    """

    schemes: dict[str, Scheme]
    options: Options = field(default_factory=dict)
    loss: float = 0.0


def choose_schemes(parts: FloatParts, task: Task, plan: Scheme | Budget) -> Choices:
    """Return the scheme of each linear; with a budget, by what each costs and helps."""
    if isinstance(plan, Scheme):
        return Choices(dict.fromkeys(task.linears, plan))
    most = int(plan.bits * task.num_weights)
    sensitivity = Sensitivity(parts, task.linears, task.inputs)
    options = sensitivity.options(plan.schemes)
    choice = allocate(options, most)
    loss = sum(option.loss for option in choice.values())
    if plan.refine and task.num_weights <= MOST_TO_REFINE:
        choice, loss = refine(choice, options, most, sensitivity.loss)
        sensitivity.restore()
    elif plan.refine:
        LOG.warning("%d weights are too many to check the choice by evolution", task.num_weights)
    return Choices({path: option.scheme for path, option in choice.items()}, options, loss)


def round_plainly(plan: Scheme | Budget) -> Quantized:
    """Return a quantiser that needs no texts: every weight goes to the nearest level.

    Raises:
        ConfigError: there is a budget, which takes a calibration to spend.
    """
    if isinstance(plan, Budget):
        raise ConfigError("a budget needs a checkpoint: random weights are not calibrated")
    return Quantized(lambda _path, weight: low_bit.quantize(weight, None, plan), str(plan))


def _check_inputs(task: Task) -> None:
    # The rows of an image are its patches: more than the pixels of most.
    tokens = sum(array.size for array in task.inputs)
    widest = max(columns for _, columns in task.linears.values())
    if not tokens:
        raise ConfigError("the text to calibrate on has no token of this model")
    if tokens < widest:
        LOG.warning(
            "%d tokens to calibrate on are few for linears of %d columns; give a longer text with "
            "--calib",
            tokens,
            widest,
        )


def _key(task: Task, plan: Scheme | Budget) -> str:
    """Return what a result depends on, as a checksum."""
    facts = hashlib.sha256(repr(plan).encode())
    for file in sorted(task.checkpoint.path.glob("*.safetensors")):
        status = file.stat()
        facts.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    for array in task.inputs:
        facts.update(f"{array.dtype} {array.shape}".encode())
        facts.update(np.ascontiguousarray(array).tobytes())
    return facts.hexdigest()
