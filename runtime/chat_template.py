"""Render a conversation to the text a model was trained on, by its Jinja template in a sandbox."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgellm.config import JsonFields
from edgellm.errors import BundleError, ConfigError

MAX_TEMPLATE_CHARS = 1 << 20
MAX_TEMPLATE_BYTES = 4 * MAX_TEMPLATE_CHARS
MAX_RENDERED_CHARS = 1 << 24
MAX_PRODUCT = 1 << 24
"""A text times a number may not get longer than this, nor an integer power larger than 2^this."""

Message = Mapping[str, Any]


class ChatTemplate:
    """A compiled template. It comes from a stranger: no attributes of Python, no endless output."""

    def __init__(
        self,
        source: str,
        variables: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Compile a template.

        Args:
            source: Jinja text.
            variables: further names it may use, such as bos_token.
            now: the clock behind ``strftime_now``; give a fixed one for equal prompts every day.

        Raises:
            BundleError: the source is no template.
        """
        if len(source) > MAX_TEMPLATE_CHARS:
            raise BundleError(f"chat template: longer than {MAX_TEMPLATE_CHARS} characters")
        environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except (TemplateError, RecursionError) as error:
            raise BundleError(f"chat template: {error}") from error
        self._variables = dict(variables or {})

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Return the prompt of a conversation.

        Args:
            messages: each with "role" and "content".
            add_generation_prompt: end with what begins the model's answer.

        Raises:
            ConfigError: a message is malformed, or the template refuses this conversation.
        """
        _check_messages(messages)
        names = {**self._variables, "messages": [dict(message) for message in messages]}
        pieces, size = [], 0
        try:
            for piece in self._template.generate(
                names, add_generation_prompt=add_generation_prompt
            ):
                size += len(piece)
                if size > MAX_RENDERED_CHARS:
                    raise SecurityError(f"the text exceeds {MAX_RENDERED_CHARS} characters")
                pieces.append(piece)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError,
                AttributeError, RuntimeError, MemoryError) as error:  # fmt: skip
            reason = str(error) or type(error).__name__
            raise ConfigError(f"the chat template refuses the conversation: {reason}") from error
        return "".join(pieces)


def load_chat_template(template: Path | None, tokenizer_config: Path | None) -> ChatTemplate | None:
    """Return the template of chat_template.jinja, or else of tokenizer_config.json, or None.

    Raises:
        BundleError: a file is damaged.
    """
    config = JsonFields.read(tokenizer_config, BundleError).values if tokenizer_config else {}
    try:
        source = _read_template(template) if template else config.get("chat_template")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{template}: {error}") from error
    if isinstance(source, list):  # named templates: [{"name": "default", "template": "..."}, ...]
        named = {
            item.get("name"): item.get("template") for item in source if isinstance(item, dict)
        }
        source = named.get("default")
    if source is None:
        return None
    if not isinstance(source, str):
        raise BundleError(f"{tokenizer_config}: chat_template is no text and has no 'default'")
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    return ChatTemplate(source, {name: _token_text(config.get(name)) for name in names})


def _read_template(path: Path) -> str:
    if path.stat().st_size > MAX_TEMPLATE_BYTES:
        raise BundleError(f"{path}: larger than {MAX_TEMPLATE_BYTES} bytes")
    return path.read_text(encoding="utf-8")


def _token_text(token: object) -> str:
    """A token is a text, or an object with the text in "content"."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _check_messages(messages: Sequence[Message]) -> None:
    if not messages:
        raise ConfigError("messages is empty; give at least one {'role': ..., 'content': ...}")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ConfigError(
                f"messages[{index}] is {message!r}; it must be {{'role': ..., 'content': ...}}"
            )


def _tojson(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses products that would fill the memory, such as ``'x' * 10**12``."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        """Compute ``left operator right`` if the result is of a reasonable size."""
        if operator == "**":
            large = abs(right) * _bits(left) > MAX_PRODUCT
        else:
            large = _length(left) * _bits_or_count(right) > MAX_PRODUCT or (
                _length(right) * _bits_or_count(left) > MAX_PRODUCT
            )
        if large:
            raise SecurityError(f"{operator} would give a value that is too large")
        return super().call_binop(context, operator, left, right)


def _bits(value: object) -> int:
    return value.bit_length() if isinstance(value, int) else 64


def _length(value: object) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _bits_or_count(value: object) -> int:
    return value if isinstance(value, int) else 0


class _GenerationTag(Extension):
    """``{% generation %} ... {% endgeneration %}`` marks an answer for training; here, nothing."""

    tags = {"generation"}  # noqa: RUF012 (declared so by jinja2)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the nodes between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
