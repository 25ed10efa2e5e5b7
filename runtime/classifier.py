"""An image classifier, which ``edgellm.load`` returns: images in, labels by name out."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgellm.bundle import Bundle, open_bundle
from edgellm.device import Device
from edgellm.errors import BundleError, ConfigError
from edgellm.runtime.encoder_contract import CLASSIFICATION
from edgellm.runtime.encoder_engine import EncoderEngine
from edgellm.runtime.images import reader_of
from edgellm.runtime.loaded import Loaded
from edgellm.runtime.loader import load_plan
from edgellm.runtime.start import checked_threads

if TYPE_CHECKING:
    from edgellm.runtime.images import ImageLike

LABELS = "labels.json"
MAX_LABEL_BYTES = 1 << 26
BATCH = 64
"""Images that are decoded before they are computed."""


@dataclass(frozen=True)
class Prediction:
    """A label and how probable the model finds it, 0 to 1."""

    label: str
    index: int
    score: float


class ImageClassifier(Loaded[EncoderEngine]):
    """Classifies images with a bundle. Use it in a ``with`` block, or ``close`` it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        device: Device | None = None,
    ) -> None:
        """Open a bundle, map its weights and get ready to run.

        Args:
            path: the bundle's directory.
            threads: worker threads; default: one for each core that this process may use.
            device: a simulated device that computes the operators it takes; the rest is computed
                by the references.

        Raises:
            BundleError: the bundle is damaged.
            ConfigError: it is for another task, or threads is out of range.
        """
        self._bundle = open_bundle(path)
        self._bundle.require_task(CLASSIFICATION)
        self._labels = read_labels(self._bundle)
        self._reader = reader_of(self._bundle)
        plan = load_plan(self._bundle)
        self._engine = EncoderEngine(
            plan, self.info, threads=checked_threads(threads), device=device
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self._labels

    def classify(
        self, images: "ImageLike | Iterable[ImageLike]", *, top: int = 5
    ) -> list[list[Prediction]]:
        """Return the best labels of each image, the best first.

        Args:
            images: an image or several: paths, contents of files (bytes), Pillow images, or arrays
                uint8 (height, width, channels).
            top: how many labels.

        Raises:
            ConfigError: an image cannot be read, or top is out of range.
            MissingDependencyError: reading files needs Pillow.
        """
        if top < 1:
            raise ConfigError(f"top is {top}; it must be at least 1")
        return [self._best(row, top) for row in self.logits(images)]

    def logits(self, images: "ImageLike | Iterable[ImageLike]") -> npt.NDArray[np.int32]:
        """Return (images, labels) int32 logits; real = logits * 2^-16. See ``classify``."""
        items = _as_list(images)
        parts = []
        for begin in range(0, len(items), BATCH):
            batch = [self._reader.read(item) for item in items[begin : begin + BATCH]]
            parts.append(self._engine.run_images(np.stack(batch)))
        if not parts:
            raise ConfigError("there are no images")
        return np.concatenate(parts)

    def pixels(self, images: "ImageLike | Iterable[ImageLike]") -> npt.NDArray[np.uint8]:
        """Return images as the graph takes them; see ``classify``."""
        batch = np.stack([self._reader.read(item) for item in _as_list(images)])
        return self._engine.as_patches(batch)

    def _best(self, logits: npt.NDArray[np.int32], top: int) -> list[Prediction]:
        real = logits.astype(np.float64) * 2.0**-self.info.logits_frame
        odds = np.exp(real - real.max())
        scores = odds / odds.sum()
        order = np.argsort(-logits.astype(np.int64), kind="stable")[:top]
        return [Prediction(self._labels[i], int(i), float(scores[i])) for i in order]


def read_labels(bundle: Bundle) -> tuple[str, ...]:
    """Return the names of the classes.

    Raises:
        BundleError: the file is missing, damaged, or has another number of names.
    """
    path = bundle.file(LABELS)
    count = bundle.manifest.num_labels
    if path is None:
        raise BundleError(f"{bundle.path}: its manifest lists no {LABELS}")
    if path.stat().st_size > MAX_LABEL_BYTES:
        raise BundleError(f"{path}: larger than {MAX_LABEL_BYTES} bytes")
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BundleError(f"{path}: is no list of names")
    if len(names) != count or not count:
        raise BundleError(f"{path}: has {len(names)} names; the model has {count} labels")
    return tuple(names)


def _as_list(images: Any) -> Sequence[Any]:  # noqa: ANN401
    """Return one image as a list of it; an array of four dimensions is several images."""
    if isinstance(images, np.ndarray):
        return [images] if images.ndim < 4 else list(images)
    if isinstance(images, str | bytes | os.PathLike) or not isinstance(images, Iterable):
        return [images]
    return list(images)
