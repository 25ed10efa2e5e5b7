"""Score a text: nats per token and bits per byte, of a bundle or of a float checkpoint alike.

Texts are separated by ``<|endoftext|>``; each is stripped, encoded with the special tokens that its
tokenizer adds, and cut at the context. A file without separators is cut into windows that fill the
context. Every token after the first of each text is predicted and counts once.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError
from edgellm.runtime.sampler import LOGITS_FRAME
from edgellm.runtime.session import Session
from edgellm.runtime.tokenizer import Tokenizer

SEPARATOR = "<|endoftext|>"
MAX_EXPONENT = 700.0
"""exp of more is no float; broken weights give up to 65536 nats."""
BLOCK_TOKENS = 64
"""Rows of logits at a time: 64 rows of 128 k logits take 66 MB as float64."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well a model predicts a text; lower is better."""

    nats_per_token: float
    bits_per_byte: float
    perplexity: float
    tokens: int
    bytes: int
    texts: int


class Scorer(Protocol):
    """Something that predicts tokens."""

    def nats(self, ids: Sequence[int]) -> float:
        """Return the sum of -log(probability) of ids[1:], each given those before it."""


class SessionScorer:
    """Predicts with an integer bundle."""

    def __init__(self, new_session: Callable[[], Session]) -> None:
        self._session = new_session()

    def nats(self, ids: Sequence[int]) -> float:
        """Return the sum of -log(probability) of ids[1:]."""
        self._session.rewind(0)
        total = 0.0
        for begin in range(0, len(ids) - 1, BLOCK_TOKENS):
            block = ids[begin : min(begin + BLOCK_TOKENS, len(ids) - 1)]
            logits = self._session.score(block).astype(np.float64) * 2.0**-LOGITS_FRAME
            total += cross_entropy(logits, ids[begin + 1 : begin + 1 + len(block)])
        return total


def cross_entropy(logits: npt.NDArray[np.float64], targets: Sequence[int]) -> float:
    """Return the sum over rows of -log softmax(logits)[target], in nats.

    Args:
        logits: (rows, vocab) float64.
        targets: (rows,) ids.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalizer = np.log(np.exp(shifted).sum(axis=1))
    return float((normalizer - shifted[np.arange(len(targets)), list(targets)]).sum())


def evaluate(
    scorer: Scorer,
    tokenizer: Tokenizer,
    texts: Sequence[Sequence[int]],
    progress: Callable[[int], object] = lambda _: None,
) -> Evaluation:
    """Score texts.

    Args:
        scorer: the model.
        tokenizer: counts the bytes that the scored ids stand for.
        texts: ids of each text.
        progress: called with the number of tokens of each text that was scored.

    Raises:
        ConfigError: no text has two tokens, so nothing can be predicted.
    """
    nats, tokens, size, count = 0.0, 0, 0, 0
    for ids in texts:
        if len(ids) < 2:
            continue
        nats += scorer.nats(ids)
        tokens += len(ids) - 1
        size += _utf8_size(tokenizer, ids) - _utf8_size(tokenizer, ids[:1])
        count += 1
        progress(len(ids) - 1)
    if tokens == 0 or size == 0:
        raise ConfigError("the text is too short: there is no token to predict")
    return Evaluation(
        nats_per_token=nats / tokens,
        bits_per_byte=nats / float(np.log(2.0)) / size,
        perplexity=float(np.exp(min(nats / tokens, MAX_EXPONENT))),
        tokens=tokens,
        bytes=size,
        texts=count,
    )


def _utf8_size(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    return len(tokenizer.decode(ids).encode("utf-8"))


def read_texts(
    path: Path, tokenizer: Tokenizer, context: int, limit_bytes: int | None = None
) -> list[list[int]]:
    """Return the ids of the texts in a file, which may be gzipped.

    Args:
        path: UTF-8 text.
        tokenizer: of the model.
        context: most ids of one text.
        limit_bytes: take no further story once so many bytes were taken; in a file without
            separators, take about so many bytes.

    Raises:
        ConfigError: no such file, not UTF-8, or a limit out of range.
    """
    return encode_texts(read_text(path), tokenizer, context, limit_bytes)


def encode_texts(
    text: str, tokenizer: Tokenizer, context: int, limit_bytes: int | None = None
) -> list[list[int]]:
    """Return the ids of the texts in a file's content; arguments as for ``read_texts``.

    Raises:
        ConfigError: a limit is out of range.
    """
    if context < 2:
        raise ConfigError(f"context is {context}; scoring a text needs at least 2")
    if limit_bytes is not None and limit_bytes < 1:
        raise ConfigError(f"limit_bytes is {limit_bytes}; it must be at least 1")
    if SEPARATOR in text:
        stories = _take((story.strip() for story in text.split(SEPARATOR)), limit_bytes)
        return [tokenizer.encode(story)[:context] for story in stories]
    if limit_bytes is not None:
        text = text.encode("utf-8")[:limit_bytes].decode("utf-8", errors="ignore")
    return _windows(tokenizer, text, context)


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 file, plain or .gz.

    Raises:
        ConfigError: it cannot be read, or is no UTF-8.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as stream:
                return stream.read()
        return path.read_text(encoding="utf-8")
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text: {error}") from error


def lines_of(text: str) -> list[str]:
    """Return the lines of a text; what else may end one by Unicode may be inside one."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines


def _take(stories: Iterator[str], limit_bytes: int | None) -> Iterator[str]:
    taken = 0
    for story in filter(None, stories):
        if limit_bytes is not None and taken >= limit_bytes:
            return
        taken += len(story.encode("utf-8"))
        yield story


def _windows(tokenizer: Tokenizer, text: str, context: int) -> list[list[int]]:
    """Cut a text into windows, each with the special tokens that begin a text."""
    ids = iter(tokenizer.encode(text, add_special_tokens=False))
    first = tokenizer.leading_ids()
    room = context - len(first)
    if room < 1:
        raise ConfigError(f"context is {context}; {len(first)} of it are special tokens")
    windows = []
    while window := list(islice(ids, room)):
        windows.append([*first, *window])
    return windows
