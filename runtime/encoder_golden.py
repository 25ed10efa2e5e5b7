"""Golden cases of encoders: inputs, the reference's output, and checksums of each layer.

``golden/cases.json`` lists the cases; ``golden/<name>.safetensors`` holds the arrays of each.
"""

import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.bundle import Bundle, open_bundle
from edgellm.errors import BundleError
from edgellm.runtime.encoder_contract import CLASSIFICATION, ENDS, PIXELS, pixel_shape
from edgellm.runtime.encoder_engine import text_feeds
from edgellm.runtime.executors.reference import Executor
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import IDS, Plan
from edgellm.runtime.session_file import read_arrays, write_arrays
from edgellm.runtime.tokenizer import Tokenizer

FOLDER = "golden"
CASES = "cases.json"
FORMAT = "edgellm-golden-encoder/1"
OUTPUT = "output"
IMAGE_SEED = 20
MAX_CASES = 16
MAX_ROWS = 4096
TEXTS = (
    "A dog runs over the wet grass.",
    "The quick brown fox jumps over the lazy dog; 1234567890 times?",
    "\N{LATIN SMALL LETTER E WITH ACUTE}\N{EURO SIGN}",
)
LARGE = 30_000_000
"""Parameters above which a case has one sequence: the reference is slow."""

Array = npt.NDArray[np.generic]
Arrays = dict[str, Array]


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
    (directory / FOLDER).mkdir(exist_ok=True)
    write_arrays(_file(directory, "case-0"), {**feeds, OUTPUT: values[name]}, {})
    entry = {"name": "case-0", "layers": layer_checksums(plan, values)}
    content = json.dumps({"format": FORMAT, "cases": [entry]}, indent=1) + "\n"
    (directory / FOLDER / CASES).write_text(content, encoding="utf-8")


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
    starts = ("ImageTokens", "TextEmbedding", "ResidualAddBias", "DyadicAdd")
    residual = [step.outputs[0] for step in plan.steps if step.op_type in starts]
    return {
        name: hashlib.sha256(np.ascontiguousarray(values[name], "<i4").tobytes()).hexdigest()
        for name in residual
    }


def read_cases(bundle: Bundle) -> list[EncoderCase]:
    """Return the golden cases of a bundle, none if it has none.

    Raises:
        BundleError: a case is damaged or does not fit the model.
    """
    path = bundle.file(f"{FOLDER}/{CASES}")
    if path is None:
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON: {error}") from error
    entries = content.get("cases") if isinstance(content, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_CASES or content.get("format") != FORMAT:
        raise BundleError(f"{path}: is no {FORMAT} list of at most {MAX_CASES} cases")
    return [_read_case(bundle, path, entry) for entry in entries]


def _read_case(bundle: Bundle, path: Path, entry: Any) -> EncoderCase:  # noqa: ANN401
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or bundle.file(f"{FOLDER}/{name}.safetensors") is None:
        raise BundleError(f"{path}: the case {name!r} has no listed file {name}.safetensors")
    layers = entry.get("layers")
    if not isinstance(layers, dict) or not all(isinstance(item, str) for item in layers.values()):
        raise BundleError(f"{path}: layers of {name!r} is no object of checksums")
    arrays, _ = read_arrays(_file(bundle.path, name))
    output = arrays.pop(OUTPUT, np.empty(0))
    feeds = _checked_feeds(bundle, arrays)
    if feeds is None or output.dtype != np.int32 or output.ndim != 2:
        raise BundleError(f"{_file(bundle.path, name)}: its arrays do not fit the model")
    return EncoderCase(name=name, feeds=feeds, output=output.astype(np.int32), layers=layers)


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


def _file(folder: Path, name: str) -> Path:
    return folder / FOLDER / f"{name}.safetensors"
