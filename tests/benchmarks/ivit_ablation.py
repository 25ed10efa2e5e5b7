"""What each published operator of I-ViT costs: one at a time replaced by the exact function.

    edgellm export CHECKPOINT -o BUNDLE --arithmetic ivit --calib INPUTS
    python tests/benchmarks/ivit_ablation.py BUNDLE --images FILE --labels FILE
    python tests/benchmarks/ivit_ablation.py BUNDLE --sts FILE

The exact function takes the same integers and gives integers of the same scale; it is computed in
float64. What is left with all of them exact is the price of int8 with static scales.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm import ops
from edgellm.bundle import Bundle, open_bundle
from edgellm.exporters.activation_statistics import SCORES
from edgellm.graph_names import ENDS, PIXELS
from edgellm.runtime import encoder_evaluate as scoring
from edgellm.runtime.classifier import read_labels
from edgellm.runtime.encoder_contract import pixel_shape
from edgellm.runtime.encoder_engine import text_feeds
from edgellm.runtime.evaluate import cross_entropy
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Step
from edgellm.runtime.tokenizer import Tokenizer

BATCH = 50
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "as published": (),
    "exact softmax": ("ShiftmaxAttention",),
    "exact GELU": ("ShiftGelu",),
    "exact LayerNorm": ("ILayerNorm",),
    "all three exact": ("ShiftmaxAttention", "ShiftGelu", "ILayerNorm"),
}

Array = npt.NDArray[Any]
erf = np.vectorize(math.erf, otypes=[np.float64])


class Interpreter:
    """Runs a bundle step by step, some operators exactly."""

    def __init__(self, bundle: Bundle, exact: Sequence[str]) -> None:
        self.bundle = bundle
        self.plan = load_plan(bundle)
        self.exact = exact
        content = json.loads((bundle.path / "activation_scales.json").read_text("utf-8"))
        self.scales: dict[str, Any] = content["scales"]

    def run(self, feeds: Mapping[str, Array]) -> Array:
        """Return the graph's output."""
        values: dict[str, Array] = {**self.plan.constants, **feeds}
        for step in self.plan.steps:
            inputs = [values[name] for name in step.inputs]
            if step.op_type in self.exact:
                results = EXACT[step.op_type](self, step, inputs)
            else:
                results = ops.find(step.op_type).reference(*inputs, **step.attributes)
            results = results if isinstance(results, tuple) else (results,)
            values.update(zip(step.outputs, results, strict=True))
        return values[next(iter(self.plan.outputs))]

    def scale(self, prefix: str, suffix: str) -> Any:
        """Return the scale of the site whose node begins with ``prefix``."""
        path = prefix.strip("/").replace("/", ".").rpartition(".")[0]
        found = [v for site, v in self.scales.items() if site == path + suffix]
        (scale,) = found
        return scale


def softmax_values(net: Interpreter, step: Step, inputs: list[Array]) -> Array:
    """Softmax of the same int8 scores, times the same int8 values."""
    multiplier, ends = inputs[3:]
    scale = net.scale(step.name, SCORES)
    unit = 2.0 ** (step.attributes["bits"] - 1)
    out, begin = np.empty(inputs[0].shape, np.int32), 0
    for end in ends.tolist():
        query, key, value = (
            x[begin:end].astype(float).reshape(end - begin, len(multiplier), -1).transpose(1, 0, 2)
            for x in inputs[:3]
        )
        step_size = multiplier[:, None, None] * 2.0 ** -step.attributes["shift"]
        codes = np.clip(np.rint(query @ key.transpose(0, 2, 1) * step_size), -127, 127)
        odds = np.exp((codes - codes.max(axis=-1, keepdims=True)) * scale)
        odds /= odds.sum(axis=-1, keepdims=True)
        rows = (odds * unit) @ value
        out[begin:end] = np.rint(rows.transpose(1, 0, 2).reshape(end - begin, -1))
        begin = end
    return out


def gelu(net: Interpreter, step: Step, inputs: list[Array]) -> Array:
    """GELU of the same int8 codes."""
    maker = next(other for other in net.plan.steps if step.inputs[0] in other.outputs)
    scale = net.scale(maker.name, ".codes")
    table = np.arange(-128, 128) * scale
    table = table * 0.5 * (1 + erf(table / math.sqrt(2)))
    unit = scale * 2.0 ** (1 - step.attributes["bits"])
    return np.rint(table / unit).astype(np.int32)[inputs[0].astype(int) + 128]


def layer_norm(_net: Interpreter, _step: Step, inputs: list[Array]) -> Array:
    """LayerNorm without eps of the same integers."""
    x, bias = inputs
    centred = x - x.mean(axis=1, keepdims=True)
    unit = centred / np.maximum(np.sqrt(np.square(centred).sum(axis=1, keepdims=True)), 1e-9)
    return np.clip(np.rint(unit * 2.0**30) + bias, 1 - 2**31, 2**31 - 1).astype(np.int32)


EXACT: Mapping[str, Callable[[Interpreter, Step, list[Array]], Array]] = {
    "ShiftmaxAttention": softmax_values,
    "ShiftGelu": gelu,
    "ILayerNorm": layer_norm,
}


def score_images(net: Interpreter, data: scoring.LabelledImages) -> str:
    """Return accuracy and cross-entropy."""
    pixels = np.stack(data.images).reshape(-1, *pixel_shape(net.bundle.manifest))
    context = net.bundle.manifest.context_length
    logits = np.concatenate(
        [
            net.run({PIXELS: part, ENDS: np.arange(1, len(part) + 1) * context})
            for part in np.split(pixels, range(BATCH, len(pixels), BATCH))
        ]
    )
    correct = (logits.argmax(axis=1) == np.array(data.labels)).mean()
    real = logits * 2.0**-net.bundle.manifest.logits_frame
    nats = cross_entropy(real, data.labels) / len(data.labels)
    return f"accuracy {correct:.2%}, cross-entropy {nats:.5f}"


def score_pairs(net: Interpreter, data: scoring.ScoredPairs) -> str:
    """Return the Spearman correlation."""
    facts = net.bundle.manifest
    tokenizer = Tokenizer(net.bundle.path / "tokenizer.json", facts.vocab_size)

    def embed(texts: Sequence[str]) -> Array:
        ids = [np.array(tokenizer.encode(text)[: facts.context_length]) for text in texts]
        parts = (ids[begin : begin + BATCH] for begin in range(0, len(ids), BATCH))
        return np.concatenate([net.run(text_feeds(part)) for part in parts])

    return f"Spearman {scoring.score_pairs(embed, data).spearman:.4f}"


def main() -> None:
    """Print a line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=Path, help="IDX file")
    parser.add_argument("--labels", type=Path, help="IDX file")
    parser.add_argument("--sts", type=Path, help="pairs of sentences")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="default: all")
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    for name in options.variant or VARIANTS:
        net = Interpreter(bundle, VARIANTS[name])
        if options.sts:
            line = score_pairs(net, scoring.read_pairs(options.sts, options.limit))
        else:
            names = read_labels(bundle)
            data = scoring.read_labelled_images(
                options.images, options.labels, names, options.limit
            )
            line = score_images(net, data)
        sys.stdout.write(f"{name:16}  {line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
