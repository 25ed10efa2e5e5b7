"""Tune the codes of a quantised model, all of them together, from its answers back.

Linear after linear, a weight is rounded so that the outputs of that linear change little. What all
of them do to the answers, and how they could make good each other's errors, that does not see. So
each weight gets a real number to be tuned, which stands for the level nearest to it: forward the
model is computed with these levels, and gradients go back to the numbers as if there was no
rounding (straight-through estimation; LLM-QAT, arXiv 2305.17888, EfficientQAT, arXiv 2407.11062).
What is learned is to answer as the float model does. Levels stay as they are, so only codes change.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee

import numpy as np
import numpy.typing as npt

from edgellm.exporters.calibrated import Inputs
from edgellm.exporters.float_parts import Activations, FloatParts, Input, Linear
from edgellm.exporters.progress import Progress
from edgellm.exporters.quantizers.latent_weights import LatentWeight
from edgellm.exporters.quantizers.row_classes import QuantizedWeight
from edgellm.exporters.sensitivity import distance, divergence
from edgellm.exporters.tuning_inputs import pieces
from edgellm.graph_names import LOGITS

Singles = npt.NDArray[np.float32]

RATE = 0.001
"""Of the distance of two levels: how far a weight moves in one of the first steps."""
WARM_STEPS = 10
ROWS = 256
"""Tokens, or patches, that a step learns from, at least."""
ANSWERS = 32
"""Tokens, sentences or images whose answers a step learns from, at least."""
WARMTH = 4
"""By what the logits of a classifier are divided before they are compared. It is sure of most
images, and would learn from few: vit-mnist's loss at 2.5 bits falls by 30 %, else not at all."""
CHECKS = 16
"""How often the loss is measured on inputs that are held out."""
SEED = 3


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Attributes:
        weights: by path.
        before: the loss on inputs that were held out.
        after: the same of ``weights``.
    """

    weights: dict[str, QuantizedWeight]
    before: float
    after: float


class Tuning:
    """A model whose codes are tuned."""

    def __init__(
        self,
        parts: FloatParts,
        originals: Mapping[str, Activations],
        quantized: Mapping[str, QuantizedWeight],
        held: Inputs,
    ) -> None:
        """Get ready.

        Args:
            parts: of the float model; it is not written to.
            originals: its weights (N, K), by path.
            quantized: what they became.
            held: inputs to judge by.
        """
        self._parts = parts
        self._linears = parts.find(quantized)
        self._exact = {
            self._linears[path].weight: _as_stored(weight.T, self._linears[path])
            for path, weight in originals.items()
        }
        self._latent = {
            path: LatentWeight(weight, originals[path]) for path, weight in quantized.items()
        }
        self._rounded: dict[str, Activations] = {}
        self._round()
        self._held = pieces(held)
        self._warmth = np.float32(1 if held[0].ndim == 1 else WARMTH)

    def run(
        self, inputs: Inputs, steps: int, progress: Progress = lambda _done, _total: None
    ) -> Tuned:
        """Take steps, and return the best codes that there were.

        Args:
            inputs: to learn from.
            steps: how many.
            progress: called with the steps done and their number.
        """
        exact = self._answers(self._held, self._exact)
        before = least = self._loss(exact)
        best = {path: latent.codes() for path, latent in self._latent.items()}
        every = max(1, steps // CHECKS)
        slopes = self._slopes(pieces(inputs))
        for count in range(1, steps + 1):
            for path, slope in next(slopes).items():
                self._latent[path].move(slope, _rate(count, steps), count)
            self._round()
            if count % every == 0 or count == steps:
                found = self._loss(exact)
                if found < least:
                    least = found
                    best = {path: latent.codes() for path, latent in self._latent.items()}
            progress(count, steps)
        weights = {path: self._latent[path].with_codes(codes) for path, codes in best.items()}
        return Tuned(weights, before, least)

    def _slopes(self, inputs: Inputs) -> Iterator[dict[str, Singles]]:
        """Yield gradients of the weights (K, N), by path: what a step learns from."""
        linears, output = list(self._linears.values()), self._parts.output
        way = self._parts.way_back(None, [output], {one.y for one in linears})
        first, second = tee(_shuffled(inputs))
        exact = self._parts.run_with([output], self._exact, ((one, self._exact) for one in first))
        reached = self._parts.run_with(
            way.taken, self._exact, ((one, self._rounded) for one in second)
        )
        while True:
            rows, answers = 0, 0
            slopes = {one.path: np.zeros(one.shape[::-1], np.float32) for one in linears}
            while rows < ROWS or answers < ANSWERS:
                wanted, values = next(exact)[output], next(reached)
                seed = self._slope(wanted, values[output])
                found = way.gradients(values, {output: seed})
                for one in linears:
                    x = values[one.x].reshape(-1, one.shape[1])
                    slopes[one.path] += x.T @ found[one.y].reshape(-1, one.shape[0])
                rows += values[linears[0].x].size // linears[0].shape[1]
                answers += len(wanted)
            yield slopes

    def _slope(self, exact: Activations, reached: Activations) -> Activations:
        """Return the gradient of what answers lose."""
        if self._parts.output == LOGITS:
            return _softmax(reached / self._warmth) - _softmax(exact / self._warmth)
        return (reached - exact) / np.float32(np.square(exact).mean())

    def _round(self) -> None:
        """Take the codes of now, as the file would have them."""
        for path, linear in self._linears.items():
            self._rounded[linear.weight] = _as_stored(self._latent[path].rounded(), linear)

    def _answers(self, inputs: Inputs, weights: Mapping[str, Activations]) -> list[Activations]:
        """Return what the model answers with some weights."""
        output = self._parts.output
        feeds = ((one, weights) for one in inputs)
        return [one[output] for one in self._parts.run_with([output], weights, feeds)]

    def _loss(self, exact: Sequence[Activations]) -> float:
        """Return what the codes of now lose on what is held out."""
        reached = self._answers(self._held, self._rounded)
        measure = divergence if self._parts.output == LOGITS else distance
        return measure(np.concatenate(exact), np.concatenate(reached))


def _shuffled(inputs: Inputs) -> Iterator[Input]:
    """Yield inputs without end, in another order each time that all were used."""
    rng = np.random.default_rng(SEED)
    while True:
        for place in rng.permutation(len(inputs)):
            yield inputs[place]


def _as_stored(weight: Singles, linear: Linear) -> Singles:
    """Return a weight (K, N) as the graph has it."""
    return np.ascontiguousarray(weight if linear.is_turned else weight.T)


def _rate(count: int, steps: int) -> float:
    """Return how far a step goes: it rises quickly and falls as a cosine does."""
    return RATE * min(1.0, count / WARM_STEPS) * (1 + math.cos(math.pi * (count - 1) / steps)) / 2


def _softmax(logits: Activations) -> Activations:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Activations = powers / powers.sum(axis=-1, keepdims=True)
    return shares
