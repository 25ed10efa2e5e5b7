"""What edgellm does, in Python: exporters and runtime composed, with the modules beside it.

Each function imports what it needs when it is called, so that importing this module is cheap.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm import encoder_api, smoothing_api
from edgellm.device_api import Subject as Subject
from edgellm.device_api import simulate as simulate
from edgellm.errors import ConfigError, VerificationError
from edgellm.loading import load as load
from edgellm.low_bit_api import Quantization as Quantization
from edgellm.low_bit_api import low_bit_options
from edgellm.low_bit_api import plan_export as plan_export

if TYPE_CHECKING:
    from edgellm.bundle import Bundle
    from edgellm.runtime.bench import BenchRequest, BenchResult
    from edgellm.runtime.doctor import Finding
    from edgellm.runtime.evaluate import Evaluation
    from edgellm.runtime.inspection import Inspection
    from edgellm.runtime.kernels._compiler import Progress
    from edgellm.runtime.tuner import TuneResult
    from edgellm.runtime.verify import Report

PathLike = str | os.PathLike[str]


def export(  # noqa: PLR0913 (the options of the command)
    source: PathLike,
    output: PathLike,
    *,
    context: int | None = None,
    revision: str | None = None,
    calibration: PathLike | None = None,
    quantization: Quantization | None = None,
    layout: str = "2bit",
    head_bits: int = 8,
    kv_bits: int = 8,
    arithmetic: str = "sound",
    calibration_range: str = "mse",
    smooth: str = "auto",
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> "Bundle":
    """Turn a checkpoint into a bundle, with golden cases computed by the reference.

    Args:
        source: a directory in the layout of Hugging Face, or a name such as "org/model", which is
            downloaded (that needs the extra ``hub``).
        output: the bundle's directory; nothing is left there if the export fails.
        context: most tokens of a text; default: the model's own, up to 4096.
        revision: which version to download: branch, tag or commit.
        calibration: a text to measure the keys on, and to quantise for, as ``evaluate`` reads it;
            default: a small built-in one. For arithmetic "ivit" images or a text, see
            ``encoder_api.Arithmetic``.
        quantization: fewer bits for the linears of a float checkpoint; default: int8.
        layout: how ternary weights are packed: "2bit"; "5trit" (five a byte), which takes four
            fifths of the memory and is for processors with AVX-512 VBMI; or "lookup", for those
            without dot products (AVX2, Raspberry Pi 3 and 4). Any of them runs everywhere.
        head_bits: of a weight of a language model's logits head, 8 or 4; 4 loses against the
            checkpoint. A tied embedding keeps its 8 bits, in a table of its own.
        kv_bits: of a number in a language model's key/value cache, 8 or 4; 4 halves it, and loses.
        arithmetic: of an encoder: "sound", or "ivit" as I-ViT published it.
        calibration_range: of "ivit", where values are clipped: "minmax", "percentile" or "mse".
        smooth: scale channels so that int8 activations lose less, where that is measured to help:
            "on", "off", or "auto" (int8 exports with a calibration).
        force: replace an existing bundle.
        progress: called with the parameters done and the total.

    Raises:
        CheckpointError: the checkpoint is damaged or not what its config says.
        UnsupportedModelError: no exporter here knows it.
        ExportError: the output exists, or a value is out of the range of the operators.
        ConfigError: an option is out of range, there is no such source, or no text in the file to
            calibrate on.
    """
    from edgellm.exporters import build, export_options
    from edgellm.exporters.download import find_checkpoint, is_hub_name
    from edgellm.runtime import golden
    from edgellm.runtime.calibration import key_offsets, load_calibration_text
    from edgellm.runtime.tokenizer import check_tokenizer

    name = os.fspath(source)
    origin = name if is_hub_name(name) else ""
    directory = find_checkpoint(name, revision)
    is_encoder = encoder_api.is_encoder(directory / "config.json")  # refuses what is not supported
    check_tokenizer(directory)
    file = None if calibration is None else Path(calibration)
    is_smoothed = smoothing_api.smooths(smooth, file, quantization, arithmetic)
    if is_encoder:
        encoder_api.require_defaults(layout, head_bits, kv_bits)
        chosen = encoder_api.Arithmetic(
            name=arithmetic,
            calibration=None if quantization or is_smoothed else file,
            range_choice=calibration_range,
        )
        encoder = encoder_api.encoder_options(directory, context, chosen, force=force)
        if quantization is not None:
            low_bit = encoder_api.low_bit_options(quantization, directory, file)
            encoder = replace(encoder, low_bit=low_bit)
        if is_smoothed:
            encoder = replace(encoder, smooth=smoothing_api.encoder_smooth(directory, file))
        encoder = replace(encoder, source=origin, revision=revision or "")
        return encoder_api.export_encoder(directory, Path(output), encoder, progress)
    encoder_api.require_sound(arithmetic)
    text = load_calibration_text(file)
    options = export_options.ExportOptions(
        context=context,
        force=force,
        layout=layout,
        head_bits=head_bits,
        kv_bits=kv_bits,
        source=origin,
        revision=revision or "",
        low_bit=None if quantization is None else low_bit_options(quantization, text.content),
        smooth=smoothing_api.decoder_smooth(text.content, smooth) if is_smoothed else None,
    )
    measured = build.Calibration(text.name, lambda path: key_offsets(path, text.content))
    return build.export(directory, Path(output), options, golden.record, progress, measured)


def export_random(  # noqa: PLR0913 (the options of the command)
    config: PathLike,
    output: PathLike,
    *,
    context: int | None = None,
    quantization: Quantization | None = None,
    layout: str = "2bit",
    head_bits: int = 8,
    kv_bits: int = 8,
    arithmetic: str = "sound",
    calibration_range: str = "mse",
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> "Bundle":
    """Make a bundle of random weights in the shape of a config.json, to measure without downloads.

    Arguments and errors are those of ``export``.
    """
    from edgellm.exporters import build, encoder_build
    from edgellm.exporters.export_options import ExportOptions
    from edgellm.runtime import encoder_golden, golden

    if encoder_api.is_encoder(Path(config)):
        encoder_api.require_defaults(layout, head_bits, kv_bits)
        chosen = encoder_api.Arithmetic(name=arithmetic, range_choice=calibration_range)
        encoder = encoder_api.encoder_options(None, context, chosen, force=force)
        if quantization is not None:
            encoder = replace(
                encoder, low_bit=encoder_api.low_bit_options(quantization, None, None)
            )
        record = encoder_golden.record
        return encoder_build.export_random(Path(config), Path(output), encoder, record, progress)
    encoder_api.require_sound(arithmetic)
    low_bit = None if quantization is None else low_bit_options(quantization, "")
    options = ExportOptions(
        context=context,
        force=force,
        low_bit=low_bit,
        layout=layout,
        head_bits=head_bits,
        kv_bits=kv_bits,
    )
    return build.export_random(Path(config), Path(output), options, golden.record, progress)


def verify(
    path: PathLike,
    *,
    executors: Sequence[str] | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> "Report":
    """Prove that a bundle computes here what it computed where it was exported.

    Args:
        path: the bundle.
        executors: of "reference", "onnxruntime", "numba"; default: all.
        threads: for those that use several; default: one for each core.
        progress: called with 1 after each step.

    Raises:
        VerificationError: something differs; the message names the first differing operator.
        BundleError: the bundle is damaged.
    """
    report = check(path, executors=executors, threads=threads, progress=progress)
    if not report.passed:
        raise VerificationError(report.first_failure)
    return report


def check(
    path: PathLike,
    *,
    executors: Sequence[str] | None = None,
    threads: int | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> "Report":
    """Do what ``verify`` does, but report differences instead of raising them."""
    from edgellm.runtime.start import checked_threads
    from edgellm.runtime.verify import check_bundle

    return check_bundle(
        path, executors=executors, threads=checked_threads(threads), progress=progress
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How to score a text.

    Args:
        float_checkpoint: the model is a checkpoint, to be computed in float32 by onnxruntime.
        context: cut texts after so many tokens; default: the model's.
        limit_bytes: take no further story after so many bytes.
        threads: default: one for each core.
    """

    float_checkpoint: bool = False
    context: int | None = None
    limit_bytes: int | None = None
    threads: int | None = None


