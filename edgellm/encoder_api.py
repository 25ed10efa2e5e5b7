"""The part of ``edgellm.api`` that is for image and sentence encoders."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import ConfigError

if TYPE_CHECKING:
    from edgellm.bundle import Bundle
    from edgellm.exporters.encoder_build import EncoderOptions
    from edgellm.exporters.encoder_calibration import Array, Calibration
    from edgellm.exporters.encoder_source import EncoderSource
    from edgellm.exporters.low_bit_export import LowBit
    from edgellm.low_bit_api import Quantization
    from edgellm.runtime.encoder_evaluate import Accuracy, Correlation
    from edgellm.runtime.float_scorer import FloatEncoder

PathLike = str | os.PathLike[str]

MOST_CROSSED = 2048
"""Sentences made of others to quantise for."""
CROSSED_EACH = 8
"""Of them at most so many times those that are given."""
MOST_IMAGES = 4096
"""Images to tune on."""


def is_encoder(config: Path) -> bool:
    """Return whether a config.json is that of an image or sentence encoder."""
    from edgellm.config import JsonFields
    from edgellm.exporters.source import task_of
    from edgellm.runtime.encoder_contract import TASKS

    return task_of(JsonFields.read(config)) in TASKS


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What an encoder computes with.

    Args:
        name: "sound" (the default), or "ivit": the operators of I-ViT as published, with scales
            that are measured on inputs.
        calibration: inputs for "ivit": a folder of images, an IDX or .npz file of images, or a text
            whose lines are sentences.
        range_choice: of "ivit", where values are clipped: "minmax", "percentile" or "mse".
    """

    name: str = "sound"
    calibration: Path | None = None
    range_choice: str = "mse"


def encoder_options(
    source: Path | None, context: int | None, arithmetic: Arithmetic, *, force: bool
) -> "EncoderOptions":
    """Return the options of an encoder's export.

    Args:
        source: directory of the checkpoint; None for random weights.
        context: most tokens of a text.
        arithmetic: of the bundle.
        force: replace a bundle.

    Raises:
        ConfigError: the arithmetic is unknown, or its calibration is missing or not for it.
    """
    from edgellm.exporters.encoder_build import IVIT, SOUND, EncoderOptions

    if arithmetic.name == SOUND and arithmetic.calibration is not None:
        raise ConfigError(
            "an encoder in the sound arithmetic is not calibrated: each row has a scale of its "
            "own, found when it runs; leave the calibration out, or ask for arithmetic ivit"
        )
    return EncoderOptions(
        context=context,
        force=force,
        arithmetic=arithmetic.name,
        calibration=_calibration(source, arithmetic) if arithmetic.name == IVIT else None,
    )


def _calibration(source: Path | None, arithmetic: Arithmetic) -> "Calibration":
    from edgellm.exporters.encoder_calibration import Calibration
    from edgellm.exporters.quantizers.ranges import check_choice
    from edgellm.runtime.calibration_inputs import MOST_INPUTS
    from edgellm.runtime.float_parts import run_each

    check_choice(arithmetic.range_choice)
    path = arithmetic.calibration
    read = partial(_calibration_inputs, source, path, most=MOST_INPUTS)
    name = "random" if source is None else path.name if path else "built-in"
    return Calibration(name, arithmetic.range_choice, read, run_each)


def _calibration_inputs(
    source: Path | None, path: Path | None, model: "EncoderSource", most: int
) -> "Sequence[Array]":
    """Return what a model is calibrated on; see ``Arithmetic`` and ``encoder_options``."""
    from edgellm.exporters.architectures.bert import Model as TextEncoder
    from edgellm.runtime import calibration_inputs as inputs
    from edgellm.runtime.images import ImageReader
    from edgellm.runtime.tokenizer import Tokenizer

    if isinstance(model.model, TextEncoder):
        vocab_size = model.model.config.vocab_size
        if source is None:
            return inputs.random_texts(vocab_size, model.max_tokens)
        tokenizer = Tokenizer(source / "tokenizer.json", vocab_size)
        return inputs.read_texts(path, tokenizer, model.max_tokens, most)
    config = model.model.config
    if source is None:
        return inputs.random_images(config.image_height, config.image_width, config.num_channels)
    if path is None or model.processor is None:
        raise ConfigError(
            "it takes images like those that the model will see to calibrate on: a folder, an IDX "
            "or an .npz file of some hundred"
        )
    size = (config.image_height, config.image_width)
    reader = ImageReader(model.processor, size, config.num_channels)
    return inputs.read_images(path, reader, most)


