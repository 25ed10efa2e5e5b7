"""The export as one recipe: a checkpoint goes in, a bundle of integers comes out."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.bundle import GRAPH, WEIGHTS, Bundle, Manifest
from edgellm.bundle_writer import BundleWriter
from edgellm.config import JsonFields
from edgellm.errors import ConfigError
from edgellm.exporters import model_card, source, tokenizer_files
from edgellm.exporters.checkpoint import Checkpoint
from edgellm.exporters.export_options import (
    DEFAULT_KV_BITS,
    LAYOUTS,
    ExportOptions,
    check_fits,
    check_layout_is_used,
    context_of,
    layout_of,
)
from edgellm.exporters.finish import Golden, finish, write_float_graph
from edgellm.exporters.float_parts import FloatParts
from edgellm.exporters.graph import GraphBuilder
from edgellm.exporters.input_amounts import first_texts
from edgellm.exporters.low_bit_export import (
    WORK_SUFFIX,
    LowBit,
    Quantized,
    Task,
    check_budget,
    quantize_checkpoint,
    round_plainly,
)
from edgellm.exporters.lowering.float32 import Float32Lowering
from edgellm.exporters.lowering.integer import CacheChoice, IntegerLowering
from edgellm.exporters.lowering.integer_values import LOGITS_FRAME, ROTARY_TABLES
from edgellm.exporters.lowering.inventory import Inventory
from edgellm.exporters.lowering.smoothing_sites import DecoderSites
from edgellm.exporters.lowering.stored_weights import HEAD_BITS, StoredWeights
from edgellm.exporters.progress import Progress, ReportingWeights, part_of
from edgellm.exporters.smoothed_weights import ChannelScales, SmoothedWeights
from edgellm.exporters.smoothing import (
    LARGE,
    LARGE_TOKENS,
    WORTH,
    WORTH_OF_FEW_BITS,
    Outputs,
    Smooth,
    Smoothing,
    SmoothingTask,
    find_smoothing,
)
from edgellm.exporters.source import Source
from edgellm.exporters.tokenizer_files import special_tokens

TASK = "text-generation"


@dataclass(frozen=True)
class Calibration:
    """How the offsets of the keys are found.

    Attributes:
        text: what the manifest calls the text.
        measure: called with the directory of the new bundle, which can be opened already and whose
            offsets are 0; returns what they shall be, int32 by the name of the constant.
    """

    text: str
    measure: Callable[[Path], Mapping[str, npt.NDArray[np.int32]]]


DEFAULT_OPTIONS = ExportOptions()


def export(
    path: str | Path,
    output: str | Path,
    options: ExportOptions = DEFAULT_OPTIONS,
    golden: Golden | None = None,
    progress: Progress | None = None,
    calibration: Calibration | None = None,
) -> Bundle:
    """Export a Hugging Face checkpoint to a bundle.

    Args:
        path: a directory with config.json, safetensors and tokenizer.json.
        output: the bundle to make; nothing is left there if the export fails.
        options: see ExportOptions.
        golden: writes golden cases, see ``Golden``.
        progress: called with the parameters done and the total.
        calibration: finds the offsets of the keys; without it they get none.

    Returns:
        The opened bundle.

    Raises:
        CheckpointError: the checkpoint is damaged or not what its config says.
        UnsupportedModelError: it needs something that no exporter or operator here has.
        ExportError: the output exists, or a value is out of the range of the operators.
        ConfigError: an option is out of range.
    """
    checkpoint = Checkpoint(path)
    model = source.from_checkpoint(checkpoint)
    if options.smooth is not None and options.smooth.required and model.quantization is not None:
        raise ConfigError("this checkpoint is ternary: it is not smoothed; leave out --smooth on")
    if options.low_bit is not None:  # before the work of smoothing
        check_budget(low_bit_linears(model), options.low_bit.plan)
    with BundleWriter(output, force=options.force) as writer:
        tokenizer_files.copy_tokenizer(checkpoint.path, writer.path)
        begin, ends = special_tokens(checkpoint, model.model.config.vocab_size)
        smoothing = None
        if options.smooth is not None and model.quantization is None:
            model, smoothing = _smooth(
                checkpoint, model, options, options.smooth, calibration, writer.path
            )
        work = Path(output).with_name(Path(output).name + WORK_SUFFIX)
        quantized = None
        if options.low_bit is not None:
            task = low_bit_task(checkpoint, model, options.low_bit, work)
            task = replace(task, variant=smoothing.label if smoothing else "")
            before = part_of(progress, 0, model.num_parameters)
            quantized = quantize_checkpoint(task, options.low_bit, before)
            progress = part_of(progress, options.low_bit.work(task), 0)
        manifest = replace(
            _write_graph(model, writer, options, progress, calibration, quantized),
            bos_token_id=begin,
            eos_token_ids=ends,
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
    model: Source,
    options: ExportOptions,
    smooth: Smooth,
    calibration: Calibration | None,
    beside: Path,
) -> tuple[Source, Smoothing | None]:
    """Return the model with the scales of channels that serve best; ``beside`` is on the disk."""
    tracer = DecoderSites()
    model.model.build(tracer)
    config = model.model.config
    inputs = smooth.inputs(checkpoint.path, config.vocab_size, config.max_position_embeddings)
    if model.num_parameters > LARGE:
        inputs = [ids[:LARGE_TOKENS] for ids in inputs[:1]]
    worth = WORTH if options.low_bit is None else WORTH_OF_FEW_BITS
    with tempfile.TemporaryDirectory(prefix=".edgellm-smooth-", dir=beside.parent) as folder:
        parts = FloatParts(write_float_model(model, Path(folder) / "float"), smooth.run)

        def attempt(scales: ChannelScales) -> Outputs:
            scaled = replace(model, weights=SmoothedWeights(model.weights, scales))
            with BundleWriter(Path(folder) / "attempt") as writer:
                tokenizer_files.copy_tokenizer(checkpoint.path, writer.path)
                manifest = _write_graph(scaled, writer, options, None, calibration)
                writer.write_manifest(manifest)
                return smooth.outputs(writer.path, inputs)

        task = SmoothingTask(parts, tracer.sites(), inputs, attempt, model.num_parameters, worth)
        smoothing = find_smoothing(task)
    if smoothing is None:
        return model, None
    return replace(model, weights=SmoothedWeights(model.weights, smoothing.scales)), smoothing


def low_bit_task(checkpoint: Checkpoint, model: Source, options: LowBit, work: Path) -> Task:
    """Return what is to be quantised of a checkpoint; errors are those of ``low_bit_linears``."""
    linears, config = low_bit_linears(model), model.model.config
    texts = options.inputs(checkpoint.path, config.vocab_size, config.max_position_embeddings)
    inputs = first_texts(texts, linears)
    return Task(checkpoint, linears, inputs, work, partial(write_float_model, model))


def low_bit_linears(model: Source) -> dict[str, tuple[int, int]]:
    """Return (N, K) of the linears that get few bits, by path.

    Raises:
        ConfigError: the checkpoint is ternary already.
    """
    if model.quantization is not None:
        raise ConfigError("this checkpoint is ternary: it needs no --quant")
    inventory = Inventory()
    model.model.build(inventory)
    return {
        parameter.name.removesuffix(".weight"): (parameter.shape[0], parameter.shape[1])
        for parameter in inventory.parameters
        if parameter.is_linear
    }


def export_random(
    config_path: str | Path,
    output: str | Path,
    options: ExportOptions = DEFAULT_OPTIONS,
    golden: Golden | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Export a model of random weights in the shape of a config.json, for benchmarks.

    The tokenizer knows the 256 bytes. Arguments and errors are those of ``export``.
    """
    config = JsonFields.read(Path(config_path))
    model = source.from_config(config, options.seed)
    vocab_size = model.model.config.vocab_size
    if vocab_size < tokenizer_files.BYTE_VALUES:
        raise config.fail(
            "vocab_size", f"random weights need {tokenizer_files.BYTE_VALUES} or more"
        )
    with BundleWriter(output, force=options.force) as writer:
        shutil.copyfile(config_path, writer.path / "config.json")
        tokenizer_files.write_byte_tokenizer(writer.path)
        quantized = None if options.low_bit is None else round_plainly(options.low_bit)
        manifest = _write_graph(model, writer, options, progress, quantized=quantized)
        manifest = replace(manifest, source=f"random weights, seed {options.seed}")
        return finish(writer, manifest, golden)


