"""Talk to a model. Reads one message a line from the terminal or from a pipe.

Lines that begin with / are commands: /help lists them. Ctrl-C stops a reply and keeps the
conversation; Ctrl-D ends.
"""

import argparse
import sys
from pathlib import Path

from edgellm.commands._generation import (
    add_runtime_arguments,
    add_sampling_arguments,
    load_model,
    sampling_options,
)
from edgellm.commands._output import note

HELP = "talk to a model"
EXAMPLE = 'edgellm chat bundle --system "You are a helpful assistant." --temp 0.7'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_runtime_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="what the model is told first")
    parser.add_argument(
        "--chat-template", type=Path, metavar="FILE", help="Jinja template; default: the bundle's"
    )
    add_sampling_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Read, answer, until the end of the input."""
    from edgellm.commands._conversation import Conversation
    from edgellm.errors import EdgeLLMError

    with load_model(options) as model:
        if options.chat_template:
            model.read_chat_template(options.chat_template)
        conversation = Conversation(
            model,
            system=options.system,
            max_tokens=options.max_tokens,
            stop=options.stop,
            speculate=options.speculate,
        )
        conversation.sampling = sampling_options(options)
        model.chat_template.render([{"role": "user", "content": ""}])  # fails now, not later
        if sys.stdin.isatty():
            note(options, "type a message; /help lists the commands, Ctrl-D ends")
        while (line := _read_line()) is not None:
            try:
                if not conversation.handle(line):
                    break
            except EdgeLLMError as error:
                sys.stderr.write(f"edgellm: error: {error}\n")
    return 0


def _read_line() -> str | None:
    """Return the next line, or None at the end. Ctrl-C at the prompt only clears the line."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.rstrip("\n") if line else None
    import readline  # noqa: F401 (gives input() its line editing)

    while True:
        try:
            return input("> ")
        except EOFError:
            sys.stdout.write("\n")
            return None
        except KeyboardInterrupt:
            sys.stdout.write("\n")
