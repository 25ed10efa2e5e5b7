"""Golden cases of encoders: inputs, the reference's output, and checksums of each layer."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.bundle import Bundle, open_bundle
from edgellm.errors import BundleError
from edgellm.graph_names import ENDS, IDS, PIXELS
from edgellm.runtime import golden_files
from edgellm.runtime.encoder_contract import CLASSIFICATION, pixel_shape
from edgellm.runtime.encoder_engine import text_feeds
from edgellm.runtime.executors.reference import Executor
from edgellm.runtime.golden_files import Arrays, Entry
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan
from edgellm.runtime.tokenizer import Tokenizer

FORMAT = "edgellm-golden-encoder/1"
OUTPUT = "output"
NAME = "case-0"
IMAGE_SEED = 20
MAX_ROWS = 4096
TEXTS = (
    "A dog runs over the wet grass.",
    "The quick brown fox jumps over the lazy dog; 1234567890 times?",
    "\N{LATIN SMALL LETTER E WITH ACUTE}\N{EURO SIGN}",
)
LARGE = 30_000_000
"""Parameters above which a case has one sequence: the reference is slow."""


@dataclass(frozen=True, kw_only=True)
class EncoderCase:
    """One batch and what must come out.

    Attributes:
        name: of the case and its file.
        feeds: the graph's inputs.
        output: (sequences, columns) int32.
        layers: sha256 of each residual value (int32, little end first), in order.
    """

    name: str
    feeds: Arrays
    output: npt.NDArray[np.int32]
    layers: dict[str, str]


def record(directory: Path) -> None:
    """Compute a golden case with the reference and write it into a bundle's directory."""
    bundle = open_bundle(directory)
    plan = load_plan(bundle)
    feeds = _image_feeds(bundle) if bundle.manifest.task == CLASSIFICATION else _text(bundle)
    values = Executor(bundle, plan).run(feeds, trace=True)
    (name,) = plan.outputs
    golden_files.write_case_arrays(directory, NAME, {**feeds, OUTPUT: values[name]})
    entry = {"name": NAME, "layers": layer_checksums(plan, values)}
    golden_files.write_list(directory, FORMAT, [entry])


def _image_feeds(bundle: Bundle) -> Arrays:
    """Return images of blobs: noise alone looks like nothing that a model has seen."""
    count = 1 if bundle.manifest.num_parameters > LARGE else 2
    rng = np.random.default_rng(IMAGE_SEED)
    shape, channels = pixel_shape(bundle.manifest), bundle.manifest.num_channels
    height, width = shape[0] * shape[1], shape[2] * shape[3] // channels
    pixels = soft_images(rng, (count, height, width, channels))
    ends = np.arange(1, count + 1) * bundle.manifest.context_length
    return {PIXELS: pixels.reshape(count, *shape), ENDS: ends}


def soft_images(
    rng: np.random.Generator, shape: tuple[int, int, int, int]
) -> npt.NDArray[np.uint8]:
    """Return images (images, height, width, channels) of soft blobs."""
    count, height, width, channels = shape
    coarse = rng.integers(0, 256, (count, 6, 6, channels))
    rows, columns = np.arange(height) * 6 // height, np.arange(width) * 6 // width
    noise = rng.integers(0, 32, shape)
    return np.clip(coarse[:, rows][:, :, columns] + noise, 0, 255).astype(np.uint8)


def _text(bundle: Bundle) -> Arrays:
    facts = bundle.manifest
    tokenizer = Tokenizer(bundle.path / "tokenizer.json", facts.vocab_size)
    count = 1 if facts.num_parameters > LARGE else len(TEXTS)
    texts = [tokenizer.encode(text)[: facts.context_length] for text in TEXTS[:count]]
    return text_feeds([np.array(ids or [0], np.int64) for ids in texts])


def layer_checksums(plan: Plan, values: Arrays) -> dict[str, str]:
    """Return the sha256 of each residual value, in the order of the graph."""
    residual = ("ImageTokens", "TextEmbedding", "ResidualAddBias", "DyadicAdd")
    return golden_files.checksums(plan, values, residual, "<i4")


def read_cases(bundle: Bundle) -> list[EncoderCase]:
    """Return the golden cases of a bundle, none if it has none.

    Raises:
        BundleError: a case is damaged or does not fit the model.
    """
    return [_read_case(bundle, entry) for entry in golden_files.read_list(bundle, FORMAT)]


def _read_case(bundle: Bundle, entry: Entry) -> EncoderCase:
    arrays = golden_files.read_case_arrays(bundle, entry.name)
    output = arrays.pop(OUTPUT, np.empty(0))
    feeds = _checked_feeds(bundle, arrays)
    if feeds is None or output.dtype != np.int32 or output.ndim != 2:
        file = golden_files.array_path(bundle.path, entry.name)
        raise BundleError(f"{file}: its arrays do not fit the model")
    return EncoderCase(
        name=entry.name, feeds=feeds, output=output.astype(np.int32), layers=entry.layers
    )


def _checked_feeds(bundle: Bundle, arrays: Arrays) -> Arrays | None:
    """Return the inputs made anew from images or ids, None if they do not fit the model."""
    facts = bundle.manifest
    if facts.task == CLASSIFICATION:
        pixels = arrays.get(PIXELS)
        if pixels is None or pixels.dtype != np.uint8 or pixels.shape[1:] != pixel_shape(facts):
            return None
        if not 1 <= len(pixels) * facts.context_length <= max(MAX_ROWS, facts.context_length):
            return None
        return {PIXELS: pixels, ENDS: np.arange(1, len(pixels) + 1) * facts.context_length}
    ids, ends = arrays.get(IDS), arrays.get(ENDS)
    if ids is None or ends is None or {ids.dtype, ends.dtype} != {np.dtype(np.int64)}:
        return None
    if ids.ndim != 1 or ends.ndim != 1 or not 1 <= len(ids) <= max(MAX_ROWS, facts.context_length):
        return None
    stops = [int(end) for end in ends]
    lengths = [end - begin for begin, end in pairwise([0, *stops])]
    if min(lengths, default=0) < 1 or max(lengths) > facts.context_length or stops[-1] != len(ids):
        return None
    if int(ids.min()) < 0 or int(ids.max()) >= facts.vocab_size:
        return None
    return text_feeds(np.split(ids.astype(np.int64), stops[:-1]))
