"""Measure the activations of an encoder on calibration inputs, for scales that are known before."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.bundle import GRAPH, WEIGHTS
from edgellm.errors import NothingToReadError
from edgellm.exporters.activation_statistics import Feed, Floats, RunEach, Statistics, measure
from edgellm.exporters.architectures.bert import Model as TextEncoder
from edgellm.exporters.encoder_source import EncoderSource
from edgellm.exporters.graph import GraphBuilder
from edgellm.exporters.lowering.encoder_float32 import Float32EncoderLowering
from edgellm.exporters.lowering.encoder_interface import PatchShape

BATCH = 4
"""Images that the float model gets at a time: it gives back every activation."""
LARGE_BATCH = 32
"""Of who wants single activations only."""

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Calibration:
    """What to measure on.

    Attributes:
        name: what the manifest calls the inputs.
        range_choice: see ``quantizers.ranges``.
        read: returns the inputs for a model: images (height, width, channels) uint8 of its size,
            or ids (tokens,) int64.
        run: runs the float model.
    """

    name: str
    range_choice: str
    read: Callable[[EncoderSource], Sequence[Array]]
    run: RunEach


def measure_activations(model: EncoderSource, calibration: Calibration) -> Statistics:
    """Run the float32 model on the inputs and return what its activations are like.

    Raises:
        NothingToReadError: there are no inputs.
    """
    inputs = calibration.read(model)
    if not inputs:
        raise NothingToReadError
    with tempfile.TemporaryDirectory(prefix="edgellm-calibrate-") as folder:
        graph, sites = _write_float_model(model, Path(folder))
        return measure(graph, sites, _feeds(model, inputs), calibration.run)


def render_scales(scales: Mapping[str, Floats], calibration: Calibration) -> str:
    """Return JSON of what one step of each value means, a number or one for each channel."""
    lines = []
    for site, values in scales.items():
        numbers = [float(f"{value:.9g}") for value in np.unique(values)]
        if len(numbers) > 1:
            numbers = [float(f"{value:.9g}") for value in values]
        content = json.dumps(numbers if len(numbers) > 1 else numbers[0])
        lines.append(f"  {json.dumps(site)}: {content}")
    head = {"calibration": calibration.name, "range": calibration.range_choice}
    first = "".join(f' "{key}": {json.dumps(value)},\n' for key, value in head.items())
    body = ",\n".join(lines)
    return f'{{\n{first} "scales": {{\n{body}\n }}\n}}\n'


def _write_float_model(model: EncoderSource, folder: Path) -> tuple[Path, dict[str, list[str]]]:
    with (folder / WEIGHTS).open("wb") as stream:
        builder = GraphBuilder(model.model_type, stream)
        epsilon = model.model.config.encoder.layer_norm_eps
        net = Float32EncoderLowering(builder, model.weights, epsilon, model.pixels)
        model.model.build(net)
    for name in {name for names in net.sites.values() for name in names}:
        builder.expose(name)
    (folder / GRAPH).write_bytes(builder.serialize())
    return folder / GRAPH, net.sites


def _feeds(model: EncoderSource, inputs: Sequence[Array]) -> list[Feed]:
    if isinstance(model.model, TextEncoder):
        return [{"input_ids": ids[None]} for ids in inputs]
    cut = model.model.config.patches
    batches = (np.stack(inputs[begin : begin + BATCH]) for begin in range(0, len(inputs), BATCH))
    return [{"pixel_values": as_patches(images, cut)} for images in batches]


def batches(model: EncoderSource, inputs: Sequence[Array]) -> list[Array]:
    """Return what the float model takes, sentences of a length and images together.

    Lengths come in an order that mixes them, for who takes the first batches only.
    """
    if not isinstance(model.model, TextEncoder):
        cut = model.model.config.patches
        starts = range(0, len(inputs), LARGE_BATCH)
        return [as_patches(np.stack(inputs[at : at + LARGE_BATCH]), cut) for at in starts]
    by_length: dict[int, list[Array]] = {}
    for ids in inputs:
        by_length.setdefault(len(ids), []).append(ids)
    order = sorted(by_length, key=lambda length: (length % 4, length))
    return [np.stack(by_length[length]) for length in order]


def as_patches(images: Array, cut: PatchShape) -> Array:
    """Return images (images, height, width, channels) in the shape of the graph's input."""
    whole = images[:, : cut.rows * cut.height, : cut.columns * cut.width]
    shape = (len(images), cut.rows, cut.height, cut.columns, cut.width * cut.channels)
    return np.ascontiguousarray(whole).reshape(shape)
