"""The command line: find the command, run it, turn errors into one line and an exit status.

0 done, 1 failed, 2 wrong usage, 3 model not supported, 4 verification failed, 5 not enough memory,
130 interrupted.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from edgellm import __version__, commands, registry
from edgellm.commands._output import printable
from edgellm.errors import EdgeLLMError

INTERRUPTED = 130
LONGEST_MESSAGE = 2000
"""Characters."""
DESCRIPTION = "Turn a checkpoint into an integer program and run it, with the same bits everywhere."
EPILOG = """\
a first tour:
  edgellm export path/to/checkpoint -o bundle     make a bundle of a Hugging Face directory
  edgellm run bundle -p "Once upon a time"        continue a text
  edgellm verify bundle                           prove that it computes the same here

exit status: 0 done, 1 failed, 2 wrong usage, 3 model not supported, 4 verification failed,
5 not enough memory, 130 interrupted, 143 ended by SIGTERM"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    try:
        _prepare_streams()
        if arguments is None:
            _end_cleanly_when_told()
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(words: list[str]) -> int:
    options = build_parser(words).parse_args(words)
    _configure_logging(options)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; keep Python from complaining when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 (the border: each becomes a line and a status)
        if options.verbose:
            import traceback

            traceback.print_exc()
        sys.stderr.write(f"edgellm: {describe(error)}\n")
        return error.exit_code if isinstance(error, EdgeLLMError) else 1
    return status


def _prepare_streams() -> None:
    """Replace streams that are closed (``>&-``), let stdout take any text, and stdin any bytes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (open to the end)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # the tokenizer says what is no text


def _end_cleanly_when_told() -> None:
    """Let SIGTERM and SIGHUP unwind as Ctrl-C does, so that nothing half-written stays."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP: it stays so
            signal.signal(number, end)


def _configure_logging(options: argparse.Namespace) -> None:
    import logging  # 6 ms, which --help need not take

    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(
        level=logging.ERROR if options.quiet else level, format="edgellm: %(message)s"
    )


def describe(error: Exception) -> str:
    """Return what went wrong in one line, which a value from a file cannot make endless."""
    text = printable(error)
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[: LONGEST_MESSAGE // 2]} ... {text[-LONGEST_MESSAGE // 2 :]}"
    if isinstance(error, EdgeLLMError | OSError):
        return f"error: {text}"
    return f"internal error: {type(error).__name__}: {text} (-v shows where; please report it)"


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser; only the command that ``words`` name is imported, all of them for help."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    _add_common(common)
    parser = argparse.ArgumentParser(
        prog="edgellm",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgellm {__version__}")
    _add_common(parser)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    known = registry.names(commands)
    named = [name for name in known if name in words]
    for name in named or known:
        _add_command(subparsers, registry.load(commands, name), name, common)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Options that may stand before or after the command."""
    parser.add_argument("-v", "--verbose", action="count", help="tell more; tracebacks of errors")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, no warnings")
    parser.add_argument("--no-color", action="store_true", help="plain text (or set NO_COLOR)")
    if parser.argument_default is not argparse.SUPPRESS:
        parser.set_defaults(verbose=0)


def _add_command(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    module: ModuleType,
    name: str,
    common: argparse.ArgumentParser,
) -> None:
    parser = subparsers.add_parser(
        name,
        help=module.HELP,
        description=module.__doc__,
        epilog=f"example:\n  {module.EXAMPLE}",
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
