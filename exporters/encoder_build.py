"""The export of an encoder as one recipe: images or sentences in, integers out."""

import json
import logging
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from edgellm.bundle import GRAPH, WEIGHTS, Bundle, Manifest
from edgellm.bundle_writer import BundleWriter
from edgellm.config import JsonFields
from edgellm.errors import ConfigError
from edgellm.exporters import encoder_source, model_card, tokenizer_files
from edgellm.exporters.architectures.bert import Model as TextEncoder
from edgellm.exporters.checkpoint import Checkpoint
from edgellm.exporters.encoder_calibration import Calibration, measure_activations, render_scales
from edgellm.exporters.encoder_source import EncoderSource
from edgellm.exporters.finish import Golden, finish, write_float_graph
from edgellm.exporters.float_parts import FloatParts
from edgellm.exporters.graph import GraphBuilder
from edgellm.exporters.low_bit_export import (
    WORK_SUFFIX,
    LowBit,
    Quantized,
    Task,
    check_budget,
    quantize_checkpoint,
    round_plainly,
)
from edgellm.exporters.lowering.encoder_float32 import Float32EncoderLowering
from edgellm.exporters.lowering.encoder_integer import IntegerEncoderLowering
from edgellm.exporters.lowering.encoder_inventory import EncoderInventory
from edgellm.exporters.lowering.encoder_ivit import IvitEncoderLowering
from edgellm.exporters.lowering.smoothing_sites import EncoderSites
from edgellm.exporters.progress import Progress, ReportingWeights, part_of
from edgellm.exporters.smoothed_weights import ChannelScales, SmoothedWeights
from edgellm.exporters.smoothing import (
    WORTH,
    WORTH_OF_FEW_BITS,
    Outputs,
    Smooth,
    Smoothing,
    SmoothingTask,
    find_smoothing,
)
from edgellm.image_processor import FILE as PROCESSOR

LABELS = "labels.json"
SCALES = "activation_scales.json"
SOUND, IVIT = ARITHMETICS = ("sound", "ivit")
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderOptions:
    """What a user may choose.

    Attributes:
        context: the most tokens of a text; None: the model's own.
        arithmetic: one of ``ARITHMETICS``.
        calibration: what the scales of I-ViT's arithmetic are measured on.
        force: replace an existing bundle.
        source: where the checkpoint comes from, if not from a directory.
        revision: of the source.
        seed: of random weights.
        low_bit: how linears get fewer bits than int8; only in the sound arithmetic.
        smooth: finds scales of channels for int8 activations.
    """

    context: int | None = None
    arithmetic: str = SOUND
    calibration: Calibration | None = None
    force: bool = False
    source: str = ""
    revision: str = ""
    seed: int = 0
    low_bit: LowBit | None = None
    smooth: Smooth | None = None

    def __post_init__(self) -> None:
        """Refuse an arithmetic that there is none of, and what does not go together."""
        if self.arithmetic not in ARITHMETICS:
            allowed = ", ".join(ARITHMETICS)
            raise ConfigError(f"arithmetic is {self.arithmetic!r}; allowed are {allowed}")
        if self.low_bit is not None and self.arithmetic != SOUND:
            raise ConfigError(f"arithmetic {self.arithmetic!r} has int8 weights: leave out --quant")


DEFAULT_OPTIONS = EncoderOptions()


