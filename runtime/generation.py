"""Generate a text token by token: choose, decode, cut at stop strings, measure."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

from edgellm.errors import ConfigError
from edgellm.runtime.process_memory import peak_memory_bytes
from edgellm.runtime.sampler import Sampler, SamplingParams
from edgellm.runtime.session import Session
from edgellm.runtime.speculation import NgramSpeculation, Plain, SpeculationStats
from edgellm.runtime.stop_strings import StopStrings
from edgellm.runtime.tokenizer import Tokenizer

Speculate = Literal["none", "ngram"]
"""How likely next tokens are found, to compute several in a call; the text is always the same."""


@dataclass(frozen=True, kw_only=True)
class Stats:
    """How a finished generation went. A rate is 0.0 where nothing was generated to measure it."""

    prompt_tokens: int
    generation_tokens: int
    prompt_tps: float
    generation_tps: float
    time_to_first_token_s: float
    peak_memory_bytes: int
    speculation: SpeculationStats | None = None


@dataclass(frozen=True, kw_only=True)
class Token:
    """One generated token.

    ``text`` is what may be shown now: empty while a character or a possible stop string is
    incomplete, more than one token's text when it was. ``finish_reason`` and ``stats`` are set on
    the last token only: "eos" (the model ended the text; this token adds no text of its own),
    "stop" (a stop string), "length" (max_tokens) or "context" (the context is full).
    """

    text: str
    token_id: int
    index: int
    finish_reason: str | None = None
    stats: Stats | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What to generate: how many tokens, chosen how, until when."""

    sampling: SamplingParams
    max_tokens: int = 256
    stop: Sequence[str] = ()
    eos_token_ids: frozenset[int] = frozenset()
    speculate: Speculate = "none"

    def __post_init__(self) -> None:
        """Check the count, the stop strings and the kind of speculation."""
        if self.speculate not in get_args(Speculate):
            kinds = ", ".join(get_args(Speculate))
            raise ConfigError(f"speculate is {self.speculate!r}; allowed are {kinds}")
        count = self.max_tokens
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise ConfigError(f"max_tokens is {count!r}; it must be a whole number of at least 1")
        object.__setattr__(self, "max_tokens", int(count))  # NumPy's integers are none of Python's
        StopStrings(self.stop)


def generate(
    session: Session, tokenizer: Tokenizer, ids: Sequence[int], request: GenerationRequest
) -> Iterator[Token]:
    """Yield the tokens that follow ``ids``; what the session already holds of them is not computed.

    The session can be used on at any time: it holds the prompt and what was yielded, whether the
    caller stops early, Ctrl-C interrupts, or a stop string ends the text.

    Raises:
        ConfigError: no ids, one that is not in the vocabulary, or another generation has begun on
            the session.
        ContextLengthError: the ids leave no room for a token.
    """
    sampler, stop = Sampler(request.sampling), StopStrings(request.stop)
    watch = _Stopwatch(len(ids), len(ids) - session.common_prefix(ids))
    turn = session.begin_turn()
    with session.taking(turn):
        logits = session.align(ids, room=1, top=sampler.needed(ids))
    decoder = tokenizer.decoder(ids)
    speculates = request.speculate == "ngram" and session.takes_drafts
    decoding = NgramSpeculation(session, ids) if speculates else Plain(session)
    for index in range(request.max_tokens):
        with session.taking(turn):
            if index:
                logits = decoding.extend(request.max_tokens - index, sampler.needed(session.ids))
            token_id = sampler.choose(logits, len(session), session.ids)
            session.append([token_id])
            context = session.room == 0
        decoding.note(token_id)
        watch.token_done()
        ended = token_id in request.eos_token_ids
        text = "" if ended else stop.feed(decoder.step(token_id))
        reason = _finish_reason(
            eos=ended,
            stop=stop.found,
            length=index + 1 == request.max_tokens,
            context=context,
        )
        if reason is None:
            yield Token(text=text, token_id=token_id, index=index)
            continue
        if not stop.found:
            text += stop.feed(decoder.flush()) + stop.flush()
        stats = watch.stats(decoding.stats())
        yield Token(text=text, token_id=token_id, index=index, finish_reason=reason, stats=stats)
        return


def _finish_reason(**holds: bool) -> str | None:
    return next((reason for reason, true in holds.items() if true), None)


class _Stopwatch:
    """Measures a generation from its start on."""

    def __init__(self, prompt_tokens: int, computed_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._computed_tokens = max(computed_tokens, 1)  # the last id is computed at any rate
        self._tokens = 0
        self._begin = self._first = self._last = time.perf_counter()

    def token_done(self) -> None:
        """Note that a token was chosen."""
        self._last = time.perf_counter()
        self._tokens += 1
        if self._tokens == 1:
            self._first = self._last

    def stats(self, speculation: SpeculationStats | None) -> Stats:
        """Return the figures so far; the first token counts as part of the prompt."""
        return Stats(
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._tokens,
            prompt_tps=_rate(self._computed_tokens, self._first - self._begin),
            generation_tps=_rate(self._tokens - 1, self._last - self._first),
            time_to_first_token_s=self._first - self._begin,
            peak_memory_bytes=peak_memory_bytes(),
            speculation=speculation,
        )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if count > 0 and seconds > 0 else 0.0
