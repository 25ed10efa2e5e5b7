"""The part of ``edgellm.api`` that is for image and sentence encoders."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import ConfigError

if TYPE_CHECKING:
    from edgellm.bundle import Bundle
    from edgellm.exporters.encoder_build import EncoderOptions
    from edgellm.runtime.encoder_evaluate import Accuracy, Correlation
    from edgellm.runtime.float_scorer import FloatEncoder

PathLike = str | os.PathLike[str]


def is_encoder(config: Path) -> bool:
    """Return whether a config.json is that of an image or sentence encoder."""
    from edgellm.config import JsonFields
    from edgellm.exporters.source import task_of
    from edgellm.runtime.encoder_contract import TASKS

    return task_of(JsonFields.read(config)) in TASKS


def encoder_options(context: int | None, force: bool) -> "EncoderOptions":
    """Return the options of an encoder's export."""
    from edgellm.exporters.encoder_build import EncoderOptions

    return EncoderOptions(context=context, force=force)


def require_default_layout(layout: str) -> None:
    """Refuse a layout of ternary weights, which encoders have none of.

    Raises:
        ConfigError: it is not the default.
    """
    if layout != "2bit":
        raise ConfigError(f"layout is {layout!r}; it is for ternary weights, and encoders are int8")


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
    from edgellm.runtime.model import checked_threads

    with tempfile.TemporaryDirectory(prefix="edgellm-float-") as folder:
        graph = encoder_build.float_model(Path(model), Path(folder) / "float")
        encoder_build.export(Path(model), Path(folder) / "bundle")
        yield Path(folder) / "bundle", FloatEncoder(graph, threads=checked_threads(options.threads))
