"""Quantise the linears of a model one after the other, each making good what those before lost.

The unquantised model and the model as far as it is quantised run side by side on calibration texts.
For every linear the weight is first moved to where the outputs of the quantised model come closest
to those of the other (ridge regression; what is added to the residual stream also makes good the
error that the stream has by then), and then rounded as ``low_bit`` does. On stories260k at 3 bits
in groups of 64 the loss rises by 21 %; by 29 % when each linear is rounded on its own, and by 68 %
when each weight goes to the nearest level.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.exporters.float_parts import Activations, Block, FloatParts, Linear
from edgellm.exporters.quantizers import low_bit
from edgellm.exporters.quantizers.grids import Floats
from edgellm.exporters.quantizers.low_bit import LowBitLinear, Scheme

RIDGE = 0.1
"""How strongly a weight is held to its place: a share of the mean of H's diagonal.

On stories260k at 3 bits in groups of 32, 0.1 lowers the rise of the loss by 5 % against 0.001.
"""

Texts = Sequence[npt.NDArray[np.int64]]
Done = Callable[[str, LowBitLinear], None]
"""Called with each linear's path and result."""
Known = Callable[[str], LowBitLinear | None]
"""Returns what an earlier run made of a linear."""


@dataclass
class _Streams:
    """The residual stream of every text, in the model as it was and as far as it is quantised."""

    exact: list[Activations]
    quantized: list[Activations]


class Calibrated:
    """One model being quantised."""

    def __init__(self, parts: FloatParts, texts: Texts, scheme: Scheme) -> None:
        self._parts = parts
        self._texts = texts
        self._scheme = scheme

    def run(self, linears: Sequence[str], done: Done, known: Known = lambda _: None) -> None:
        """Quantise all linears, in the order of the graph.

        Args:
            linears: their paths.
            done: takes each result.
            known: results of an earlier run that was interrupted, which are used again.
        """
        streams = _Streams([], [])
        for block in self._parts.blocks(linears):
            taps = [stage[0].x for stage in block.stages]
            exact = self._run(block, [*taps, block.end], streams.exact)
            for stage in block.stages:
                name = stage[0].x
                reached = self._run(block, [name], streams.quantized)
                x = np.concatenate([text[name] for text in reached])
                wanted = np.concatenate([text[name] for text in exact])
                for linear in stage:
                    result = known(linear.path)
                    if result is None:
                        result = self._quantize(block, linear, x, wanted, streams)
                    self._parts.replace(linear, result.real(linear.shape[1]))
                    done(linear.path, result)
            reached = self._run(block, [block.end], streams.quantized)
            streams = _Streams(
                [text[block.end] for text in exact], [text[block.end] for text in reached]
            )

    def _run(
        self, block: Block, outputs: Sequence[str], streams: Sequence[Activations]
    ) -> list[dict[str, Activations]]:
        return self._parts.run(block.begin, outputs, self._texts, streams)

    def _quantize(
        self, block: Block, linear: Linear, x: Activations, wanted: Activations, streams: _Streams
    ) -> LowBitLinear:
        """Move the weight to where its outputs serve best, and round it."""
        weight = self._parts.weight(linear).astype(np.float64)
        inputs = x.astype(np.float64)
        hessian = inputs.T @ inputs
        outputs: Floats = wanted.astype(np.float64) @ weight.T
        if linear.path == block.last and streams.exact:
            pairs = zip(streams.exact, streams.quantized, strict=True)
            outputs = outputs + np.concatenate([exact - reached for exact, reached in pairs])
        target = _regress(hessian, inputs.T @ outputs, weight)
        return low_bit.quantize(target, hessian, self._scheme)


def _regress(hessian: Floats, moments: Floats, weight: Floats) -> Floats:
    """Return the weight (N, K) of least output error that stays near ``weight``."""
    ridge = RIDGE * float(np.trace(hessian)) / len(hessian)
    if ridge <= 0:
        return weight
    held = hessian + ridge * np.eye(len(hessian))
    return np.asarray(np.linalg.solve(held, moments + ridge * weight.T).T, np.float64)
