"""What commands write: payload to stdout, progress to stderr."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import DataclassInstance
    from tqdm import tqdm


def write(text: str = "") -> None:
    """Write a line of payload."""
    sys.stdout.write(f"{text}\n")


def printable(text: object) -> str:
    """Return a text with its control characters escaped: what a bundle says is a stranger's."""
    return "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape").decode("ascii")
        for mark in str(text)
    )


def write_json(result: "DataclassInstance | dict[str, object]") -> None:
    """Write one JSON object and nothing else."""
    content = result if isinstance(result, dict) else fields_of(result)
    write(json.dumps(content, indent=2, ensure_ascii=False))


def fields_of(result: "DataclassInstance") -> dict[str, object]:
    """Return a dataclass as a dict, nested ones too."""
    import dataclasses  # 4 ms, which --help need not take

    return dataclasses.asdict(result)


def write_table(rows: Iterable[Sequence[object]]) -> None:
    """Write rows in columns: the first to the left, the others to the right."""
    texts = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        write("  ".join(cells).rstrip())


def write_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Write names and values in two columns, both to the left."""
    items = list(pairs)
    width = max(len(name) for name, _ in items)
    for name, value in items:
        write(f"{name.ljust(width)}  {printable(value)}")


def note(options: argparse.Namespace, text: str) -> None:
    """Tell people something, on stderr; nothing with --quiet."""
    if not options.quiet:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def colored(options: argparse.Namespace, text: str, code: int) -> str:
    """Return the text in a colour (an ANSI code) if the user sees a terminal that wants one."""
    wanted = sys.stdout.isatty() and not options.no_color and not os.environ.get("NO_COLOR")
    return f"\x1b[{code}m{text}\x1b[0m" if wanted else text


@contextmanager
def progress_bar(
    options: argparse.Namespace, label: str, unit: str, total: int | None = None
) -> "Iterator[Callable[[int], object]]":
    """Show a bar on stderr, if that is a terminal; yields what to call with each amount done."""
    from tqdm import tqdm

    hidden = options.quiet or not sys.stderr.isatty()
    with tqdm(
        total=total, desc=label, unit=unit, unit_scale=True, file=sys.stderr, disable=hidden
    ) as bar:
        yield bar.update


@contextmanager
def compile_bar(options: argparse.Namespace) -> "Iterator[Callable[[int, int], object]]":
    """Show a bar while kernels are compiled, at the first start; nothing where all are there.

    Yields what to call with the kernels that are compiled, and those that have to be. Where there
    is no terminal, a line is written.
    """
    bars: list[tqdm[object]] = []
    hidden = options.quiet or not sys.stderr.isatty()

    def update(done: int, total: int) -> None:
        if done == 0 and hidden:
            note(options, f"compiling {total} kernels for this processor, once")
        if not hidden and not bars:
            from tqdm import tqdm

            label = "compiling for this processor, once"
            bars.append(tqdm(total=total, desc=label, unit=" kernels", file=sys.stderr))
        for bar in bars:
            bar.update(done - bar.n)

    try:
        yield update
    finally:
        for bar in bars:
            bar.close()


def human_bytes(size: float) -> str:
    """Return a size as people read it: 1234567 is ``1.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
