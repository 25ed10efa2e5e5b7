"""Compare bundles: what ``edgellm eval --compare`` prints."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm import api, encoder_api
from edgellm.errors import ConfigError

PathLike = str | os.PathLike[str]
LENGTH, REPETITIONS = 32, 3
"""Of the prompt, and of what is decoded behind it; shorter where the context is."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What bundles are scored on: one of a text, labelled images, sentence pairs."""

    text: Path | None = None
    images: Path | None = None
    labels: Path | None = None
    pairs: Path | None = None
    limit: int | None = None
    limit_bytes: int | None = None
    context: int | None = None
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One bundle.

    Attributes:
        bundle: its path.
        quantization: as its manifest has it.
        bits_per_weight: of all weights.
        bytes: of all files.
        score: nats a token (less is better), accuracy, or Spearman correlation.
        rate: tokens decoded, or images or sentences, a second.
        operations_nj: estimated energy of the products of one token, nanojoules.
        weights_nj: of reading the weights that it takes.
    """

    bundle: str
    quantization: str
    bits_per_weight: float
    bytes: int
    score: float
    rate: float
    operations_nj: float
    weights_nj: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several bundles on the same subject."""

    measure: str
    rate_unit: str
    energy_basis: str
    rows: tuple[Row, ...]


def compare(
    bundles: Sequence[PathLike],
    subject: Subject,
    progress: Callable[[str], object] = lambda _: None,
) -> Comparison:
    """Score several bundles on the same subject, and measure and estimate what they cost.

    Args:
        bundles: two or more make sense; one is allowed.
        subject: what to score them on.
        progress: called with a line before each bundle.

    Raises:
        ConfigError: the subject is none, or not for these bundles.
        BundleError: a bundle is damaged.
    """
    from edgellm.bundle import open_bundle
    from edgellm.runtime import energy
    from edgellm.runtime.loader import load_plan

    rows = []
    for path in bundles:
        progress(f"scoring {path}")
        bundle = open_bundle(path)
        score, rate = _score(path, subject)
        cost = energy.estimate(load_plan(bundle))
        rows.append(
            Row(
                bundle=str(path),
                quantization=bundle.manifest.quantization,
                bits_per_weight=bundle.manifest.bits_per_weight,
                bytes=sum(entry.size for entry in bundle.manifest.files.values()),
                score=score,
                rate=rate,
                operations_nj=cost.operations,
                weights_nj=cost.weights,
            )
        )
    measure, unit = _names(subject)
    return Comparison(measure=measure, rate_unit=unit, energy_basis=energy.BASIS, rows=tuple(rows))


def _names(subject: Subject) -> tuple[str, str]:
    if subject.text is not None:
        return "nats/token", "tokens/s"
    return ("accuracy", "images/s") if subject.images is not None else ("spearman", "sentences/s")


def _score(path: PathLike, subject: Subject) -> tuple[float, float]:
    """Return the score of a bundle, and its rate."""
    if subject.text is not None:
        return _score_text(path, subject.text, subject)
    options = encoder_api.EncoderEvaluateOptions(
        context=subject.context, limit=subject.limit, threads=subject.threads
    )
    begin = time.perf_counter()
    if subject.images is not None and subject.labels is not None:
        accuracy = encoder_api.evaluate_images(
            path, subject.images, subject.labels, options=options
        )
        return accuracy.accuracy, accuracy.images / (time.perf_counter() - begin)
    if subject.pairs is None:
        raise ConfigError("give a text, images with labels, or sentence pairs to compare on")
    found = encoder_api.evaluate_pairs(path, subject.pairs, options=options)
    return found.spearman, 2 * found.pairs / (time.perf_counter() - begin)


def _score_text(path: PathLike, text: Path, subject: Subject) -> tuple[float, float]:
    from edgellm.bundle import open_bundle
    from edgellm.runtime.bench import BenchRequest

    options = api.EvaluateOptions(
        context=subject.context, limit_bytes=subject.limit_bytes, threads=subject.threads
    )
    found = api.evaluate(path, text, options=options)
    length = max(1, min(LENGTH, open_bundle(path).manifest.context_length // 2))
    request = BenchRequest(
        prompt_lengths=(length,),
        generation_lengths=(length,),
        threads=() if subject.threads is None else (subject.threads,),
        repetitions=REPETITIONS,
        context=2 * length,
    )
    rows = api.bench(path, request).rows
    return found.nats_per_token, max(rate.median for row in rows for rate in row.decode)
