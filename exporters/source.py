"""What an export starts from: the architecture that config.json names, and its weights."""

from dataclasses import dataclass

from edgellm import registry
from edgellm.config import JsonFields
from edgellm.errors import UnknownNameError, UnsupportedModelError
from edgellm.exporters import architectures
from edgellm.exporters.checkpoint import Checkpoint
from edgellm.exporters.components.language_model import LanguageModel
from edgellm.exporters.lowering.inventory import Inventory
from edgellm.exporters.quantization import BitNetQuantization, read_quantization
from edgellm.exporters.random_weights import RandomWeights
from edgellm.exporters.weights import CheckpointWeights, WeightSource


@dataclass(frozen=True)
class Source:
    """A model that can be lowered."""

    model_type: str
    model: LanguageModel
    weights: WeightSource
    quantization: BitNetQuantization | None
    num_parameters: int


def load_architecture(config: JsonFields) -> LanguageModel:
    """Return the language model that config.json describes; raises as ``load_model``."""
    model = load_model(config)
    if not isinstance(model, LanguageModel):
        raise UnsupportedModelError(f"{config.where}: is no language model")
    return model


def load_model(config: JsonFields) -> object:
    """Return the model that config.json describes; its ``task`` says what it is for.

    Raises:
        UnsupportedModelError: ``model_type`` is none of the files in ``architectures``.
        CheckpointError: a field is missing or out of range.
    """
    model_type = config.text("model_type")
    try:
        module = registry.load(architectures, model_type)
    except UnknownNameError as error:
        raise UnsupportedModelError(
            f"{config.where}: model_type {model_type!r} is not supported; "
            f"{registry.nearest(architectures, model_type)}"
        ) from error
    model: object = module.Model(module.Config.read(config))
    return model


def task_of(config: JsonFields) -> str:
    """Return the task of the model that config.json describes; raises as ``load_model``."""
    return str(getattr(load_model(config), "task", ""))


def from_checkpoint(checkpoint: Checkpoint) -> Source:
    """Check all tensors of a checkpoint against its config, reading none of their data."""
    model, quantization, inventory = _describe(checkpoint.config)
    weights = CheckpointWeights(checkpoint, quantization)
    weights.check(inventory.parameters)
    return Source(
        checkpoint.config.text("model_type"),
        model,
        weights,
        quantization,
        inventory.num_parameters,
    )


def from_config(config: JsonFields, seed: int) -> Source:
    """Return a model of random weights."""
    model, quantization, inventory = _describe(config)
    weights = RandomWeights(quantization, seed)
    return Source(config.text("model_type"), model, weights, quantization, inventory.num_parameters)


def _describe(config: JsonFields) -> tuple[LanguageModel, BitNetQuantization | None, Inventory]:
    model = load_architecture(config)
    inventory = Inventory()
    model.build(inventory)
    return model, read_quantization(config) or model.quantization, inventory
