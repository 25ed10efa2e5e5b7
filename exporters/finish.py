"""The last steps that exports have in common."""

from collections.abc import Callable
from pathlib import Path

from edgellm.bundle import GRAPH, WEIGHTS, Bundle, Manifest
from edgellm.bundle_writer import BundleWriter
from edgellm.exporters import model_card
from edgellm.exporters.graph import GraphBuilder

Golden = Callable[[Path], None]
"""Called with the directory of the new bundle, which can be opened already; it may write files
under ``golden/``."""


def finish(writer: BundleWriter, manifest: Manifest, golden: Golden | None) -> Bundle:
    """Write the model card and the manifest, let golden cases be made, and put all in place."""
    card = model_card.render(manifest)
    (writer.path / model_card.FILE).write_text(card, encoding="utf-8")
    writer.write_manifest(manifest)
    if golden is not None:
        golden(writer.path)
        writer.write_manifest(manifest)  # now with the golden files
    return writer.finish()


def write_float_graph(
    directory: str | Path, model_type: str, build: Callable[[GraphBuilder], object]
) -> Path:
    """Write a model that ``build`` emits as ONNX of its own; returns the path of model.onnx."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    with (target / WEIGHTS).open("wb") as stream:
        builder = GraphBuilder(model_type, stream)
        build(builder)
    (target / GRAPH).write_bytes(builder.serialize())
    return target / GRAPH