def evaluate(
    model: PathLike,
    text: PathLike,
    *,
    options: EvaluateOptions = EvaluateOptions(),
    progress: Callable[[int], object] = lambda _: None,
) -> "Evaluation":
    """Score a text: nats per token and bits per byte.

    Args:
        model: a bundle, or a checkpoint if ``options.float_checkpoint``.
        text: a UTF-8 file, plain or .gz; ``<|endoftext|>`` separates its stories.
        options: what to score, and how much.
        progress: called with the number of tokens of each text that was scored.

    Raises:
        ConfigError: the text cannot be read, or an option is out of range.
        BundleError, CheckpointError: the model is damaged.
    """
    if options.float_checkpoint:
        return _evaluate_float(Path(model), Path(text), options, progress)
    from edgellm.runtime import evaluate as scoring

    with load(
        model, threads=options.threads, context=options.context, task="text-generation"
    ) as loaded:
        tokenizer = loaded.tokenizer
        context = loaded.engine.context_length
        texts = scoring.read_texts(Path(text), tokenizer, context, options.limit_bytes)
        scorer = scoring.SessionScorer(loaded.session)
        return scoring.evaluate(scorer, tokenizer, texts, progress)


def _evaluate_float(
    source: Path, text: Path, options: EvaluateOptions, progress: Callable[[int], object]
) -> "Evaluation":
    from edgellm.exporters import build
    from edgellm.exporters.checkpoint import Checkpoint
    from edgellm.exporters.export_options import DEFAULT_CONTEXT
    from edgellm.exporters.source import from_checkpoint
    from edgellm.runtime import evaluate as scoring
    from edgellm.runtime.float_scorer import FloatScorer
    from edgellm.runtime.start import checked_threads
    from edgellm.runtime.tokenizer import Tokenizer

    config = from_checkpoint(Checkpoint(source)).model.config
    longest = min(config.max_position_embeddings, DEFAULT_CONTEXT)
    context = longest if options.context is None else options.context
    if context > longest:
        raise ConfigError(f"context is {context}; this checkpoint allows up to {longest}")
    tokenizer = Tokenizer(source / "tokenizer.json", config.vocab_size)
    texts = scoring.read_texts(text, tokenizer, context, options.limit_bytes)
    with tempfile.TemporaryDirectory(prefix="edgellm-float-") as folder:
        model = build.float_model(source, folder)
        scorer = FloatScorer(model, threads=checked_threads(options.threads))
        return scoring.evaluate(scorer, tokenizer, texts, progress)


