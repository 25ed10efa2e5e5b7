"""The part of ``edgellm.api`` that gives linears fewer bits than int8."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import encoder_api

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgellm.exporters.export_plan import ExportPlan
    from edgellm.exporters.low_bit_export import Budget, LowBit
    from edgellm.exporters.quantizers.low_bit import Scheme

PathLike = str | os.PathLike[str]

MOST_WRITTEN = 65_536
"""Tokens that a language model writes to be tuned on: stories260k does it in 15 s."""
WRITTEN_A_STEP = 128
"""Tokens: half of what a step learns from."""


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How the linears of a float checkpoint get fewer bits than int8.

    Args:
        name: "shiftadd" (ShiftAddLLM: sums of binary matrices with power-of-two scales), "codebook"
            (SqueezeLLM: any levels, and outliers apart), "trellis" (QTIP: codes that overlap), or
            "w2a8" to "w8a8" (a scale and a zero point for each group). With a budget also "group"
            for the latter, and "auto" for all.
        bits: of "shiftadd", 1 to 4, "codebook", 2 to 4, and "trellis", 1.5 to 4, whole or not;
            default 3.
        group_size: columns with a scale or levels of their own, a multiple of 8, of 64 for
            "codebook"; 0 for one a row; default 128, of "codebook" 128, 256 or 512 for 2, 3 or 4
            bits; "trellis" has none.
        outliers: of "codebook": share of the weights that are stored apart, 0 to 0.1.
        budget: bits a weight, with scales, of all linears together: each gets the number of bits,
            and with "auto" the scheme, that serves best.
        refine: check by evolution what the budget is spent on.
        tune: steps in which the codes of all linears are tuned together, by gradients; 0 for none.
    """

    name: str
    bits: float | None = None
    group_size: int | None = None
    outliers: float = 0.0
    budget: float | None = None
    refine: bool = True
    tune: int = 0


def plan_export(
    source: PathLike,
    quantization: Quantization,
    *,
    calibration: PathLike | None = None,
    revision: str | None = None,
) -> "ExportPlan":
    """Say what an export with a budget would choose, its sizes and losses; write nothing.

    Arguments and errors are those of ``export``.
    """
    from edgellm.exporters import build, encoder_build, encoder_source, export_plan
    from edgellm.exporters.checkpoint import Checkpoint
    from edgellm.exporters.download import find_checkpoint
    from edgellm.exporters.source import from_checkpoint
    from edgellm.runtime.calibration import load_calibration_text
    from edgellm.runtime.cpu import host
    from edgellm.runtime.limits import read_bandwidth

    directory = find_checkpoint(os.fspath(source), revision)
    checkpoint, file = Checkpoint(directory), None if calibration is None else Path(calibration)
    if encoder_api.is_encoder(directory / "config.json"):
        low_bit = encoder_api.low_bit_options(quantization, directory, file)
        encoder = encoder_source.from_checkpoint(checkpoint)
        task = encoder_build.low_bit_task(checkpoint, encoder, low_bit, directory)
        parameters = encoder.num_parameters
    else:
        low_bit = low_bit_options(quantization, load_calibration_text(file).content)
        model = from_checkpoint(checkpoint)
        task = build.low_bit_task(checkpoint, model, low_bit, directory)
        parameters = model.num_parameters
    plan = export_plan.plan_export(task, low_bit, parameters)
    return export_plan.with_speed(plan, read_bandwidth(host().physical_cores))


def low_bit_options(options: Quantization, text: str) -> "LowBit":
    """Return how linears are quantised, calibrated on a text.

    Raises:
        ConfigError: an option is unknown or out of range, or does not belong to the others.
    """
    from edgellm.exporters.low_bit_export import LowBit
    from edgellm.runtime.calibration import token_texts
    from edgellm.runtime.float_parts import run_each

    most = min(MOST_WRITTEN, WRITTEN_A_STEP * options.tune)
    return LowBit(
        make_plan(options),
        partial(token_texts, text),
        run_each,
        partial(_written, most=most),
        options.tune,
    )


def _written(
    directory: Path, examples: "Sequence[npt.NDArray[np.generic]]", most: int
) -> "Sequence[npt.NDArray[np.generic]]":
    """Return texts that a checkpoint writes; see ``write_texts``."""
    from edgellm.exporters import build
    from edgellm.runtime.written_texts import write_texts

    with tempfile.TemporaryDirectory(prefix="edgellm-writer-") as folder:
        build.export(directory, Path(folder) / "int8")
        return write_texts(Path(folder) / "int8", examples, most)


def make_plan(options: Quantization) -> "Scheme | Budget":
    """Return what linears get; see ``low_bit_options``."""
    from edgellm.exporters import low_bit_export

    return low_bit_export.make_plan(
        options.name,
        options.bits,
        options.group_size,
        options.budget,
        outliers=options.outliers,
        refine=options.refine,
    )
