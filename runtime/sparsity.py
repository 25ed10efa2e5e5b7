"""How much squared ReLU leaves to read: measured on real text, as bytes of weights a token."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm.runtime.model import Model
from edgellm.runtime.plan import Step
from edgellm.ternary_layouts import GATED_OPERATORS

TEXT = (
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having "
    "nothing to do: once or twice she had peeped into the book her sister was reading, but it had "
    "no pictures or conversations in it, and what is the use of a book, thought Alice, without "
    "pictures or conversations?"
)
"""The beginning of Lewis Carroll's Alice's Adventures in Wonderland (1865)."""
TOKENS = 64

Values = Mapping[str, npt.NDArray[np.generic]]
Skipped = Callable[[Step, Values], float]


@dataclass(frozen=True)
class Sparsity:
    """Means over the tokens of TEXT.

    Attributes:
        closed_gates: share of the gates that are not positive; None if the graph skips no rows.
        zero_codes: share of the activations that are 0 where zeros are not read; None if nowhere.
        bytes_read: of weights, for one token alone.
    """

    closed_gates: float | None
    zero_codes: float | None
    bytes_read: float


def measure(model: Model) -> Sparsity | None:
    """Run TEXT through a model; return None if its graph has nothing to skip.

    Raises:
        BundleError: the bundle has no tokenizer.
    """
    engine = model.engine
    plan = engine.plan
    if not any(step.op_type in SKIPPED for step in plan.steps):
        return None
    longest = min(TOKENS, engine.chunk, engine.context_length)
    ids = np.array(model.tokenizer.encode(TEXT)[:longest], np.int64)
    values = engine.trace(ids, engine.new_cache(len(ids)))
    shares: dict[Skipped, list[float]] = {_closed_gates: [], _zero_codes: []}
    total = 0.0
    for step in plan.steps:
        share = 0.0
        if step.op_type in SKIPPED:
            skipped = SKIPPED[step.op_type]
            share = skipped(step, values)
            shares[skipped].append(share)
        total += (1 - share) * plan.weight_bytes(step)
    gates, codes = (float(np.mean(each)) if each else None for each in shares.values())
    return Sparsity(gates, codes, total)


def _closed_gates(step: Step, values: Values) -> float:
    return float(np.mean(values[step.inputs[2]].astype(np.int64) <= 0))


def _zero_codes(step: Step, values: Values) -> float:
    return float(np.mean(values[step.inputs[0]] == 0))


SKIPPED: dict[str, Skipped] = {
    **dict.fromkeys(GATED_OPERATORS, _closed_gates),
    "ColumnBitLinear": _zero_codes,
}
"""By operator, the share of its weights that is not read."""