def low_bit_options(
    quantization: "Quantization", source: Path | None, calibration: Path | None
) -> "LowBit":
    """Return how the linears of an encoder are quantised, calibrated on images or lines of a text.

    Args:
        quantization: how.
        source: directory of the checkpoint; None for random weights.
        calibration: a folder, an IDX or .npz file of images, or a text; for texts there is a
            built-in one.

    Raises:
        ConfigError: an option is unknown or out of range.
    """
    from edgellm.exporters.low_bit_export import LowBit
    from edgellm.low_bit_api import make_plan
    from edgellm.runtime.calibration_inputs import MOST_TO_QUANTIZE
    from edgellm.runtime.float_parts import run_each

    return LowBit(
        make_plan(quantization),
        batched_inputs(source, calibration, MOST_TO_QUANTIZE),
        run_each,
        partial(_further, source, calibration),
        quantization.tune,
        _crossed,
    )


def _crossed(directory: Path, inputs: "Sequence[Array]") -> "Sequence[Array]":
    """Return sentences that are made of those given; of images none."""
    from edgellm.exporters import encoder_source
    from edgellm.exporters.architectures.bert import Model as TextEncoder
    from edgellm.exporters.checkpoint import Checkpoint
    from edgellm.exporters.tuning_inputs import crossed

    model = encoder_source.from_checkpoint(Checkpoint(directory)).model
    if not isinstance(model, TextEncoder):
        return ()
    most = min(MOST_CROSSED, CROSSED_EACH * sum(map(len, inputs)))
    return crossed(inputs, most, model.config.vocab_size)


def _further(
    source: Path | None, calibration: Path | None, directory: Path, inputs: "Sequence[Array]"
) -> "Sequence[Array]":
    """Return more images to tune on; sentences are crossed already."""
    if inputs[0].ndim == 2:
        return ()
    return batched_inputs(source, calibration, MOST_IMAGES)(directory, 0, 0)


def batched_inputs(
    source: Path | None, calibration: Path | None, most: int
) -> "Callable[[Path, int, int], Sequence[Array]]":
    """Return a function that returns what the float model of a checkpoint is calibrated on.

    Arguments are those of ``low_bit_options``; at most so many images or lines.
    """
    from edgellm.exporters import encoder_source
    from edgellm.exporters.checkpoint import Checkpoint
    from edgellm.exporters.encoder_calibration import batches

    def inputs(directory: Path, _vocab_size: int, _longest: int) -> "Sequence[Array]":
        model = encoder_source.from_checkpoint(Checkpoint(directory))
        return batches(model, _calibration_inputs(source, calibration, model, most))

    return inputs


def require_defaults(layout: str, head_bits: int, kv_bits: int) -> None:
    """Refuse a choice of what encoders have none of.

    Raises:
        ConfigError: a layout of ternary weights, bits of a logits head or of a key/value cache.
    """
    if layout != "2bit":
        raise ConfigError(
            f"layout is {layout!r}; it is for ternary weights, and encoders have none"
        )
    if head_bits != 8:
        raise ConfigError(f"head bits are {head_bits}; encoders have no logits head, only 8")
    if kv_bits != 8:
        raise ConfigError(f"cache bits are {kv_bits}; encoders have no key/value cache, only 8")


