"""Turn texts into vectors, one for each line; like texts have like vectors.

A text over the model's limit is cut there; how many were is said on stderr. An empty line is an
error: nothing would stand for it.
"""

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.commands._generation import positive
from edgellm.commands._output import note, write, write_json
from edgellm.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

HELP = "turn texts into vectors"
EXAMPLE = "edgellm embed bundle -i lines.txt --format npy -o vectors.npy"
FORMATS = ("npy", "text", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="directory made by edgellm export")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("-i", "--input", metavar="FILE",
        help='a text a line, UTF-8, plain or .gz; "-" reads stdin')  # fmt: skip
    source.add_argument("--text", nargs="+", metavar="TEXT", help="the texts themselves")
    add("-o", "--output", type=Path, metavar="FILE", help="default: stdout")
    add("--format", choices=FORMATS, default="text",
        help="a NumPy file, numbers line by line (default), or one JSON object")  # fmt: skip
    add("--context", type=positive, metavar="N", help="cut texts after so many tokens")
    add("-t", "--threads", type=positive, help="default: one for each core")
    add("--json", action="store_const", const="json", dest="format", help="as --format json")


def run(options: argparse.Namespace) -> int:
    """Embed."""
    from edgellm import api

    if options.output and not options.output.parent.is_dir():
        raise ConfigError(f"{options.output}: there is no folder {options.output.parent}")
    texts = options.text or _read_lines(options.input)
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise ConfigError(f"text {number} is empty; every line needs a text")
    with api.load(
        options.bundle,
        threads=options.threads,
        context=options.context,
        task="sentence-embedding",
    ) as encoder:
        vectors = encoder.embed(texts)
        cut = sum(encoder.encode(text)[1] for text in texts)
    if cut:
        note(options, f"{cut} of {len(texts)} texts are over the limit and were cut")
    _write(options, vectors)
    return 0


def _read_lines(name: str) -> list[str]:
    from edgellm.runtime.evaluate import lines_of, read_text

    content = _read_stdin() if name == "-" else read_text(Path(name))
    lines = lines_of(content)
    if not lines:
        raise ConfigError(f"{name}: has no line")
    return lines


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input is no UTF-8 text: {error}") from error


def _write(options: argparse.Namespace, vectors: "npt.NDArray[np.float32]") -> None:
    if options.format == "npy":
        _write_bytes(options.output, vectors)
    elif options.format == "json" and options.output is None:
        write_json({"embeddings": vectors.tolist()})
    else:
        rows = [" ".join(f"{value:.9g}" for value in row) for row in vectors.tolist()]
        if options.format == "json":
            rows = [f"[{row.replace(' ', ', ')}]" for row in rows]
            rows = ['{"embeddings": [', ",\n".join(rows), "]}"]
        if options.output is None:
            write("\n".join(rows))
        else:
            options.output.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _write_bytes(output: Path | None, vectors: "npt.NDArray[np.float32]") -> None:
    import numpy as np

    content = io.BytesIO()
    np.save(content, vectors, allow_pickle=False)
    if output is not None:
        output.write_bytes(content.getvalue())
    elif sys.stdout.isatty():
        raise ConfigError("a NumPy file is no text for a terminal; give --output FILE")
    else:
        sys.stdout.buffer.write(content.getvalue())