def export(
    path: str | Path,
    output: str | Path,
    options: EncoderOptions = DEFAULT_OPTIONS,
    golden: Golden | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Export the checkpoint of an encoder to a bundle.

    Args:
        path: a directory with config.json, safetensors, and preprocessor_config.json or
            tokenizer.json.
        output: the bundle to make; nothing is left there if the export fails.
        options: see EncoderOptions.
        golden: called with the directory of the new bundle, to write golden cases.
        progress: called with the parameters done and the total.

    Raises:
        CheckpointError: the checkpoint is damaged or not what its config says.
        UnsupportedModelError: it needs something that no exporter or operator here has.
        ExportError: the output exists, or a value is out of the range of the operators.
        ConfigError: an option is out of range.
    """
    checkpoint = Checkpoint(path)
    model = encoder_source.from_checkpoint(checkpoint)
    if options.low_bit is not None:  # before the work of smoothing
        check_budget(low_bit_linears(model), options.low_bit.plan)
    with BundleWriter(output, force=options.force) as writer:
        if isinstance(model.model, TextEncoder):
            tokenizer_files.copy_tokenizer(checkpoint.path, writer.path)
        else:
            for name in ("config.json", PROCESSOR):
                shutil.copyfile(checkpoint.path / name, writer.path / name)
        smoothing = None
        if options.smooth is not None:
            model, smoothing = _smooth(checkpoint, model, options, options.smooth, writer.path)
        work = Path(output).with_name(Path(output).name + WORK_SUFFIX)
        quantized = None
        if options.low_bit is not None:
            task = low_bit_task(checkpoint, model, options.low_bit, work)
            task = replace(task, variant=smoothing.label if smoothing else "")
            before = part_of(progress, 0, model.num_parameters)
            quantized = quantize_checkpoint(task, options.low_bit, before)
            progress = part_of(progress, options.low_bit.work(task), 0)
        manifest = replace(
            _write_graph(model, writer, options, progress, quantized),
            source=options.source or checkpoint.path.resolve().name,
            licence=model_card.read_licence(checkpoint.path),
            smoothing=smoothing.label if smoothing else "",
        )
        bundle = finish(writer, manifest, golden)
    if options.low_bit is not None:
        shutil.rmtree(work)
    return bundle


def _smooth(
    checkpoint: Checkpoint,
    model: EncoderSource,
    options: EncoderOptions,
    smooth: Smooth,
    beside: Path,
) -> tuple[EncoderSource, Smoothing | None]:
    """Return the model with the scales of channels that serve best; ``beside`` is on the disk."""
    tracer = EncoderSites()
    model.model.build(tracer)
    inputs = smooth.inputs(checkpoint.path, 0, model.max_tokens)
    with tempfile.TemporaryDirectory(prefix=".edgellm-smooth-", dir=beside.parent) as folder:
        parts = FloatParts(write_float_model(model, Path(folder) / "float"), smooth.run)

        def attempt(scales: ChannelScales) -> Outputs:
            scaled = replace(model, weights=SmoothedWeights(model.weights, scales))
            with BundleWriter(Path(folder) / "attempt") as writer:
                manifest = _write_graph(scaled, writer, options, None, None)
                writer.write_manifest(manifest)
                return smooth.outputs(writer.path, inputs)

        worth = WORTH if options.low_bit is None else WORTH_OF_FEW_BITS
        task = SmoothingTask(parts, tracer.sites(), inputs, attempt, model.num_parameters, worth)
        smoothing = find_smoothing(task)
    if smoothing is None:
        return model, None
    return replace(model, weights=SmoothedWeights(model.weights, smoothing.scales)), smoothing


def low_bit_task(checkpoint: Checkpoint, model: EncoderSource, options: LowBit, work: Path) -> Task:
    """Return what is to be quantised of a checkpoint."""
    linears = low_bit_linears(model)
    vocab_size = model.model.config.vocab_size if isinstance(model.model, TextEncoder) else 0
    inputs = options.inputs(checkpoint.path, vocab_size, model.max_tokens)
    return Task(checkpoint, linears, inputs, work, partial(write_float_model, model))


def low_bit_linears(model: EncoderSource) -> dict[str, tuple[int, int]]:
    """Return (N, K) of the linears that get few bits, by path: all but the heads."""
    inventory = EncoderInventory()
    model.model.build(inventory)
    heads = () if isinstance(model.model, TextEncoder) else model.model.heads
    return {
        parameter.name.removesuffix(".weight"): (parameter.shape[0], parameter.shape[1])
        for parameter in inventory.parameters
        if parameter.is_linear and parameter.name.removesuffix(".weight") not in heads
    }


def export_random(
    config_path: str | Path,
    output: str | Path,
    options: EncoderOptions = DEFAULT_OPTIONS,
    golden: Golden | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Export an encoder of random weights in the shape of a config.json, for benchmarks.

    Arguments and errors are those of ``export``.
    """
    config = JsonFields.read(Path(config_path))
    model = encoder_source.from_config(config, options.seed)
    with BundleWriter(output, force=options.force) as writer:
        shutil.copyfile(config_path, writer.path / "config.json")
        if isinstance(model.model, TextEncoder):
            if model.model.config.vocab_size < tokenizer_files.BYTE_VALUES:
                raise config.fail("vocab_size", "random weights need 256 or more")
            tokenizer_files.write_byte_tokenizer(writer.path)
        else:
            sizes = model.model.config
            size = {"height": sizes.image_height, "width": sizes.image_width}
            (writer.path / PROCESSOR).write_text(json.dumps({"size": size}) + "\n")
        quantized = None if options.low_bit is None else round_plainly(options.low_bit)
        manifest = _write_graph(model, writer, options, progress, quantized)
        manifest = replace(manifest, source=f"random weights, seed {options.seed}")
        return finish(writer, manifest, golden)


def float_model(path: str | Path, directory: str | Path) -> Path:
    """Write the float32 model of a checkpoint as ONNX, to compare with.

    Returns:
        The path of model.onnx: ``pixel_values`` (bytes, as the bundle takes them) to ``logits``,
        or ``input_ids`` (sequences, length) to ``embeddings``, float32.
    """
    model = encoder_source.from_checkpoint(Checkpoint(path))
    return write_float_model(model, directory)


def write_float_model(model: EncoderSource, directory: str | Path) -> Path:
    """Write the float32 model of a source; see ``float_model``."""
    epsilon = model.model.config.encoder.layer_norm_eps
    return write_float_graph(
        directory,
        model.model_type,
        lambda builder: model.model.build(
            Float32EncoderLowering(builder, model.weights, epsilon, model.pixels)
        ),
    )


def _write_graph(
    model: EncoderSource,
    writer: BundleWriter,
    options: EncoderOptions,
    progress: Progress | None,
    quantized: Quantized | None,
) -> Manifest:
    weights = model.weights
    if progress is not None:
        weights = ReportingWeights(weights, progress, model.num_parameters)
    with writer.open(WEIGHTS) as stream:
        builder = GraphBuilder(model.model_type, stream)
        epsilon = model.model.config.encoder.layer_norm_eps
        find = quantized.find if quantized else None
        net = IntegerEncoderLowering(builder, weights, epsilon, model.pixels, find)
        if options.arithmetic == IVIT:
            _build_ivit(model, net, writer.path, options)
        else:
            model.model.build(net)
        manifest = _manifest(model, builder, net.output_frame, options)
        if quantized is not None:
            manifest = replace(manifest, quantization=quantized.label)
    (writer.path / GRAPH).write_bytes(builder.serialize())
    _write_labels(model, writer.path)
    return manifest


def _build_ivit(
    model: EncoderSource, ends: IntegerEncoderLowering, folder: Path, options: EncoderOptions
) -> None:
    """Emit I-ViT's arithmetic, store the scales, and warn of what is outside of its range."""
    calibration = options.calibration
    if calibration is None:
        raise ConfigError("the arithmetic 'ivit' needs inputs to calibrate on")
    statistics = measure_activations(model, calibration)
    net = IvitEncoderLowering(ends, statistics, calibration.range_choice)
    model.model.build(net)
    content = render_scales(net.scales, calibration)
    (folder / SCALES).write_text(content, encoding="utf-8")
    for line in net.faults.report():
        LOG.warning("%s; --arithmetic sound has no such limit", line)


def _context(model: EncoderSource, options: EncoderOptions) -> int:
    """Return the most tokens of a sequence; an image has always as many."""
    longest = model.max_tokens
    if options.context is None:
        return longest
    if not isinstance(model.model, TextEncoder):
        raise ConfigError("context is for texts; an image has as many tokens as it has patches")
    longest = model.model.config.max_position_embeddings
    if not 1 <= options.context <= longest:
        raise ConfigError(f"context is {options.context}; this model allows 1 to {longest}")
    return options.context


def _manifest(
    model: EncoderSource, builder: GraphBuilder, output_frame: int, options: EncoderOptions
) -> Manifest:
    """Return the facts that follow from the model; where it comes from is added later."""
    encoder = model.model.config.encoder
    stored = sum(builder.weight_bytes.values())
    manifest = Manifest(
        task=model.model.task,
        model_type=model.model_type,
        vocab_size=0,
        hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.num_hidden_layers,
        num_attention_heads=encoder.num_attention_heads,
        num_key_value_heads=encoder.num_attention_heads,
        head_dim=encoder.head_dim,
        context_length=_context(model, options),
        logits_frame=output_frame,
        num_parameters=model.num_parameters,
        bits_per_weight=round(8 * stored / model.num_parameters, 3),
        quantization="int8 W8A8",
        arithmetic=options.arithmetic,
        calibration=options.calibration.name if options.calibration else "",
        revision=options.revision,
        created_by=f"edgellm {version('edgellm')}",
    )
    if isinstance(model.model, TextEncoder):
        return replace(manifest, vocab_size=model.model.config.vocab_size)
    sizes = model.model.config
    return replace(
        manifest,
        num_labels=len(sizes.labels),
        image_height=sizes.image_height,
        image_width=sizes.image_width,
        num_channels=sizes.num_channels,
        patch_height=sizes.patch_height,
        patch_width=sizes.patch_width,
    )


def _write_labels(model: EncoderSource, folder: Path) -> None:
    if not isinstance(model.model, TextEncoder):
        labels = json.dumps(list(model.model.labels), ensure_ascii=False, indent=0)
        (folder / LABELS).write_text(labels + "\n", encoding="utf-8")