def float_model(path: str | Path, directory: str | Path) -> Path:
    """Write the float32 model of a checkpoint as ONNX, to compare with.

    Args:
        path: a checkpoint, as for ``export``.
        directory: where model.onnx and weights.bin are written.

    Returns:
        The path of model.onnx: input_ids (tokens,) int64 -> logits (tokens, vocab_size) float32.
    """
    return write_float_model(source.from_checkpoint(Checkpoint(path)), directory)


def write_float_model(model: Source, directory: str | Path) -> Path:
    """Write the float32 model of a source; see ``float_model``."""
    config, context = model.model.config, context_of(model, ExportOptions())
    return write_float_graph(
        directory,
        model.model_type,
        lambda builder: model.model.build(Float32Lowering(builder, model.weights, config, context)),
    )


def _write_graph(
    model: Source,
    writer: BundleWriter,
    options: ExportOptions,
    progress: Progress | None,
    calibration: Calibration | None = None,
    quantized: Quantized | None = None,
) -> Manifest:
    context = context_of(model, options)
    layout = layout_of(model, options)
    check_fits(model, options)
    weights = model.weights
    if progress is not None:
        weights = ReportingWeights(weights, progress, model.num_parameters)
    with writer.open(WEIGHTS) as stream:
        builder = GraphBuilder(model.model_type, stream)
        config = model.model.config
        if config.state_size:
            calibration = None  # there are no keys
        model.model.build(
            IntegerLowering(
                builder,
                weights,
                config,
                context,
                stored=StoredWeights(
                    builder,
                    weights,
                    quantized.find if quantized else None,
                    layout,
                    options.head_bits,
                ),
                cache=CacheChoice(options.kv_bits, offset_keys=calibration is not None),
            )
        )
        check_layout_is_used(layout, builder)
        manifest = _manifest(model, builder, options)
        if quantized is not None:
            manifest = replace(manifest, quantization=quantized.label)
        manifest = replace(manifest, quantization=_label(manifest.quantization, options))
        if calibration is not None:
            stream.flush()
            manifest = _calibrate(builder, writer, manifest, calibration)
    (writer.path / GRAPH).write_bytes(builder.serialize())
    return manifest