def require_sound(arithmetic: str) -> None:
    """Refuse another arithmetic for a language model.

    Raises:
        ConfigError: it is not the default.
    """
    if arithmetic != "sound":
        raise ConfigError(f"arithmetic is {arithmetic!r}; language models have 'sound' alone")


def export_encoder(
    directory: Path,
    output: Path,
    options: "EncoderOptions",
    progress: Callable[[int, int], object] | None,
) -> "Bundle":
    """Export an encoder, with golden cases computed by the reference."""
    from edgellm.exporters import encoder_build
    from edgellm.runtime import encoder_golden

    return encoder_build.export(directory, output, options, encoder_golden.record, progress)


@dataclass(frozen=True, kw_only=True)
class EncoderEvaluateOptions:
    """How to score an encoder.

    Args:
        float_checkpoint: the model is a checkpoint, to be computed in float32 by onnxruntime.
        context: cut texts after so many tokens; default: the model's.
        limit: take no more images or pairs.
        threads: default: one for each core.
    """

    float_checkpoint: bool = False
    context: int | None = None
    limit: int | None = None
    threads: int | None = None


def evaluate_images(
    model: PathLike,
    images: PathLike,
    labels: PathLike,
    *,
    options: EncoderEvaluateOptions = EncoderEvaluateOptions(),
    progress: Callable[[int], object] = lambda _: None,
) -> "Accuracy":
    """Count how many images get their label.

    Args:
        model: a bundle, or a checkpoint if ``options.float_checkpoint``.
        images: an IDX file, or a folder.
        labels: an IDX file, or a text of lines ``name label``.
        options: what to score, and how much.
        progress: called with the number of images of each batch.

    Raises:
        ConfigError: images or labels cannot be read or do not belong together.
        BundleError, CheckpointError: the model is damaged.
    """
    from edgellm.runtime import encoder_evaluate as scoring
    from edgellm.runtime.classifier import ImageClassifier

    with (
        _float_bundle(model, options) as (path, scorer),
        ImageClassifier(path, threads=options.threads) as classifier,
    ):
        data = scoring.read_labelled_images(
            Path(images), Path(labels), classifier.labels, options.limit
        )
        if scorer is None:
            return scoring.score_images(classifier.logits, data, progress)
        return scoring.score_images(
            lambda batch: scorer.logits(classifier.pixels(batch)), data, progress
        )


def evaluate_pairs(
    model: PathLike,
    pairs: PathLike,
    *,
    options: EncoderEvaluateOptions = EncoderEvaluateOptions(),
) -> "Correlation":
    """Return the Spearman correlation of cosines with the scores of a file of sentence pairs.

    Arguments and errors are those of ``evaluate_images``.
    """
    from edgellm.runtime import encoder_evaluate as scoring
    from edgellm.runtime.sentence_encoder import SentenceEncoder

    data = scoring.read_pairs(Path(pairs), options.limit)
    with (
        _float_bundle(model, options) as (path, scorer),
        SentenceEncoder(path, threads=options.threads, context=options.context) as encoder,
    ):
        if scorer is None:
            return scoring.score_pairs(encoder.embed, data)
        return scoring.score_pairs(
            lambda texts: scorer.embed([encoder.encode(text)[0] for text in texts]), data
        )


@contextmanager
def _float_bundle(
    model: PathLike, options: EncoderEvaluateOptions
) -> "Iterator[tuple[PathLike, FloatEncoder | None]]":
    """Yield a bundle that reads the inputs, and for a checkpoint its float32 model."""
    if not options.float_checkpoint:
        yield model, None
        return
    from edgellm.exporters import encoder_build
    from edgellm.runtime.float_scorer import FloatEncoder
    from edgellm.runtime.start import checked_threads

    with tempfile.TemporaryDirectory(prefix="edgellm-float-") as folder:
        graph = encoder_build.float_model(Path(model), Path(folder) / "float")
        encoder_build.export(Path(model), Path(folder) / "bundle")
        yield Path(folder) / "bundle", FloatEncoder(graph, threads=checked_threads(options.threads))
