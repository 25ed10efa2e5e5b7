"""Texts that a model writes itself: to learn from what it answers, they do as well as others."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.runtime.model import Model

LONGEST = 256
"""Tokens of a text."""
BEGINNING = 4
"""Tokens of a text that are given: so it is of the kind that it is to be like."""

Ids = npt.NDArray[np.int64]


def write_texts(bundle: Path, examples: Sequence[npt.NDArray[np.generic]], most: int) -> list[Ids]:
    """Return texts, drawn as their probabilities are.

    Args:
        bundle: the directory of the model.
        examples: ids of texts, whose first ids new texts begin with; each at least one.
        most: tokens of all together; the last text may go beyond.
    """
    texts: list[Ids] = []
    model = Model(bundle)
    with closing(model.engine) as engine:
        longest = min(LONGEST, engine.context_length)
        while sum(map(len, texts)) < most:
            begin = [int(token) for token in examples[len(texts) % len(examples)][:BEGINNING]]
            count = max(1, longest - len(begin))
            tokens = model.stream(begin, max_tokens=count, temperature=1.0, seed=len(texts))
            texts.append(np.array([*begin, *(token.token_id for token in tokens)], np.int64))
    return texts