def _calibrate(
    builder: GraphBuilder, writer: BundleWriter, manifest: Manifest, calibration: Calibration
) -> Manifest:
    """Let the bundle as it is find its offsets, and put them in place."""
    (writer.path / GRAPH).write_bytes(builder.serialize())
    writer.write_manifest(manifest)
    for name, values in calibration.measure(writer.path).items():
        builder.replace(name, values)
    return replace(manifest, calibration=calibration.text)


def _label(quantization: str, options: ExportOptions) -> str:
    """Return what is said of the bits of a bundle."""
    if options.head_bits != HEAD_BITS[0]:
        quantization += f", logits head W{options.head_bits}A8"
    if options.kv_bits != DEFAULT_KV_BITS:
        quantization += f", KV{options.kv_bits}"
    return quantization


def _manifest(model: Source, builder: GraphBuilder, options: ExportOptions) -> Manifest:
    """Return the facts that follow from the model; where it comes from is added later."""
    sizes = model.model.config
    is_ternary = model.quantization is not None
    stored = sum(n for name, n in builder.weight_bytes.items() if name not in ROTARY_TABLES)
    return Manifest(
        task=TASK,
        model_type=model.model_type,
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=sizes.num_attention_heads,
        num_key_value_heads=sizes.num_key_value_heads,
        head_dim=sizes.head_dim,
        kv_bits=options.kv_bits,
        state_size=sizes.state_size,
        context_length=context_of(model, options),
        logits_frame=LOGITS_FRAME,
        num_parameters=model.num_parameters,
        bits_per_weight=round(8 * stored / model.num_parameters, 3),
        quantization="ternary W1.58A8" if is_ternary else "int8 W8A8",
        layout=LAYOUTS[options.layout].name if is_ternary else "",
        revision=options.revision,
        created_by=f"edgellm {version('edgellm')}",
    )
