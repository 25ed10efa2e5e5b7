"""Encoders in the shapes of DeiT and MiniLM against onnxruntime, one image or 64 sentences a run.

    python -m tests.benchmarks.encoders [--shapes deit-t ...] [--threads 1 2] [--rounds 7]

Weights are random. onnxruntime runs the same network as float32, and as int8 by its own static
quantisation (QDQ, weights by channel). Sentences have 5 to 60 tokens; onnxruntime gets them padded,
with an attention mask, in each way of making batches below, of which the fastest counts. Contenders
take turns; a ratio is the median over the rounds, and its spread the middle half of them.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import numpy as np

from edgellm.bundle import open_bundle
from edgellm.exporters import encoder_build
from edgellm.runtime import cpu
from edgellm.runtime.encoder_engine import EncoderEngine
from edgellm.runtime.kernels import simd
from edgellm.runtime.loader import load_plan
from tests.benchmarks import encoder_peers as peers

IMAGE_SHAPES = {"deit-t": (192, 3), "deit-s": (384, 6), "deit-b": (768, 12)}
"""Hidden size and heads; 12 layers, 197 tokens, 1,000 labels."""
SENTENCES = "minilm"
SENTENCE_COUNT, SHORTEST, LONGEST = 64, 5, 60
BATCHES = {"one batch": (64, False), "sorted, 16": (16, True), "sorted, 4": (4, True)}
"""Sentences of a padded batch, and whether they are sorted by length first."""
QUANTIZED: dict[str, tuple[str, ...]] = {"all operators": (), "MatMul": ("MatMul",)}
"""What onnxruntime quantises; the faster counts."""
VOCABULARY = 30_522

Run = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as another; ``low`` and ``high`` are quartiles."""

    median: float
    low: float
    high: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", default=[*IMAGE_SHAPES, SENTENCES])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    host = cpu.host()
    report: dict[str, object] = {"processor": host.model, "kernels": simd.chosen(host), "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes:
            for threads in arguments.threads:
                found = measure(Path(folder), shape, threads, arguments.rounds)
                report["runs"].append({"shape": shape, "threads": threads, **found})
    json.dump(report, sys.stdout, indent=2)
    sys.stdout.write("\n")


def measure(folder: Path, shape: str, threads: int, rounds: int) -> dict[str, object]:
    """Return milliseconds by contender, and the ratios of the others to edgellm."""
    config = folder / f"{shape}.json"
    bundle = folder / shape
    if not bundle.exists():
        config.write_text(json.dumps(config_of(shape)))
        encoder_build.export_random(config, bundle)
    opened = open_bundle(bundle)
    engine = EncoderEngine(load_plan(opened), opened.manifest, threads=threads)
    runs = contenders_of(shape, engine, config, threads)
    taken = take_turns(runs, rounds)
    engine.close()
    own = taken["edgellm"]
    ratios = {name: vars(ratio(times, own)) for name, times in taken.items() if name != "edgellm"}
    milliseconds = {name: round(1e3 * median(times), 2) for name, times in taken.items()}
    return {"milliseconds": milliseconds, "ratios": ratios}


def config_of(shape: str) -> dict[str, object]:
    """Return a config.json."""
    hidden, heads = (384, 12) if shape == SENTENCES else IMAGE_SHAPES[shape]
    sizes = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": 6 if shape == SENTENCES else 12,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }
    if shape == SENTENCES:
        text = {"vocab_size": VOCABULARY, "max_position_embeddings": 512, "type_vocab_size": 2}
        return {"model_type": "bert", "architectures": ["BertModel"], **sizes, **text}
    image = {"image_size": 224, "patch_size": 16, "num_channels": 3, "num_labels": 1000}
    return {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        **sizes,
        **image,
    }


def contenders_of(shape: str, engine: EncoderEngine, config: Path, threads: int) -> dict[str, Run]:
    """Return what each contender does in a round, edgellm first."""
    rng = np.random.default_rng(0)
    if shape == SENTENCES:
        lengths = rng.integers(SHORTEST, LONGEST + 1, SENTENCE_COUNT)
        texts = [rng.integers(0, VOCABULARY, length) for length in lengths]
        model = peers.masked_model(config)
        runs: dict[str, Run] = {"edgellm": lambda: engine.run_texts(sorted(texts, key=len))}
        session = peers.session(model, threads)
        for name, (size, in_order) in BATCHES.items():
            batches = peers.padded(sorted(texts, key=len) if in_order else texts, size)
            runs[f"float32, {name}"] = lambda batches=batches: [
                session.run(None, feeds) for feeds in batches
            ]
        return runs
    images = [engine.as_patches(rng.integers(0, 256, (1, 224, 224, 3), np.uint8)) for _ in range(8)]
    model = peers.image_model(config)
    paths = {"float32": model}
    for name, operators in QUANTIZED.items():
        paths[f"int8 QDQ, {name}"] = peers.quantized(model, images, operators)
    feeds = {"pixel_values": images[0]}
    runs = {"edgellm": lambda: engine.run_images(images[0])}
    for name, path in paths.items():
        session = peers.session(path, threads)
        runs[name] = lambda session=session: session.run(None, feeds)
    return runs


def take_turns(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contender's runs; the first of each does not count."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(1 + rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            if number:
                taken[name].append(time.perf_counter() - begin)
    return taken


def ratio(others: list[float], own: list[float]) -> Ratio:
    """Return how many times as long the others take, round by round."""
    each = [other / mine for other, mine in zip(others, own, strict=True)]
    low, middle, high = (round(part, 3) for part in quantiles(each, n=4))
    return Ratio(middle, low, high)


if __name__ == "__main__":
    main()
