"""What the export of an encoder starts from: its architecture, its weights, what bytes mean."""

import logging
from dataclasses import dataclass
from pathlib import Path

from edgellm.config import JsonFields
from edgellm.errors import UnsupportedModelError
from edgellm.exporters.architectures.bert import Model as TextEncoder
from edgellm.exporters.checkpoint import Checkpoint
from edgellm.exporters.components.vision import VisionTransformer
from edgellm.exporters.lowering.encoder_inventory import EncoderInventory
from edgellm.exporters.lowering.patch_weights import PixelScale
from edgellm.exporters.random_weights import RandomWeights
from edgellm.exporters.sentence_files import SentenceModules, read_modules
from edgellm.exporters.source import load_model
from edgellm.exporters.weights import CheckpointWeights, WeightSource
from edgellm.image_processor import FILE as PROCESSOR
from edgellm.image_processor import ImageProcessor, parse_image_processor, read_image_processor

LOG = logging.getLogger(__name__)
POOLER = "pooler.dense"

Encoder = VisionTransformer | TextEncoder


@dataclass(frozen=True)
class EncoderSource:
    """An encoder that can be lowered.

    Attributes:
        model_type: of config.json.
        model: the architecture.
        weights: its tensors.
        num_parameters: how many numbers they have.
        pixels: what the bytes of images mean.
        max_tokens: the most rows of a sequence.
        processor: how images are made ready; None for texts.
    """

    model_type: str
    model: Encoder
    weights: WeightSource
    num_parameters: int
    pixels: PixelScale | None
    max_tokens: int
    processor: ImageProcessor | None = None


def from_checkpoint(checkpoint: Checkpoint) -> EncoderSource:
    """Check all tensors of a checkpoint against its config, reading none of their data."""
    model = _load(checkpoint.config)
    if checkpoint.config.has("quantization_config"):
        raise UnsupportedModelError(
            f"{checkpoint.config.where}: quantization_config: only float encoders are exported"
        )
    modules = SentenceModules()
    if isinstance(model, TextEncoder):
        if any(name.startswith("bert.") for name in checkpoint.tensors):
            model.base = "bert."
        modules = read_modules(checkpoint.path)
        processor = None
    else:
        processor = read_processor(checkpoint.path, model)
    weights = CheckpointWeights(checkpoint, None)
    inventory = EncoderInventory()
    model.build(inventory)
    base = model.base if isinstance(model, TextEncoder) else f"{model.base}."
    pooler = [f"{base}{POOLER}.{part}" for part in ("weight", "bias")]
    weights.check(inventory.parameters, pooler)
    if isinstance(model, TextEncoder) and pooler[0] in checkpoint.tensors:
        rows = "first row" if modules.pooling == "cls" else "mean of all rows"
        LOG.warning("the checkpoint's pooler is not used: the vector of a text is the %s", rows)
    return _source(checkpoint.config, model, weights, modules, processor)


def from_config(config: JsonFields, seed: int) -> EncoderSource:
    """Return a model of random weights."""
    model = _load(config)
    processor = None
    if isinstance(model, VisionTransformer):
        processor = default_processor(model)
    return _source(config, model, RandomWeights(None, seed), SentenceModules(), processor)


def read_processor(path: Path, model: VisionTransformer) -> ImageProcessor:
    """Return what preprocessor_config.json says; the size of its images must be the model's."""
    config = model.config
    processor = read_image_processor(path / PROCESSOR, config.num_channels)
    if processor.shortest_edge and processor.crop_to is None:
        raise UnsupportedModelError(
            f"{path / PROCESSOR}: size gives the shortest edge and nothing is cropped; this model "
            f"needs images of {config.image_height} x {config.image_width}"
        )
    size = processor.crop_to or processor.resize_to
    expected = (config.image_height, config.image_width)
    if size not in (None, expected):
        raise UnsupportedModelError(
            f"{path / PROCESSOR}: makes images of {size}, the model takes {expected}"
        )
    return processor


def default_processor(model: VisionTransformer) -> ImageProcessor:
    """Return the processor of a model that has no file for it."""
    config = model.config
    size = {"height": config.image_height, "width": config.image_width}
    return parse_image_processor(JsonFields({"size": size}, PROCESSOR), config.num_channels)


def _load(config: JsonFields) -> Encoder:
    model = load_model(config)
    if not isinstance(model, Encoder):
        raise UnsupportedModelError(f"{config.where}: is no encoder")
    return model


def _source(
    config: JsonFields,
    model: Encoder,
    weights: WeightSource,
    modules: SentenceModules,
    processor: ImageProcessor | None,
) -> EncoderSource:
    inventory = EncoderInventory()
    model.build(inventory)
    pixels = None
    if isinstance(model, TextEncoder):
        model.pooling, model.normalize = modules.pooling, modules.normalize
        positions = model.config.max_position_embeddings
        max_tokens = min(positions, modules.max_seq_length or positions)
    else:
        max_tokens = model.tokens_per_image
    if processor is not None:
        pixels = PixelScale(processor.rescale_factor, processor.image_mean, processor.image_std)
    return EncoderSource(
        model_type=config.text("model_type"),
        model=model,
        weights=weights,
        num_parameters=inventory.num_parameters,
        pixels=pixels,
        max_tokens=max_tokens,
        processor=processor,
    )
