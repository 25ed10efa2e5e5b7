"""Options that ``run`` and ``chat`` share: which bundle, how to sample, when to stop."""

import argparse
from typing import TYPE_CHECKING

from edgellm.commands._output import compile_bar

if TYPE_CHECKING:
    from edgellm.runtime.generation import Stats
    from edgellm.runtime.model import Model
    from edgellm.runtime.sampler import SamplingOptions


def positive(text: str) -> int:
    """Parse a count of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


positive.__name__ = "count"  # argparse names it in its messages


def add_runtime_arguments(parser: argparse.ArgumentParser) -> None:
    """Which bundle, and on what it runs."""
    parser.add_argument("bundle", metavar="BUNDLE", help="directory made by edgellm export")
    parser.add_argument(
        "-t",
        "--threads",
        type=positive,
        help="default: what edgellm tune found, or one for each core",
    )
    parser.add_argument("--context", type=positive, metavar="N", help="most tokens of a text")


def load_model(options: argparse.Namespace) -> "Model":
    """Load the bundle, with a bar while kernels are compiled."""
    from edgellm import api

    with compile_bar(options) as progress:
        return api.load(
            options.bundle,
            threads=options.threads,
            context=options.context,
            task="text-generation",
            progress=progress,
        )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """How tokens are chosen, and when to stop."""
    group = parser.add_argument_group("generation")
    add = group.add_argument
    add("-n", "--max-tokens", type=positive, default=256, metavar="N", help="default: 256")
    add("--temp", "--temperature", type=float, default=0.0, dest="temperature", metavar="T",
        help="0 takes the best token (default), 1 draws as the model was trained")  # fmt: skip
    add("--top-k", type=int, default=0, metavar="K", help="draw from the K best; 0: all")
    add("--top-p", type=float, default=1.0, metavar="P",
        help="draw from the best that have this probability together")  # fmt: skip
    add("--min-p", type=float, default=0.0, metavar="P",
        help="draw from those with this share of the best one's probability")  # fmt: skip
    add("--repeat-penalty", type=float, default=1.0, dest="repetition_penalty", metavar="R",
        help="above 1: make tokens that occurred less likely")  # fmt: skip
    add("--seed", type=int, default=0, metavar="S",
        help="one seed gives one text, on every device (default: 0)")  # fmt: skip
    add("--stop", action="append", default=[], metavar="TEXT",
        help="end before this text; may be given more than once")  # fmt: skip
    add("--speculate", choices=("none", "ngram"), default="none",
        help="ngram: draft tokens from earlier parts of the text and check several in one call; "
        "the text stays the same (default: none)")  # fmt: skip


def sampling_options(options: argparse.Namespace) -> "SamplingOptions":
    """Return what the user chose."""
    return {
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "repetition_penalty": options.repetition_penalty,
        "seed": options.seed,
    }


def describe(stats: "Stats") -> str:
    """Return the figures of a generation in one line."""
    line = (
        f"prompt {stats.prompt_tokens} tokens, {stats.prompt_tps:.1f} tokens/s; "
        f"generation {stats.generation_tokens} tokens, {stats.generation_tps:.1f} tokens/s; "
        f"first token after {stats.time_to_first_token_s * 1000:.0f} ms; "
        f"peak memory {stats.peak_memory_bytes / 1e6:.0f} MB"
    )
    drafts = stats.speculation
    if drafts is None:
        return line
    return (
        f"{line}; {drafts.accepted_tokens} of {drafts.drafted_tokens} drafted tokens accepted "
        f"({drafts.acceptance_rate:.0%}), {drafts.calls_per_token:.2f} calls a token"
    )
