"""A loaded bundle, which ``edgellm.load`` returns: text in, text out; logits and sessions."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Unpack, overload

import numpy as np
import numpy.typing as npt

from edgellm.bundle import open_bundle
from edgellm.device import Device
from edgellm.errors import BundleError, ConfigError
from edgellm.runtime.chat_template import ChatTemplate, Message, load_chat_template
from edgellm.runtime.engine import Engine
from edgellm.runtime.feed_engine import FeedEngine
from edgellm.runtime.generation import GenerationRequest, Speculate, Token, generate
from edgellm.runtime.kernels._compiler import Progress, compile_missing
from edgellm.runtime.loaded import Loaded
from edgellm.runtime.loader import load_plan
from edgellm.runtime.placement import PlacedExecutor
from edgellm.runtime.sampler import SamplingOptions, SamplingParams
from edgellm.runtime.session import Session, bundle_identity
from edgellm.runtime.start import checked_context, checked_threads, load_placed
from edgellm.runtime.tokenizer import Tokenizer
from edgellm.runtime.tuner import as_tuned, tune_if_unknown

MAX_TOKENS = 256
"""How many tokens a generation has unless the caller says."""

Prompt = str | Sequence[int]


class Model(Loaded[Engine | FeedEngine]):
    """Generates text with a bundle. Use it in a ``with`` block, or ``close`` it.

    Several threads may use a model: their calls are computed one after the other. A session is for
    one of them at a time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        context: int | None = None,
        tune: bool = False,
        device: Device | None = None,
        progress: Progress = lambda _done, _total: None,
    ) -> None:
        """Open a bundle, map or copy its weights and get ready to run.

        Args:
            path: the bundle's directory.
            threads: worker threads; default: what the tuner found best, or one for each core that
                this process may use.
            context: most tokens of one text; default and limit: what the bundle was exported for.
            tune: time kernels and numbers of threads first (5 s), where that was not done before;
                what was found out before is used in any case.
            device: a simulated device that computes the operators it takes; the rest is computed
                by the references, without threads.
            progress: called with the number of kernels that are compiled and of those that have to
                be; not at all where nothing is missing.

        Raises:
            BundleError: the bundle is damaged.
            ConfigError: it is for another task, or threads or context are out of range.
            NotEnoughMemoryError: the key/value cache does not fit in the free memory.
        """
        self._bundle = open_bundle(path)
        self._tokenizer: Tokenizer | None = None
        self._chat_template: ChatTemplate | None = None
        self._idle_chats: list[Session] = []
        cores = checked_threads(threads)
        context_length = checked_context(self._bundle.manifest, context)
        if device is not None:
            plan = load_plan(self._bundle)
            self._engine = FeedEngine(PlacedExecutor(plan, device), plan, context_length)
            return
        stored = load_placed(self._bundle, context_length)
        if tune:
            tune_if_unknown(stored, context_length, progress)
        plan, tuning = as_tuned(stored)
        compile_missing(tuning.choices.kernels(plan), progress)
        self._engine = Engine(
            plan,
            context_length=context_length,
            threads=cores if threads is not None else tuning.threads or cores,
            choices=tuning.choices,
        )

    @property
    def engine(self) -> Engine:
        """What computes the logits.

        Raises:
            ConfigError: a simulated device computes them.
        """
        if not isinstance(self._engine, Engine):
            raise ConfigError("this model runs on a simulated device; it has no compiled engine")
        return self._engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer.

        Raises:
            BundleError: the bundle has none, or a damaged one.
        """
        if self._tokenizer is None:
            path = self._bundle.file("tokenizer.json")
            if path is None:
                raise BundleError(f"{self._bundle.path}: its manifest lists no tokenizer.json")
            self._tokenizer = Tokenizer(path, self.info.vocab_size)
        return self._tokenizer

    @property
    def chat_template(self) -> ChatTemplate:
        """How a conversation becomes a prompt.

        Raises:
            ConfigError: the bundle brings no template.
        """
        if self._chat_template is None:
            own = self._bundle.file("chat_template.jinja")
            self._chat_template = self._load_chat_template(own)
        return self._chat_template

    def read_chat_template(self, path: str | os.PathLike[str]) -> None:
        """Use the chat template in a file instead of the bundle's.

        Raises:
            BundleError: the file is missing, or no template.
        """
        self._chat_template = self._load_chat_template(Path(path))

    def _load_chat_template(self, path: Path | None) -> ChatTemplate:
        bundle = self._bundle
        found = load_chat_template(path, bundle.file("tokenizer_config.json"))
        if found is None:
            raise ConfigError(
                f"{bundle.path}: has no chat template, so the model was probably not trained to "
                "chat; give one (--chat-template FILE, or model.read_chat_template), or generate "
                "from plain text (edgellm run -p TEXT, or model.generate)"
            )
        return found

    def session(self) -> Session:
        """Return a new, empty session."""
        return Session(self._engine, bundle_identity(self.info))

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        session: Session | None = None,
        speculate: Speculate = "none",
        **sampling: Unpack[SamplingOptions],
    ) -> str:
        """Return the text that follows a prompt; arguments as for ``stream``."""
        tokens = self.stream(
            prompt,
            max_tokens=max_tokens,
            stop=stop,
            session=session,
            speculate=speculate,
            **sampling,
        )
        return "".join(token.text for token in tokens)

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        session: Session | None = None,
        speculate: Speculate = "none",
        **sampling: Unpack[SamplingOptions],
    ) -> Iterator[Token]:
        """Yield what follows a prompt, token by token; the last token carries the figures.

        Args:
            prompt: a text, or token ids. An empty text starts from the BOS token.
            max_tokens: most tokens to generate.
            stop: texts that end the generation; they are not part of it.
            session: continue its text; default: a new text.
            speculate: "ngram" drafts tokens from earlier parts of the text and checks several in
                one call, where that pays; the tokens are the same.
            sampling: temperature, top_k, top_p, min_p, repetition_penalty, seed as in
                ``SamplingParams``; default: greedy.

        Raises:
            ConfigError: an option is out of range, or the prompt is empty and there is no BOS.
            ContextLengthError: the prompt leaves no room in the context.
        """
        request = self._request(max_tokens, stop, speculate, SamplingParams(**sampling))
        session = self.session() if session is None else self._own(session)
        ids = [*session.ids, *self._prompt_ids(prompt, first=len(session) == 0)]
        return generate(session, self.tokenizer, ids, request)

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[False] = False,
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        session: Session | None = None,
        speculate: Speculate = "none",
        **sampling: Unpack[SamplingOptions],
    ) -> str: ...

    @overload
    def chat(
        self,
        messages: Sequence[Message],
        *,
        stream: Literal[True],
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        session: Session | None = None,
        speculate: Speculate = "none",
        **sampling: Unpack[SamplingOptions],
    ) -> Iterator[Token]: ...

    def chat(
        self,
        messages: Sequence[Message],
        *,
        stream: bool = False,
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        session: Session | None = None,
        speculate: Speculate = "none",
        **sampling: Unpack[SamplingOptions],
    ) -> str | Iterator[Token]:
        """Return the answer to a conversation, or with ``stream`` yield its tokens.

        What a conversation shares with the one before is not computed again.

        Args:
            messages: the whole conversation, each with "role" and "content".
            stream: yield tokens.
            max_tokens: most tokens of the answer.
            stop: texts that end the answer; they are not part of it.
            session: where to keep what was computed; default: one that the model has for chats,
                or a new one while that is in use.
            speculate: as for ``stream``.
            sampling: as for ``stream``.

        Raises:
            ConfigError: no chat template, one that refuses the messages, or a bad option.
            ContextLengthError: the conversation leaves no room in the context.
        """
        request = self._request(max_tokens, stop, speculate, SamplingParams(**sampling))
        # The template writes BOS and the like itself, as in every published one.
        text = self.chat_template.render(messages)
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        tokens = (
            self._answer(ids, request)
            if session is None
            else generate(self._own(session), self.tokenizer, ids, request)
        )
        return tokens if stream else "".join(token.text for token in tokens)

    def _answer(self, ids: Sequence[int], request: GenerationRequest) -> Iterator[Token]:
        """Generate in the session that is kept for chats, which nobody else has meanwhile."""
        try:
            session = self._idle_chats.pop()
        except IndexError:
            session = self.session()
        try:
            yield from generate(session, self.tokenizer, ids, request)
        finally:
            self._idle_chats[:] = [session]

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.int32]:
        """Return (len(ids), vocab) int32 logits, a row for each position; real = logits * 2^-16.

        Raises:
            ConfigError: no ids, or one that is not in the vocabulary.
            ContextLengthError: more ids than the context holds.
        """
        return self.session().score(ids)

    def _own(self, session: Session) -> Session:
        """Return a session after checking that its text is one of this bundle.

        Raises:
            ConfigError: it is another one's.
        """
        if not session.belongs_to(bundle_identity(self.info)):
            raise ConfigError(
                "the session is of another bundle, whose tokens mean something else; make one with "
                "this model's session()"
            )
        return session

    def _request(
        self,
        max_tokens: int,
        stop: Sequence[str],
        speculate: Speculate,
        sampling: SamplingParams,
    ) -> GenerationRequest:
        return GenerationRequest(
            sampling=sampling,
            max_tokens=max_tokens,
            stop=stop,
            eos_token_ids=frozenset(self.info.eos_token_ids),
            speculate=speculate,
        )

    def _prompt_ids(self, prompt: Prompt, *, first: bool) -> list[int]:
        """Return the ids of a prompt; only the beginning of a text gets a BOS."""
        if isinstance(prompt, bytes | bytearray):
            raise ConfigError("the prompt is bytes; give a text (decode it first) or token ids")
        if not isinstance(prompt, str | Iterable):
            raise ConfigError(f"the prompt is {prompt!r}; give a text or token ids")
        ids = (
            self.tokenizer.encode(prompt, add_special_tokens=first)
            if isinstance(prompt, str)
            else list(prompt)
        )
        if ids or not first:
            return ids
        if self.info.bos_token_id is None:
            raise ConfigError(
                "the prompt is empty and this model has no BOS token to start from; give a text"
            )
        return [self.info.bos_token_id]
