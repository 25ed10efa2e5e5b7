"""Score encoders: the accuracy of a classifier, the rank correlation of a sentence encoder.

A labelled set of images is a pair of IDX files (as MNIST's, plain or .gz), or a folder of images
and a text file of lines ``name label``; a name with blanks is followed by a tab. STS files are
tab-separated: score, sentence, sentence in the columns 5 to 7, as in STS-B, or in three columns.
"""

import gzip
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError
from edgellm.runtime.evaluate import lines_of

BATCH = 64
MAX_FILE_BYTES = 1 << 32
IDX_BYTES = 0x08
"""The element type of IDX files of bytes."""
STS_COLUMNS = {3: (0, 1, 2), 7: (4, 5, 6)}
"""Where score and sentences are, by the number of columns; 7 or more are as 7."""

Floats = npt.NDArray[np.floating]
Logits = Callable[[Sequence[Any]], npt.NDArray[np.generic]]
Embed = Callable[[Sequence[str]], Floats]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How many images got their label."""

    accuracy: float
    correct: int
    images: int


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """How well cosines of embeddings order pairs of sentences."""

    spearman: float
    pairs: int


@dataclass(frozen=True)
class LabelledImages:
    """Images, as arrays or paths, and the number of the label of each."""

    images: Sequence[Any]
    labels: Sequence[int]


@dataclass(frozen=True)
class ScoredPairs:
    """Pairs of sentences and how alike people find them."""

    first: Sequence[str]
    second: Sequence[str]
    scores: Sequence[float]


def score_images(
    logits: Logits, data: LabelledImages, progress: Callable[[int], object] = lambda _: None
) -> Accuracy:
    """Return how often the best logit is the label's; the lower index wins a tie.

    Args:
        logits: images to (images, labels).
        data: at least one image.
        progress: called with the number of images of each batch.
    """
    correct = 0
    for begin in range(0, len(data.images), BATCH):
        batch = data.images[begin : begin + BATCH]
        best = logits(batch).argmax(axis=1)
        correct += int((best == np.array(data.labels[begin : begin + len(batch)])).sum())
        progress(len(batch))
    count = len(data.images)
    return Accuracy(accuracy=correct / count, correct=correct, images=count)


def score_pairs(embed: Embed, pairs: ScoredPairs) -> Correlation:
    """Return the Spearman correlation of cosines and scores.

    Raises:
        ConfigError: all cosines are equal, as those of a pair or of pairs of the same sentence are.
    """
    first, second = (
        _unit(np.asarray(embed(texts), np.float64)) for texts in (pairs.first, pairs.second)
    )
    cosines = (first * second).sum(axis=1)
    if cosines.min() == cosines.max():
        raise ConfigError("all pairs have the same cosine; a correlation takes different ones")
    value = np.corrcoef(ranks(cosines), ranks(np.array(pairs.scores)))[0, 1]
    return Correlation(spearman=float(value), pairs=len(pairs.scores))


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the rank of each value, from 0; equal values share the mean of their ranks."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count + 1) / 2)[group]


def read_labelled_images(
    images: Path, labels: Path, names: Sequence[str], limit: int | None = None
) -> LabelledImages:
    """Read a labelled set.

    Args:
        images: an IDX file or a folder.
        labels: an IDX file, or lines ``name label``.
        names: of the model's labels; a label in a text is one of these, or its number.
        limit: take no more images.

    Raises:
        ConfigError: a file is damaged, or images and labels do not belong together.
    """
    if images.is_dir():
        pairs = list(_read_label_lines(images, labels, names))[:limit]
        return LabelledImages([path for path, _ in pairs], [label for _, label in pairs])
    pixels, numbers = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(numbers):
        raise ConfigError(f"{images} has {len(pixels)} images, {labels} has {len(numbers)} labels")
    if len(numbers) and int(numbers.max()) >= len(names):
        raise ConfigError(f"{labels}: has the label {numbers.max()}; the model has {len(names)}")
    return LabelledImages(list(pixels[:limit]), [int(number) for number in numbers[:limit]])


def read_idx(path: Path, rank: int) -> npt.NDArray[np.uint8]:
    """Return the array of bytes in an IDX file.

    Raises:
        ConfigError: the file cannot be read, or is none of that rank.
    """
    content = _read_bytes(path)
    header = 4 + 4 * rank
    if len(content) < header or content[:4] != bytes((0, 0, IDX_BYTES, rank)):
        raise ConfigError(f"{path}: is no IDX file of bytes with {rank} dimensions")
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], ">u4"))
    count = 1
    for size in shape:
        count *= size
    if count != len(content) - header or not count:
        raise ConfigError(f"{path}: {len(content) - header} bytes are no array of shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as stream:
                content = stream.read(MAX_FILE_BYTES + 1)
        else:
            content = path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes when unpacked")
    return content


def _read_lines(path: Path) -> list[str]:
    try:
        return lines_of(_read_bytes(path).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no UTF-8 text: {error}") from error


def _read_label_lines(
    folder: Path, labels: Path, names: Sequence[str]
) -> Iterator[tuple[Path, int]]:
    numbers = {name: number for number, name in enumerate(names)}
    numbers |= {str(number): number for number in range(len(names))}
    found = False
    for line_number, line in enumerate(_read_lines(labels), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().partition("\t" if "\t" in line.strip() else " ")
        label = label.strip()
        where = f"{labels}, line {line_number}"
        if label not in numbers:
            raise ConfigError(f"{where}: {label!r} is no label of the model, by name or number")
        path = folder / name
        if not path.is_file():
            raise ConfigError(f"{where}: there is no image {path}")
        found = True
        yield path, numbers[label]
    if not found:
        raise ConfigError(f"{labels}: names no image")


def read_pairs(path: Path, limit: int | None = None) -> ScoredPairs:
    """Read pairs of sentences.

    Raises:
        ConfigError: the file cannot be read, or a line has other columns.
    """
    rows = []
    for number, line in enumerate(_read_lines(path), 1):
        if not line.strip():
            continue
        cells = line.split("\t")
        columns = STS_COLUMNS.get(min(len(cells), max(STS_COLUMNS)))
        if columns is None:
            raise ConfigError(
                f"{path}, line {number}: has {len(cells)} columns; needed are 3, or 7 as in STS-B"
            )
        score, first, second = (cells[column] for column in columns)
        rows.append((_score(score, f"{path}, line {number}"), first, second))
        if not first.strip() or not second.strip():
            raise ConfigError(f"{path}, line {number}: a sentence is empty")
    scores, first_texts, second_texts = zip(*rows[:limit], strict=True) if rows else ((),) * 3
    if len(set(scores)) < 2:
        raise ConfigError(f"{path}: a correlation takes two pairs or more, of different scores")
    return ScoredPairs(first_texts, second_texts, scores)


def _score(text: str, where: str) -> float:
    try:
        score = float(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r} is no score") from error
    if not math.isfinite(score):
        raise ConfigError(f"{where}: {text!r} is no score")
    return score
