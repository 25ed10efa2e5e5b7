import numpy as np
import pytest

from edgellm.errors import ConfigError, ContextLengthError
from edgellm.runtime.generation import GenerationRequest, Token, generate
from edgellm.runtime.sampler import SamplingParams
from edgellm.runtime.session import Session
from edgellm.runtime.tokenizer import Tokenizer

GREEDY = SamplingParams()
PROMPT = (0, 40, 50)


def request(**options) -> GenerationRequest:
    return GenerationRequest(sampling=options.pop("sampling", GREEDY), **options)


def greedy_ids(engine, prompt: tuple[int, ...], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(engine.logits(np.array(ids)).argmax()))
    return ids[len(prompt) :]


def run(session: Session, tokenizer: Tokenizer, **options) -> list[Token]:
    return list(generate(session, tokenizer, PROMPT, request(**options)))


def test_greedy_tokens_follow_the_best_logits(engine, session, tokenizer) -> None:
    tokens = run(session, tokenizer, max_tokens=9)

    ids = [token.token_id for token in tokens]
    assert ids == greedy_ids(engine, PROMPT, 9)
    assert [token.index for token in tokens] == list(range(9))
    assert [token.finish_reason for token in tokens] == [None] * 8 + ["length"]
    assert "".join(token.text for token in tokens) == tokenizer.decode(ids)


def test_the_last_token_carries_the_figures(session, tokenizer) -> None:
    *others, last = run(session, tokenizer, max_tokens=4)

    assert all(token.stats is None for token in others)
    assert (last.stats.prompt_tokens, last.stats.generation_tokens) == (3, 4)
    assert last.stats.prompt_tps > 0
    assert last.stats.generation_tps > 0
    assert last.stats.time_to_first_token_s > 0
    assert last.stats.peak_memory_bytes > 1 << 20


def test_each_token_is_computed_once(engine, session, tokenizer) -> None:
    run(session, tokenizer, max_tokens=5)

    assert engine.computed == [3, 1, 1, 1, 1]


def test_the_end_of_text_token_ends_without_text(engine, session, tokenizer) -> None:
    ids = greedy_ids(engine, PROMPT, 9)
    eos = ids[4]
    tokens = run(session, tokenizer, max_tokens=9, eos_token_ids=frozenset([eos]))

    count = ids.index(eos)
    assert [token.token_id for token in tokens] == ids[: count + 1]
    assert tokens[-1].finish_reason == "eos"
    assert "".join(token.text for token in tokens) == tokenizer.decode(ids[:count])


def test_a_full_context_ends_the_text(session, tokenizer) -> None:
    tokens = run(session, tokenizer, max_tokens=1000)

    assert tokens[-1].finish_reason == "context"
    assert len(tokens) == 64 - len(PROMPT)
    assert session.room == 0


def test_a_stop_string_that_spans_tokens_is_cut_exactly(engine, session, tokenizer) -> None:
    text = tokenizer.decode(greedy_ids(engine, PROMPT, 40))
    # Part of the text, in the middle, where the characters are whole.
    stop = next(text[i : i + 3] for i in range(4, 40) if text[i : i + 3].isascii())
    tokens = run(session, tokenizer, max_tokens=40, stop=[stop])

    assert "".join(token.text for token in tokens) == text[: text.find(stop)]
    assert tokens[-1].finish_reason == "stop"


def test_a_stopped_session_goes_on_with_the_next_text(engine, session, tokenizer) -> None:
    for token in generate(session, tokenizer, PROMPT, request(max_tokens=20)):
        if token.index == 4:
            break
    ids = [*session.ids, 60]
    more = list(generate(session, tokenizer, ids, request(max_tokens=3)))

    assert [token.token_id for token in more] == greedy_ids(engine, tuple(ids), 3)
    # The fifth token had been chosen but not computed when the first generation was left.
    assert engine.computed[5:] == [2, 1, 1]


def test_ctrl_c_leaves_the_session_usable(engine, session, tokenizer) -> None:
    tokens = generate(session, tokenizer, PROMPT, request(max_tokens=20))
    seen = [next(tokens).token_id for _ in range(3)]
    engine.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        next(tokens)
    engine.interrupt = False

    assert session.ids == (*PROMPT, *seen)
    more = list(generate(session, tokenizer, session.ids, request(max_tokens=2)))
    assert [token.token_id for token in more] == greedy_ids(engine, (*PROMPT, *seen), 2)


def test_a_session_that_another_generation_took_is_refused(engine, session, tokenizer) -> None:
    first = generate(session, tokenizer, PROMPT, request(max_tokens=20))
    next(first)
    tokens = run(session, tokenizer, max_tokens=5)

    with pytest.raises(ConfigError, match="another generation has begun on this session"):
        next(first)
    assert session.ids == (*PROMPT, *(token.token_id for token in tokens))


def test_one_seed_gives_one_text_also_after_a_rewind(session, tokenizer) -> None:
    sampling = SamplingParams(temperature=1.0, seed=11)
    first = run(session, tokenizer, max_tokens=12, sampling=sampling)
    session.rewind(len(PROMPT) + 5)
    again = list(
        generate(session, tokenizer, session.ids, request(max_tokens=7, sampling=sampling))
    )

    assert [token.token_id for token in again] == [token.token_id for token in first[5:]]


def test_another_seed_gives_another_text(session, tokenizer) -> None:
    texts = {
        tuple(
            token.token_id
            for token in run(
                session, tokenizer, max_tokens=12, sampling=SamplingParams(temperature=1, seed=seed)
            )
        )
        for seed in range(4)
    }

    assert len(texts) == 4


def test_a_prompt_that_fills_the_context_is_refused(session, tokenizer) -> None:
    with pytest.raises(ContextLengthError, match="64 tokens and needs room for 1 more"):
        next(generate(session, tokenizer, [5] * 64, request()))
    assert session.ids == ()


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_max_tokens_must_be_a_positive_count(count: object) -> None:
    with pytest.raises(ConfigError, match="max_tokens is"):
        request(max_tokens=count)
