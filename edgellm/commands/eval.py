"""Score a text: nats per token and bits per byte; lower is better.

With --float the checkpoint is scored in float32 on the same tokens, to stand side by side.
"""

import argparse
from pathlib import Path

from edgellm.commands._generation import positive
from edgellm.commands._output import progress_bar, write_json, write_pairs

HELP = "score a text with a bundle, or with its float checkpoint"
EXAMPLE = "edgellm eval bundle --text stories.txt --limit-bytes 100000 --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="BUNDLE|SRC", help="a bundle, or with --float a checkpoint's directory")
    add("--text", type=Path, required=True, metavar="FILE",
        help="UTF-8 text, plain or .gz; <|endoftext|> separates its stories")  # fmt: skip
    add("--float", action="store_true", dest="float_checkpoint",
        help="score the float checkpoint SRC")  # fmt: skip
    add("--limit-bytes", type=positive, metavar="N", help="take no story after so many bytes")
    add("--context", type=positive, metavar="N", help="cut texts here; default: the model's")
    add("-t", "--threads", type=positive, help="default: one for each core")
    add("--json", action="store_true", help="one object: nats_per_token, bits_per_byte, ...")


def run(options: argparse.Namespace) -> int:
    """Score."""
    from edgellm import api

    with progress_bar(options, "scoring", "token") as progress:
        result = api.evaluate(
            options.model,
            options.text,
            options=api.EvaluateOptions(
                float_checkpoint=options.float_checkpoint,
                context=options.context,
                limit_bytes=options.limit_bytes,
                threads=options.threads,
            ),
            progress=progress,
        )
    if options.json:
        write_json(result)
        return 0
    write_pairs(
        [
            ("nats per token", f"{result.nats_per_token:.5f}"),
            ("perplexity", f"{result.perplexity:.4f}"),
            ("bits per byte", f"{result.bits_per_byte:.5f}"),
            ("tokens", result.tokens),
            ("bytes", result.bytes),
            ("texts", result.texts),
        ]
    )
    return 0
