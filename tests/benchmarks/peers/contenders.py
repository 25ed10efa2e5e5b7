"""Which engines are compared for which shape, and the files that they need."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.peers import gguf_files
from tests.benchmarks.peers.ggml_products import GgmlProduct
from tests.benchmarks.peers.measures import Engine
from tests.benchmarks.peers.models import LlamaCpp, Ours
from tests.benchmarks.peers.products import OnnxRuntimeProduct, OurProduct
from tests.benchmarks.peers.shapes import MODELS, PRODUCTS, STORIES, ModelShape, ProductShape

OUR_OPERATORS = {"ternary": "BitLinear", "5trit": "TritLinear", "int8": "Int8Linear"}
GREEDY = "-greedy"
"""Ours, when only the best logit is wanted; the others compute all."""
LOW_BIT = {"w4a8": ("w4a8", None), "w2a8": ("w2a8", None), "shiftadd4": ("shiftadd", 4),
           "shiftadd2": ("shiftadd", 2)}  # fmt: skip
"""Ordinary models with linears of few bits: the name of the quantisation, and bits."""
LOW_BIT_MODELS = tuple(kind + how for kind in LOW_BIT for how in ("", GREEDY))
FIVE_TRITS = "5trit"
"""Ternary weights five to a byte, for processors that `edgellm doctor` advises to have them so."""
TERNARY = ("ternary", FIVE_TRITS)
TERNARY_MODELS = tuple(kind + how for kind in TERNARY for how in ("", GREEDY))
OUR_MODELS = (*TERNARY_MODELS, "int8", *LOW_BIT_MODELS)
OURS = tuple(f"edgellm {kind}" for kind in OUR_MODELS)
FILE_KINDS = ("TQ2_0", "TQ1_0", "Q2_K", "Q4_0", "Q8_0")
REPACKED = ("Q4_0", "Q8_0")
"""What llama.cpp may copy to another layout; compared as it lies in the file, too ("-mapped")."""
MAPPED = "-mapped"
ONNX_BITS = {"ort-2": 2, "ort-4": 4, "ort-int8": 8}

MODEL_ENGINES = (*OUR_MODELS, *FILE_KINDS, *(kind + MAPPED for kind in REPACKED))
STORIES_ENGINES = ("int8", "F32", "Q8_0", "Q8_0" + MAPPED)
PRODUCT_ENGINES = (*OUR_OPERATORS, *FILE_KINDS, *ONNX_BITS)
ALL_ENGINES = tuple(dict.fromkeys((*MODEL_ENGINES, *STORIES_ENGINES, *PRODUCT_ENGINES)))
DEFAULT_ENGINES = tuple(name for name in ALL_ENGINES if name not in LOW_BIT_MODELS)
"""To round a model of the larger shape to few bits takes half an hour."""
ALL_SHAPES = (*MODELS, STORIES.name, *PRODUCTS)


@dataclass(frozen=True)
class Workplace:
    """Where the files are made.

    Attributes:
        directory: for the bundles and GGUF files; what is there is used again.
        checkpoint: of stories260k in the layout of transformers, or None to leave it out.
        tell: called with a line when something is made or left out.
    """

    directory: Path
    checkpoint: Path | None
    tell: Callable[[str], object]


def prepare(shape: str, wanted: Sequence[str], place: Workplace) -> list[Engine]:
    """Return the engines of a shape among ``wanted``, after making their files."""
    if shape in PRODUCTS:
        chosen = [name for name in PRODUCT_ENGINES if name in wanted]
        return [product_engine(name, PRODUCTS[shape]) for name in chosen]
    names = STORIES_ENGINES if shape == STORIES.name else MODEL_ENGINES
    if shape == STORIES.name and place.checkpoint is None:
        place.tell(f"{shape} is left out: give its checkpoint with --checkpoint DIRECTORY")
        return []
    engines = []
    for name in names:
        if name in wanted:
            try:
                engines.append(model_engine(name, MODELS.get(shape, STORIES), place))
            except ImportError as error:
                place.tell(f"{name} is left out: {error}; pip install -e '.[peers]'")
    return engines


def product_engine(name: str, shape: ProductShape) -> Engine:
    if name in OUR_OPERATORS:
        return OurProduct(f"edgellm {name}", OUR_OPERATORS[name], shape)
    if name in ONNX_BITS:
        title = "int8" if ONNX_BITS[name] == 8 else f"MatMulNBits {ONNX_BITS[name]}"
        return OnnxRuntimeProduct(f"onnxruntime {title}", ONNX_BITS[name], shape)
    return GgmlProduct(f"llama.cpp {name}", name, shape)


def model_engine(name: str, shape: ModelShape, place: Workplace) -> Engine:
    if name in OUR_MODELS:
        path = bundle(name.removesuffix(GREEDY), shape, place)
        settle(path)
        return Ours(f"edgellm {name}", path, greedy=name.endswith(GREEDY))
    kind = name.removesuffix(MAPPED)
    path = gguf_file(kind, shape, place)
    settle(path)
    return LlamaCpp(f"llama.cpp {name}", path, repack=kind == name)


def bundle(kind: str, shape: ModelShape, place: Workplace) -> Path:
    """Return our bundle of a shape, exported if it is not there."""
    from edgellm import api

    path = place.directory / f"{shape.name}-{kind}"
    if path.exists():
        return path
    place.tell(f"exporting {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if shape is STORIES:
        api.export(str(place.checkpoint), path)
    else:
        config = place.directory / f"{path.name}.json"
        config.write_text(json.dumps(shape.config(is_ternary=kind in TERNARY)))
        layout = FIVE_TRITS if kind == FIVE_TRITS else "2bit"
        chosen = None
        if kind in LOW_BIT:
            name, bits = LOW_BIT[kind]
            chosen = api.Quantization(name=name, bits=bits)
        api.export_random(config, path, layout=layout, quantization=chosen)
    return path


def gguf_file(kind: str, shape: ModelShape, place: Workplace) -> Path:
    """Return the GGUF file of a shape, written if it is not there."""
    path = place.directory / f"{shape.name}-{kind}.gguf"
    if path.exists():
        return path
    place.tell(f"writing {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    if shape is STORIES:
        gguf_files.write_checkpoint(unfinished, shape, kind, place.checkpoint)
    else:
        gguf_files.write_random(unfinished, shape, kind)
    return unfinished.rename(path)


def settle(path: Path) -> None:
    """Make the system read a file, or the files of a bundle, anew and from beginning to end.

    What it keeps in memory of a file that was just written, or that a program touched here and
    there, may lie in small pages. They halve the speed of an engine that maps the file, so each run
    starts with all files in the same state.
    """
    for part in path.iterdir() if path.is_dir() else [path]:
        if part.is_file():
            with part.open("rb", buffering=0) as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while file.read(1 << 24):
                    pass
