"""The conversation behind ``edgellm chat``: messages, their session, and the / commands."""

import json
import sys
from collections.abc import Callable, Sequence

from edgellm.commands._generation import describe
from edgellm.errors import BundleError, ConfigError, ContextLengthError
from edgellm.runtime.chat_template import Message
from edgellm.runtime.generation import Speculate, Stats
from edgellm.runtime.model import Model
from edgellm.runtime.sampler import SamplingOptions, SamplingParams


class Conversation:
    """Answers lines of text; state survives errors and Ctrl-C."""

    def __init__(
        self,
        model: Model,
        *,
        system: str | None = None,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
        speculate: Speculate = "none",
    ) -> None:
        self.sampling: SamplingOptions = {}
        self._model = model
        self._session = model.session()
        self._first: list[Message] = [{"role": "system", "content": system}] if system else []
        self._messages: list[Message] = list(self._first)
        self._max_tokens = max_tokens
        self._stop = stop
        self._speculate = speculate
        self._stats: Stats | None = None
        self._commands: dict[str, tuple[str, Callable[[str], None]]] = {
            "/help": ("list the commands", self._help),
            "/exit": ("end", lambda _: None),
            "/reset": ("forget the conversation", self._reset),
            "/undo": ("take back the last message and its answer", self._undo),
            "/stats": ("show the figures of the last answer", self._show_stats),
            "/set": ("KEY=VALUE: " + ", ".join(self._settings()), self._set),
            "/save": ("FILE: keep the conversation and what was computed", self._save),
            "/load": ("FILE: go on with a saved conversation", self._load),
        }

    def handle(self, line: str) -> bool:
        """Answer one line; returns False when the user wants to end.

        Raises:
            EdgeLLMError: a command failed or the context is full; the conversation is as before.
        """
        text = line.strip()
        if not text.startswith("/"):
            if text:
                self._answer(text)
            return True
        name, _, argument = text.partition(" ")
        if name not in self._commands:
            raise ConfigError(f"no command {name}; there are {', '.join(self._commands)}")
        self._commands[name][1](argument.strip())
        return name != "/exit"

    def _answer(self, text: str) -> None:
        messages = [*self._messages, {"role": "user", "content": text}]
        tokens = self._model.chat(
            messages,
            stream=True,
            max_tokens=self._max_tokens,
            stop=self._stop,
            session=self._session,
            speculate=self._speculate,
            **self.sampling,
        )
        pieces: list[str] = []
        try:
            for token in tokens:
                pieces.append(token.text)
                sys.stdout.write(token.text)
                sys.stdout.flush()
                self._stats = token.stats or self._stats
        except KeyboardInterrupt:
            sys.stderr.write("\n(stopped)")
        except ContextLengthError as error:
            raise ContextLengthError(
                f"{error}; /undo takes back the last message, /reset the conversation"
            ) from error
        sys.stdout.write("\n")
        sys.stdout.flush()
        self._messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]

    def _help(self, _: str) -> None:
        for name, (meaning, _action) in self._commands.items():
            sys.stderr.write(f"{name:8} {meaning}\n")

    def _reset(self, _: str) -> None:
        self._messages = list(self._first)
        self._session.rewind(0)

    def _undo(self, _: str) -> None:
        if len(self._messages) < len(self._first) + 2:
            raise ConfigError("there is nothing to undo")
        del self._messages[-2:]  # the next answer computes only what differs

    def _show_stats(self, _: str) -> None:
        known = f"context {len(self._session)} of {self._session.context_length} tokens"
        sys.stderr.write(f"{describe(self._stats)}\n" if self._stats else "no answer yet\n")
        sys.stderr.write(f"{known}\n")

    def _settings(self) -> dict[str, type]:
        numbers = {"top_k": int, "seed": int, "max_tokens": int}
        names = [*SamplingOptions.__annotations__, "max_tokens"]
        return {name: numbers.get(name, float) for name in names}

    def _set(self, argument: str) -> None:
        key, _, text = argument.replace(" ", "").partition("=")
        settings = self._settings()
        if key not in settings:
            raise ConfigError(f"/set {argument}: give KEY=VALUE; keys are {', '.join(settings)}")
        try:
            value = settings[key](text)
        except ValueError as error:
            raise ConfigError(f"/set {key}: {text!r} is no {settings[key].__name__}") from error
        if key == "max_tokens":
            if value < 1:
                raise ConfigError(f"/set max_tokens: {value} is not at least 1")
            self._max_tokens = value
            return
        changed: SamplingOptions = {**self.sampling, key: value}  # type: ignore[misc]
        SamplingParams(**changed)
        self.sampling = changed

    def _save(self, path: str) -> None:
        self._session.save(_required(path), notes=json.dumps(self._messages))

    def _load(self, path: str) -> None:
        session = self._model.session()
        notes = session.load(_required(path))
        try:
            messages = json.loads(notes)
        except ValueError as error:
            raise BundleError(f"{path}: holds a text, but no conversation") from error
        if not isinstance(messages, list) or not all(isinstance(item, dict) for item in messages):
            raise BundleError(f"{path}: holds a text, but no conversation")
        self._messages, self._session = messages, session


def _required(path: str) -> str:
    if not path:
        raise ConfigError("give a file name, such as /save talk.safetensors")
    return path
