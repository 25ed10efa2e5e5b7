"""Quantise the linears of a model one after the other, each making good what those before lost.

The unquantised model and the model as far as it is quantised run side by side on calibration texts.
For every linear the weight is first moved to where the outputs of the quantised model come closest
to those of the other (ridge regression; what is added to the residual stream also makes good the
error that the stream has by then), and then rounded as ``low_bit`` does. On stories260k at 3 bits
in groups of 64 the loss rises by 21 %; by 29 % when each linear is rounded on its own, and by 68 %
when each weight goes to the nearest level.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgellm.exporters.float_parts import Activations, Block, FloatParts, Input, Linear
from edgellm.exporters.quantizers import low_bit
from edgellm.exporters.quantizers.grids import Floats
from edgellm.exporters.quantizers.low_bit import LowBitLinear, Scheme

RIDGE = 0.1
"""How strongly a weight is held to its place: a share of the mean of H's diagonal.

On stories260k at 3 bits in groups of 32, 0.1 lowers the rise of the loss by 5 % against 0.001.
"""

ROWS = 2048
"""Activations that are made float64 at once."""

Inputs = Sequence[Input]
"""Such as the token ids of each text."""
Done = Callable[[str, LowBitLinear], None]
"""Called with each linear's path and result."""
Known = Callable[[str], LowBitLinear | None]
"""Returns what an earlier run made of a linear."""


@dataclass
class _Streams:
    """The residual stream of every input, in the model as it was and as far as it is quantised."""

    exact: list[Activations]
    quantized: list[Activations]


@dataclass
class _Moments:
    """Sums over the inputs x of a linear as far as the model is quantised.

    Attributes:
        hessian: (K, K) of x x'.
        cross: (K, K) of x times the inputs in the model as it was.
    """

    hessian: Floats
    cross: Floats


class Calibrated:
    """One model being quantised."""

    def __init__(self, parts: FloatParts, inputs: Inputs, schemes: Mapping[str, Scheme]) -> None:
        """Get ready.

        Args:
            parts: of the model.
            inputs: to calibrate on.
            schemes: of each linear, by its path.
        """
        self._parts = parts
        self._inputs = inputs
        self._schemes = schemes

    def run(self, done: Done, known: Known = lambda _: None) -> None:
        """Quantise all linears, in the order of the graph.

        Args:
            done: takes each result.
            known: results of an earlier run that was interrupted, which are used again.
        """
        streams = _Streams([], [])
        for block in self._parts.blocks(self._schemes):
            taps = [stage[0].x for stage in block.stages]
            exact = self._run(block, [*taps, block.carried, block.end], streams.exact)
            for stage in block.stages:
                name = stage[0].x
                ends = block.last in [linear.path for linear in stage]
                reached = self._run(block, [name, *([block.carried] * ends)], streams.quantized)
                moments = _measure(rows_of(reached, name), rows_of(exact, name))
                missing: Floats | None = None
                if ends:
                    lost = rows_of(exact, block.carried) - rows_of(reached, block.carried)
                    missing = _product(rows_of(reached, name), lost)
                for linear in stage:
                    result = known(linear.path)
                    if result is None:
                        added = missing if linear.path == block.last else None
                        result = self._quantize(linear, moments, added)
                    self._parts.replace(linear, result.real(linear.shape[1]))
                    done(linear.path, result)
            reached = self._run(block, [block.end], streams.quantized)
            streams = _Streams(
                [one[block.end] for one in exact], [one[block.end] for one in reached]
            )

    def _run(
        self, block: Block, outputs: Sequence[str], streams: Sequence[Activations]
    ) -> list[dict[str, Activations]]:
        return self._parts.run(block.begin, outputs, self._inputs, streams)

    def _quantize(self, linear: Linear, moments: _Moments, missing: Floats | None) -> LowBitLinear:
        """Move the weight to where its outputs serve best, and round it.

        Args:
            linear: which.
            moments: of its inputs.
            missing: (K, N) the inputs times what the stream that its output is added to has lost.
        """
        weight = self._parts.weight(linear).astype(np.float64)
        outputs = moments.cross @ weight.T
        if missing is not None:
            outputs += missing
        target = _regress(moments.hessian, outputs, weight)
        return low_bit.quantize(target, moments.hessian, self._schemes[linear.path])


def _measure(x: Activations, wanted: Activations) -> _Moments:
    return _Moments(_product(x, x), _product(x, wanted))


def _product(x: Activations, y: Activations) -> Floats:
    """Return ``x.T @ y`` in float64, of which only some rows are there at a time."""
    total = np.zeros((x.shape[1], y.shape[1]))
    for begin in range(0, len(x), ROWS):
        part = slice(begin, begin + ROWS)
        total += x[part].astype(np.float64).T @ y[part].astype(np.float64)
    return total


def rows_of(results: Sequence[dict[str, Activations]], name: str) -> Activations:
    """Return a value of all inputs, row after row."""
    values = [result[name] for result in results]
    return np.concatenate([value.reshape(-1, value.shape[-1]) for value in values])


def _regress(hessian: Floats, moments: Floats, weight: Floats) -> Floats:
    """Return the weight (N, K) of least output error that stays near ``weight``."""
    ridge = RIDGE * float(np.trace(hessian)) / len(hessian)
    if ridge <= 0:
        return weight
    held = hessian + ridge * np.eye(len(hessian))
    return np.asarray(np.linalg.solve(held, moments + ridge * weight.T).T, np.float64)
