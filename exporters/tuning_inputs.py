"""What a model is tuned on: most of the inputs to calibrate on, and more that are made of them."""

import numpy as np

from edgellm.errors import ConfigError
from edgellm.exporters.calibrated import Inputs
from edgellm.exporters.float_parts import Input

FOLDS = 8
"""One of so many inputs is held out."""
LONGEST = 128
"""Tokens of a text that are computed together. Attention takes less time by short texts."""
STACKED = 8
"""Sentences or images that are computed together."""
REPLACED = 0.4
"""Share of the tokens of a sentence that is made of two."""
SHORTEST = 4
"""Tokens of a sentence that is made of two."""
SEED = 7


def split(inputs: Inputs) -> tuple[list[Input], list[Input]]:
    """Return inputs that are held out, and the others.

    Args:
        inputs: texts (tokens,), or some of one shape stacked: (sentences, tokens), (images, ...).

    Raises:
        ConfigError: there is too little for both.
    """
    if len(inputs) == 1 and inputs[0].ndim == 1:
        cut = len(inputs[0]) // FOLDS
        held, learnt = [inputs[0][:cut]], [inputs[0][cut:]]
    elif inputs[0].ndim == 1:
        held, learnt = list(inputs[::FOLDS]), [x for i, x in enumerate(inputs) if i % FOLDS]
    else:
        begins = np.cumsum([0, *map(len, inputs)])[:-1]
        out = [(at + np.arange(len(x))) % FOLDS == 0 for at, x in zip(begins, inputs, strict=True)]
        held = [x[places] for x, places in zip(inputs, out, strict=True)]
        learnt = [x[~places] for x, places in zip(inputs, out, strict=True)]
    held, learnt = ([x for x in part if x.size] for part in (held, learnt))
    # One token is followed by none that could be judged.
    if not learnt or not held or max(x.shape[-1] for x in held) < 2:
        raise ConfigError(
            "tuning takes inputs to learn from and others to judge by: give more to calibrate on, "
            "or leave the tuning out"
        )
    return held, learnt


def pieces(inputs: Inputs) -> list[Input]:
    """Return parts of texts, and few sentences or images at a time."""
    found = []
    for one in inputs:
        size = LONGEST if one.ndim == 1 else STACKED
        found += [one[first : first + size] for first in range(0, len(one), size)]
    return found


def without(inputs: Inputs, held: Inputs) -> list[Input]:
    """Return inputs without those of stacked ones that are held out."""
    known = {one.tobytes() for stack in held for one in stack}
    found = []
    for stack in inputs:
        kept = [one.tobytes() not in known for one in stack] if stack.ndim > 1 else slice(None)
        found.append(stack[kept])
    return [stack for stack in found if len(stack)]


def crossed(sentences: Inputs, count: int, vocab_size: int) -> list[Input]:
    """Return sentences, each of the first part of one and the last part of another.

    Some of their tokens become any others. What they mean does not matter: a model whose weights
    are rounded for few sentences alone fits these and no others.

    Args:
        sentences: stacked by length, (n, tokens).
        count: how many at most; those that would be too short or too long are left out.
        vocab_size: of the model.
    """
    rng = np.random.default_rng(SEED)
    known = [ids for stack in sentences for ids in stack]
    found: dict[int, list[Input]] = {}
    for _ in range(count):
        first, last = (known[place] for place in rng.integers(0, len(known), 2))
        cut = rng.integers(1, len(first), endpoint=True), rng.integers(0, len(last))
        ids = np.concatenate([first[: cut[0]], last[cut[1] :]])
        if SHORTEST <= len(ids) <= max(map(len, (first, last))):
            other = rng.random(len(ids)) < REPLACED
            other[[0, -1]] = False  # such as [CLS] and [SEP]
            ids[other] = rng.integers(0, vocab_size, np.count_nonzero(other))
            found.setdefault(len(ids), []).append(ids)
    return [np.stack(found[length]) for length in sorted(found)]
