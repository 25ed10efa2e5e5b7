"""Speculation changes the number of calls, and nothing else."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm.errors import ConfigError
from edgellm.runtime import speculation
from edgellm.runtime.generation import GenerationRequest, generate
from edgellm.runtime.sampler import SamplingParams
from edgellm.runtime.session import Session
from edgellm.runtime.speculation import DRAFT_LENGTHS, CallCosts

CONTEXT = 96

samplings = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.2, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 3]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    min_p=st.sampled_from([0.0, 0.2]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    seed=st.integers(0, 2**64 - 1),
)
prompts = st.lists(st.integers(40, 44), min_size=1, max_size=CONTEXT - 1)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch):
    """Let every call of an engine take a second by the clock: a draft costs nothing."""

    def clock(engine):
        monkeypatch.setattr(speculation, "perf_counter", lambda: float(len(engine.computed)))
        return engine

    return clock


def results(engine, tokenizer, prompt: list[int], **options) -> tuple[list, Session]:
    session = Session(engine, "bundle-a")
    request = GenerationRequest(**options)
    return list(generate(session, tokenizer, prompt, request)), session


def shown(tokens: list) -> list[tuple]:
    return [(token.text, token.token_id, token.index, token.finish_reason) for token in tokens]


options_of_a_request = st.fixed_dictionaries(
    {
        "sampling": samplings,
        "max_tokens": st.integers(1, 2 * CONTEXT),
        "stop": st.lists(st.text("abcdefKLMN", min_size=1, max_size=2), max_size=2),
        "eos_token_ids": st.frozensets(st.integers(30, 60), max_size=2),
    }
)


@given(prompt=prompts, options=options_of_a_request)
@settings(max_examples=60)
def test_everything_is_the_same_as_without(
    prompt, options, tokenizer, engine_class, repeating_engine_class
) -> None:
    for kind in (engine_class, repeating_engine_class):
        plain, session = results(kind(CONTEXT), tokenizer, prompt, **options)
        tokens, drafted = results(kind(CONTEXT), tokenizer, prompt, speculate="ngram", **options)

        assert shown(tokens) == shown(plain)
        assert drafted.ids == session.ids
        assert plain[-1].stats.speculation is None
        assert tokens[-1].stats.speculation is not None
        again = drafted.extend([50]) if drafted.room else drafted.extend()
        assert np.array_equal(again, kind(CONTEXT).logits(np.array(drafted.ids)))


def test_a_text_that_repeats_takes_few_calls(tokenizer, repeating_engine_class, counted) -> None:
    engine = counted(repeating_engine_class(400))
    options = {"sampling": SamplingParams(), "max_tokens": 300}
    tokens, _ = results(engine, tokenizer, [0, 40, 50], speculate="ngram", **options)

    stats = tokens[-1].stats.speculation
    prompt_call, *calls = engine.computed
    assert prompt_call == 3
    assert stats.calls_per_token == len(calls) / 299 < 0.2
    assert stats.drafted_tokens == sum(calls) - len(calls)
    assert len(calls) + stats.accepted_tokens == 299
    assert stats.acceptance_rate == stats.accepted_tokens / stats.drafted_tokens > 0.8


def test_a_text_without_repetition_gets_few_drafts(tokenizer, engine_class, counted) -> None:
    engine = counted(engine_class(400))
    options = {"sampling": SamplingParams(), "max_tokens": 300}
    tokens, _ = results(engine, tokenizer, [0, 40, 50], speculate="ngram", **options)

    stats = tokens[-1].stats.speculation
    assert stats.calls_per_token > 0.97
    assert stats.drafted_tokens < 30


def test_nothing_is_computed_beyond_what_is_wanted(
    tokenizer, repeating_engine_class, counted
) -> None:
    for options in ({"max_tokens": 50}, {"max_tokens": 500}):
        engine = counted(repeating_engine_class(90))
        options["sampling"] = SamplingParams()
        tokens, session = results(engine, tokenizer, [0] + [40] * 30, speculate="ngram", **options)

        stats = tokens[-1].stats.speculation
        assert stats.accepted_tokens > 20
        # Rejected drafts are computed in vain; the last token is never computed.
        wasted = stats.drafted_tokens - stats.accepted_tokens
        assert sum(engine.computed) == len(session) - 1 + wasted


def test_a_caller_that_stops_within_a_draft_can_go_on(
    tokenizer, repeating_engine_class, counted
) -> None:
    request = GenerationRequest(sampling=SamplingParams(), max_tokens=60, speculate="ngram")
    for count in range(20, 40):
        engine = counted(repeating_engine_class(CONTEXT))
        session = Session(engine, "bundle-a")
        stream = generate(session, tokenizer, [0, 40, 50], request)
        seen = [token.token_id for token in itertools.islice(stream, count)]
        stream.close()

        assert session.ids == (0, 40, 50, *seen)
        expected = engine.logits(np.array([*session.ids, 60]))
        assert np.array_equal(session.extend([60]), expected)


def test_ctrl_c_in_a_call_with_a_draft_leaves_the_session_usable(
    tokenizer, repeating_engine_class, counted
) -> None:
    engine = counted(repeating_engine_class(CONTEXT))
    session = Session(engine, "bundle-a")
    request = GenerationRequest(sampling=SamplingParams(), max_tokens=80, speculate="ngram")
    stream = generate(session, tokenizer, [0, 40, 50], request)
    seen = [0, 40, 50]
    while max(engine.computed, default=0) < 5:
        seen.append(next(stream).token_id)
    engine.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        seen.extend(token.token_id for token in stream)
    engine.interrupt = False

    assert engine.computed[-1] > 1
    assert session.ids == tuple(seen)
    assert np.array_equal(session.extend(), engine.logits(np.array(seen)))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="speculate is 'draft'; allowed are none, ngram"):
        GenerationRequest(sampling=SamplingParams(), speculate="draft")


def test_a_longer_draft_is_tried_after_the_shorter_one() -> None:
    costs = CallCosts()
    costs.note(0, 1.0)
    assert len(costs.ratios) == 1
    costs.note(DRAFT_LENGTHS[0], 1.5)
    assert costs.ratios[0] == 1.5
    assert 1.5 < costs.ratios[1] < 1.6
    for length in DRAFT_LENGTHS[1:]:
        costs.note(length, 2.0)
    assert costs.ratios == [1.5] + [2.0] * (len(DRAFT_LENGTHS) - 1)


def test_one_slow_call_changes_no_cost() -> None:
    costs = CallCosts()
    for seconds in (1.0, 1.0, 100.0, 1.0):
        costs.note(0, seconds)
    assert costs.one < 1.2
    for seconds in (1.3, 1.3, 100.0, 1.3):
        costs.note(1, seconds * costs.one)
    assert costs.ratios[0] == pytest.approx(1.3)
