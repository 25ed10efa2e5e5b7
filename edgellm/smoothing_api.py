"""The part of ``edgellm.api`` that scales channels for int8 activations."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import encoder_api
from edgellm.errors import ConfigError

if TYPE_CHECKING:
    from edgellm.exporters.smoothing import Smooth
    from edgellm.low_bit_api import Quantization

AUTO, ON, OFF = CHOICES = ("auto", "on", "off")
TOKENS = 2048
"""To measure on: of stories260k, loss and choice are those of four times as many."""
IMAGES = 256


def smooths(
    choice: str, calibration: Path | None, quantization: "Quantization | None", arithmetic: str
) -> bool:
    """Return whether an export is smoothed: with "auto", where it is calibrated and int8.

    Raises:
        ConfigError: the choice is unknown, or "on" does not go with the other options.
    """
    if choice not in CHOICES:
        raise ConfigError(f"smooth is {choice!r}; allowed are {', '.join(CHOICES)}")
    if arithmetic != "sound":
        if choice == ON:
            raise ConfigError("smooth is 'on'; the arithmetic 'ivit' smooths already: leave it out")
        return False
    return choice == ON or (choice == AUTO and quantization is None and calibration is not None)


def decoder_smooth(text: str, choice: str) -> "Smooth":
    """Return what a language model is smoothed with: a text to measure on."""
    from edgellm.exporters.smoothing import Smooth
    from edgellm.runtime.bundle_outputs import bundle_outputs
    from edgellm.runtime.calibration import token_texts
    from edgellm.runtime.float_parts import run_each

    inputs = partial(token_texts, text, most=TOKENS)
    return Smooth(inputs, run_each, bundle_outputs, required=choice == ON)


def encoder_smooth(source: Path, calibration: Path | None) -> "Smooth":
    """Return what an encoder is smoothed with: images, or lines of a text.

    Args:
        source: directory of the checkpoint.
        calibration: a folder, an IDX or .npz file of images, or a text; for texts there is a
            built-in one.
    """
    from edgellm.exporters.smoothing import Smooth
    from edgellm.runtime.bundle_outputs import bundle_outputs
    from edgellm.runtime.float_parts import run_each

    inputs = encoder_api.batched_inputs(source, calibration, IMAGES)
    return Smooth(inputs, run_each, bundle_outputs)
