import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import ConfigError
from edgellm.runtime.evaluate import (
    SessionScorer,
    cross_entropy,
    evaluate,
    read_texts,
)
from edgellm.runtime.session import Session
from edgellm.runtime.tokenizer import Tokenizer

STORIES = " one \n<|endoftext|>\ntwo two\n<|endoftext|>\n\n<|endoftext|>three"


class UniformScorer:
    """Gives every token of a vocabulary of 8 the same probability."""

    def nats(self, ids):
        return (len(ids) - 1) * math.log(8)


class HopelessScorer:
    """Gives every token next to no probability."""

    def nats(self, ids):
        return (len(ids) - 1) * 60_000.0


def test_a_hopeless_model_has_a_finite_perplexity(tokenizer: Tokenizer) -> None:
    result = evaluate(HopelessScorer(), tokenizer, [tokenizer.encode("abc")])

    assert result.nats_per_token == 60_000
    assert 1e300 < result.perplexity < math.inf


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    path = tmp_path / "stories.txt"
    path.write_text(STORIES)
    return path


def test_stories_are_stripped_and_begin_with_bos(stories: Path, tokenizer: Tokenizer) -> None:
    texts = read_texts(stories, tokenizer, context=64)

    assert [tokenizer.decode(ids) for ids in texts] == ["one", "two two", "three"]
    assert all(ids[0] == 0 for ids in texts)


def test_texts_are_cut_at_the_context(stories: Path, tokenizer: Tokenizer) -> None:
    texts = read_texts(stories, tokenizer, context=4)

    assert [tokenizer.decode(ids) for ids in texts] == ["one", "two", "thr"]


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (3, 1), (4, 2), (10, 2), (11, 3), (99, 3)])
def test_the_limit_takes_whole_stories(
    stories: Path, tokenizer: Tokenizer, limit: int, count: int
) -> None:
    assert len(read_texts(stories, tokenizer, context=64, limit_bytes=limit)) == count


def test_a_text_without_separators_fills_windows(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abcdefgh")

    texts = read_texts(path, tokenizer, context=4)

    assert [tokenizer.decode(ids) for ids in texts] == ["abc", "def", "gh"]
    assert all(ids[0] == 0 for ids in texts)
    assert len(read_texts(path, tokenizer, context=4, limit_bytes=5)) == 2


def test_gzip_is_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "stories.txt.gz"
    path.write_bytes(gzip.compress(STORIES.encode()))

    assert len(read_texts(path, tokenizer, context=64)) == 3


def test_figures_of_a_uniform_model(stories: Path, tokenizer: Tokenizer) -> None:
    done = []
    texts = read_texts(stories, tokenizer, context=64)

    result = evaluate(UniformScorer(), tokenizer, texts, done.append)

    # One token a byte, 15 bytes, 3 bits each.
    assert (result.tokens, result.bytes, result.texts) == (15, 15, 3)
    assert result.nats_per_token == pytest.approx(math.log(8), rel=1e-12)
    assert result.bits_per_byte == pytest.approx(3, rel=1e-12)
    assert result.perplexity == pytest.approx(8, rel=1e-12)
    assert done == [3, 7, 5]


def test_a_first_token_that_is_text_is_not_counted(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("four", add_special_tokens=False)

    assert evaluate(UniformScorer(), tokenizer, [ids]).bytes == 3


def test_cross_entropy_is_exact_on_extreme_logits() -> None:
    logits = np.array([[0.0, 0.0], [0.0, 30_000.0], [-30_000.0, 0.0]])

    assert cross_entropy(logits[:1], [1]) == pytest.approx(math.log(2), rel=1e-15)
    assert cross_entropy(logits[1:], [1, 0]) == 30_000.0


def test_the_session_scorer_sums_over_blocks(engine_class, tokenizer: Tokenizer) -> None:
    engine = engine_class(context_length=200)
    scorer = SessionScorer(lambda: Session(engine, "bundle-a"))
    ids = [int(item) for item in np.random.default_rng(1).integers(2, 200, 150)]

    expected = 0.0
    for index in range(1, len(ids)):
        logits = engine.logits(np.array(ids[:index])) / 65536
        expected += math.log(np.exp(logits).sum()) - logits[ids[index]]

    # Sums of 149 float64 terms in two orders; 1e-12 is far above their rounding.
    assert scorer.nats(ids) == pytest.approx(expected, rel=1e-12)
    assert scorer.nats(ids) == scorer.nats(ids)


def test_texts_with_nothing_to_predict_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="too short"):
        evaluate(UniformScorer(), tokenizer, [[0], []])


@pytest.mark.parametrize(
    ("name", "content"),
    [("text.txt", b"\xff\xfe"), ("text.txt.gz", b"no gzip"), ("text.txt.gz", b"\x1f\x8b\x08")],
)
def test_unreadable_texts_are_refused(
    tmp_path: Path, tokenizer: Tokenizer, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ConfigError, match=name):
        read_texts(tmp_path / name, tokenizer, context=64)


def test_a_missing_text_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_texts(tmp_path / "none.txt", tokenizer, context=64)


@pytest.mark.parametrize(("context", "limit"), [(1, None), (0, None), (8, 0), (8, -1)])
def test_limits_out_of_range_are_refused(
    stories: Path, tokenizer: Tokenizer, context: int, limit: int | None
) -> None:
    with pytest.raises(ConfigError, match="at least"):
        read_texts(stories, tokenizer, context, limit)
