"""Score a model: a text in nats per token, images by their labels, pairs of sentences by rank.

With --float the checkpoint is scored in float32 on the same input, to stand side by side.
"""

import argparse
from pathlib import Path

from edgellm.commands._generation import positive
from edgellm.commands._output import (
    human_bytes,
    note,
    progress_bar,
    write,
    write_json,
    write_pairs,
    write_table,
)
from edgellm.errors import ConfigError

HELP = "score a bundle, or its float checkpoint, on texts, images or sentence pairs"
EXAMPLE = "edgellm eval bundle --text stories.txt --limit-bytes 100000 --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", nargs="?", metavar="BUNDLE|SRC",
        help="a bundle, or with --float a checkpoint's directory")  # fmt: skip
    add("--compare", nargs="+", type=Path, metavar="BUNDLE", default=[],
        help="several bundles, as a table of size, score, speed and estimated energy")  # fmt: skip
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--text", type=Path, metavar="FILE",
        help="UTF-8 text, plain or .gz; <|endoftext|> separates its stories")  # fmt: skip
    data.add_argument("--images", type=Path, metavar="DIR|IDX",
        help="folder of images, or an IDX file such as MNIST's, plain or .gz")  # fmt: skip
    data.add_argument("--sts", type=Path, metavar="FILE",
        help="sentence pairs: score, sentence, sentence, separated by tabs")  # fmt: skip
    add("--labels", type=Path, metavar="FILE",
        help="of --images: lines of name and label, or an IDX file")  # fmt: skip
    add("--limit", type=positive, metavar="N", help="take no more images or pairs")
    add("--float", action="store_true", dest="float_checkpoint",
        help="score the float checkpoint SRC")  # fmt: skip
    add("--limit-bytes", type=positive, metavar="N", help="take no story after so many bytes")
    add("--context", type=positive, metavar="N", help="cut texts here; default: the model's")
    add("-t", "--threads", type=positive, help="default: one for each core")
    add("--json", action="store_true", help="one object: nats_per_token, bits_per_byte, ...")


def run(options: argparse.Namespace) -> int:
    """Score."""
    if (options.images is None) != (options.labels is None):
        raise ConfigError("--images and --labels belong together")
    if (options.model is None) == (not options.compare):
        raise ConfigError("give one bundle, or several after --compare")
    if options.compare:
        return _compare(options)
    if options.text is not None:
        return _score_text(options)
    return _score_encoder(options)


def _compare(options: argparse.Namespace) -> int:
    from edgellm import comparison

    if options.float_checkpoint:
        raise ConfigError("--compare is for bundles: --float scores one checkpoint at a time")
    subject = comparison.Subject(
        text=options.text,
        images=options.images,
        labels=options.labels,
        pairs=options.sts,
        limit=options.limit,
        limit_bytes=options.limit_bytes,
        context=options.context,
        threads=options.threads,
    )
    found = comparison.compare(options.compare, subject, lambda line: note(options, line))
    if options.json:
        write_json(found)
        return 0
    head = ("bundle", "bits a weight", "size", found.measure, found.rate_unit,
            "operations, uJ/token", "weights, uJ/token")  # fmt: skip
    rows = [
        (
            row.bundle,
            f"{row.bits_per_weight:.2f}",
            human_bytes(row.bytes),
            f"{row.score:.5f}",
            f"{row.rate:.0f}",
            f"{row.operations_nj / 1000:.3f}",
            f"{row.weights_nj / 1000:.3f}",
        )
        for row in found.rows
    ]
    write_table([head, *rows])
    write(f"energy: {found.energy_basis}")
    return 0


def _score_encoder(options: argparse.Namespace) -> int:
    from edgellm import encoder_api

    choice = encoder_api.EncoderEvaluateOptions(
        float_checkpoint=options.float_checkpoint,
        context=options.context,
        limit=options.limit,
        threads=options.threads,
    )
    if options.sts is not None:
        pairs = encoder_api.evaluate_pairs(options.model, options.sts, options=choice)
        if options.json:
            write_json(pairs)
        else:
            write_pairs([("spearman", f"{pairs.spearman:.5f}"), ("pairs", pairs.pairs)])
        return 0
    with progress_bar(options, "scoring", "image") as progress:
        found = encoder_api.evaluate_images(
            options.model, options.images, options.labels, options=choice, progress=progress
        )
    if options.json:
        write_json(found)
    else:
        right = f"{found.correct} of {found.images}"
        write_pairs([("accuracy", f"{found.accuracy:.5f}"), ("correct", right)])
    return 0


def _score_text(options: argparse.Namespace) -> int:
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
