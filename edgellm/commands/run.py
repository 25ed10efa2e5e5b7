"""Continue a text. The generated text goes to stdout as it comes, the figures to stderr."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.commands._generation import (
    add_runtime_arguments,
    add_sampling_arguments,
    describe,
    load_model,
    sampling_options,
)
from edgellm.commands._output import fields_of, note, write, write_json
from edgellm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgellm.runtime.generation import Token
    from edgellm.runtime.model import Prompt

HELP = "continue a text"
EXAMPLE = 'edgellm run bundle -p "Once upon a time" -n 64 --temp 0.8 --seed 1'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_runtime_arguments(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help='the beginning; "-" reads stdin')
    prompt.add_argument("--ids", metavar="I,J,...", type=_ids, help="the beginning as token ids")
    parser.add_argument(
        "--session", type=Path, metavar="FILE", help="go on from FILE if it exists; save to it"
    )
    parser.add_argument(
        "--json", action="store_true", help="one object: text, token ids, rates, memory"
    )
    add_sampling_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Generate."""
    if options.session and not options.session.parent.is_dir():
        raise ConfigError(f"{options.session}: there is no folder {options.session.parent}")
    with load_model(options) as model:
        session = model.session()
        if options.session and options.session.exists():
            session.load(options.session)
        tokens = model.stream(
            _prompt(options),
            max_tokens=options.max_tokens,
            stop=options.stop,
            session=session,
            speculate=options.speculate,
            **sampling_options(options),
        )
        try:
            _write(options, tokens)
        finally:
            if options.session and len(session):
                session.save(options.session)
    return 0


def _prompt(options: argparse.Namespace) -> "Prompt":
    if options.ids is not None:
        ids: list[int] = options.ids
        return ids
    text: str = sys.stdin.read() if options.prompt == "-" else options.prompt
    return text


def _write(options: argparse.Namespace, tokens: "Iterable[Token]") -> None:
    done = []
    for token in tokens:
        done.append(token)
        if not options.json:
            sys.stdout.write(token.text)
            sys.stdout.flush()
    stats = done[-1].stats
    if stats is None:
        raise AssertionError("the last token carries the figures")
    if options.json:
        text = "".join(token.text for token in done)
        ids = [token.token_id for token in done]
        reason = done[-1].finish_reason
        write_json({"text": text, "token_ids": ids, "finish_reason": reason, **fields_of(stats)})
        return
    write()
    note(options, describe(stats))


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 1,2,3") from error
