"""Say what is on images: the best labels of each, with their probabilities."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.commands._generation import positive
from edgellm.commands._output import fields_of, printable, write, write_json

if TYPE_CHECKING:
    from edgellm.runtime.classifier import ImageClassifier, Prediction

HELP = "say what is on images"
EXAMPLE = "edgellm classify bundle --image cat.png --top 5"
BATCH = 64
"""Images that are computed before their labels are written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="directory made by edgellm export")
    add("--image", nargs="+", required=True, metavar="FILE|DIR",
        help='images, or folders of them; "-" reads one from stdin')  # fmt: skip
    add("--top", type=positive, default=5, metavar="K", help="how many labels (default: 5)")
    add("-t", "--threads", type=positive, help="default: one for each core")
    add("--json", action="store_true", help="one object: the labels of each image")


def run(options: argparse.Namespace) -> int:
    """Classify."""
    from edgellm import api

    with api.load(
        options.bundle, threads=options.threads, task="image-classification"
    ) as classifier:
        sources = _sources(options.image)
        found = []
        for begin in range(0, len(sources), BATCH):
            batch = sources[begin : begin + BATCH]
            found += _classify(options, classifier, batch, many=len(sources) > 1)
    if options.json:
        write_json({"images": found})
    return 0


def _sources(names: list[str]) -> list[str | Path]:
    from edgellm.runtime.images import find_images

    sources: list[str | Path] = []
    for name in names:
        sources += ["-"] if name == "-" else find_images([Path(name)])
    return sources


def _classify(
    options: argparse.Namespace,
    classifier: "ImageClassifier",
    batch: list[str | Path],
    *,
    many: bool,
) -> list[object]:
    contents = [sys.stdin.buffer.read() if name == "-" else name for name in batch]
    results = classifier.classify(contents, top=options.top)
    for name, labels in zip(batch, results, strict=True):
        if not options.json:
            _write(str(name) if many else "", labels)
    return [
        {"image": str(name), "labels": [fields_of(label) for label in labels]}
        for name, labels in zip(batch, results, strict=True)
    ]


def _write(name: str, labels: "list[Prediction]") -> None:
    if name:
        write(f"{printable(name)}:")
    for label in labels:
        write(f"{label.score:7.2%}  {printable(label.label)}")