def bench(
    path: PathLike,
    request: "BenchRequest | None" = None,
    *,
    progress: Callable[[str], object] = lambda _: None,
) -> "BenchResult":
    """Measure a bundle on this machine: rates, start-up, memory, bandwidth.

    Args:
        path: the bundle.
        request: lengths, threads and repetitions.
        progress: called with a line before each measurement.

    Raises:
        BundleError: the bundle is damaged.
        ConfigError: a length does not fit in the context, or threads are out of range.
    """
    from edgellm.runtime.bench import BenchRequest
    from edgellm.runtime.bench import bench as measure

    return measure(path, request or BenchRequest(), progress)


def inspect(path: PathLike) -> "Inspection":
    """Describe a bundle: manifest, sizes, operators, tensors.

    Raises:
        BundleError: the bundle is damaged.
    """
    from edgellm.runtime.inspection import inspect_bundle

    return inspect_bundle(path)


def draw_bit_map(inspection: "Inspection", picture: PathLike) -> None:
    """Write a picture (PNG) of the bits of each linear of a bundle that was inspected.

    Raises:
        ConfigError: the bundle has no linear, or the file cannot be written.
        MissingDependencyError: Pillow is not installed.
    """
    from edgellm.runtime.bit_map import draw

    draw(inspection.linears, Path(picture))


def warmup(
    path: PathLike,
    *,
    threads: int | None = None,
    context: int | None = None,
    progress: "Progress" = lambda _done, _total: None,
) -> Path:
    """Compile the kernels of a bundle for this processor, keep them, and run each once.

    Arguments are those of ``load``.

    Returns:
        The folder where compiled kernels are kept.
    """
    from edgellm.runtime.kernels._objects import cache_directory
    from edgellm.runtime.model import Model

    with load(path, threads=threads, context=context, progress=progress) as model:
        if isinstance(model, Model):
            model.logits([0])
    return cache_directory()


def tune(
    path: PathLike,
    *,
    context: int | None = None,
    compiled: "Progress" = lambda _done, _total: None,
    progress: Callable[[str], object] = lambda _: None,
) -> "TuneResult":
    """Find out which kernels and how many threads run a bundle fastest here, and remember it.

    ``load`` and all commands use what was found; the results stay the same. It takes 5 s, and the
    compiling of all kernels before.

    Args:
        path: the bundle.
        context: most tokens of a text; default: the bundle's.
        compiled: called with the number of kernels that are compiled, and of those that have to be.
        progress: called with a line before each measurement.

    Raises:
        BundleError: the bundle is damaged.
        NotEnoughMemoryError: the key/value cache does not fit in the free memory.
        ConfigError: context is out of range, or EDGELLM_KERNELS has chosen the kernels.
    """
    from edgellm.bundle import open_bundle
    from edgellm.runtime import tuner
    from edgellm.runtime.start import checked_context, load_placed

    bundle = open_bundle(path)
    context_length = checked_context(bundle.manifest, context)
    plan = load_placed(bundle, context_length)
    tuner.compile_variants(plan, compiled)
    return tuner.tune(plan, context_length=context_length, progress=progress)


def examine(*, measure: bool = False) -> "list[Finding]":
    """Examine this machine for what edgellm needs; ``measure`` its limits, too (some seconds)."""
    from edgellm.runtime.doctor import examine as look

    return look(measure=measure)
