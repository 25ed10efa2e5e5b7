"""The inputs and outputs that the graph of an encoder has, by the manifest's task."""

from edgellm.bundle import Manifest
from edgellm.errors import PlanError
from edgellm.graph_names import (
    EMBEDDINGS,
    ENDS,
    IDS,
    IMAGES,
    LOGITS,
    PIXELS,
    POSITIONS,
    SEQUENCES,
    TOKENS,
    TYPES,
)
from edgellm.runtime.plan import Value

CLASSIFICATION = "image-classification"
EMBEDDING = "sentence-embedding"
TASKS = (CLASSIFICATION, EMBEDDING)
MAX_IMAGE_BYTES = 1 << 28


def pixel_shape(manifest: Manifest) -> tuple[int, int, int, int]:
    """Return (rows of patches, patch height, patches a row, patch width * channels).

    Raises:
        PlanError: the sizes of the manifest hold no patch, or an image is too large.
    """
    height, width = manifest.patch_height, manifest.patch_width
    if not height or not width or not manifest.num_channels:
        raise PlanError("the manifest of an image classifier gives no size of its patches")
    rows, columns = manifest.image_height // height, manifest.image_width // width
    shape = (rows, height, columns, width * manifest.num_channels)
    if not rows or not columns or rows * height * columns * shape[3] > MAX_IMAGE_BYTES:
        raise PlanError(f"images in patches of {shape}: they are empty or too large")
    return shape


def contract_inputs(manifest: Manifest) -> list[Value]:
    """Return the inputs of a graph."""
    if manifest.task == CLASSIFICATION:
        return [
            Value(PIXELS, "uint8", (IMAGES, *pixel_shape(manifest))),
            Value(ENDS, "int64", (IMAGES,)),
        ]
    ids = [Value(name, "int64", (TOKENS,)) for name in (IDS, TYPES, POSITIONS)]
    return [*ids, Value(ENDS, "int64", (SEQUENCES,))]


def contract_outputs(manifest: Manifest) -> list[Value]:
    """Return the outputs of a graph."""
    if manifest.task == CLASSIFICATION:
        return [Value(LOGITS, "int32", (IMAGES, manifest.num_labels))]
    return [Value(EMBEDDINGS, "int32", (SEQUENCES, manifest.hidden_size))]
