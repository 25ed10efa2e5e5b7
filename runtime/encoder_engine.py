"""Run an encoder: images or sentences of any lengths in, one row of integers for each out."""

import threading
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgellm.bundle import Manifest
from edgellm.device import Device
from edgellm.errors import ConfigError, ContextLengthError
from edgellm.graph_names import ENDS, IDS, IMAGES, PIXELS, POSITIONS, SEQUENCES, TOKENS, TYPES
from edgellm.runtime.encoder_contract import CLASSIFICATION, pixel_shape
from edgellm.runtime.machine import Machine
from edgellm.runtime.placement import PlacedMachine
from edgellm.runtime.plan import Plan

DEFAULT_CHUNK = 256
"""Rows a call: what a layer makes of them stays in a level-2 cache."""
SHARED_WORK = 1 << 22
"""Weights times rows below which one thread does a call alone."""
LEAST_ROWS = 32
"""Rows a thread from which threads share the rows of a call instead of the weights."""

Array = npt.NDArray[np.generic]
Ids = npt.NDArray[np.int64]
Integers = npt.NDArray[np.int32]


class EncoderEngine:
    """A plan that is ready to run; calls from several threads are made one after the other.

    Sequences lie one after the other without padding. However a batch is cut into calls, the
    integers are the same.
    """

    def __init__(
        self,
        plan: Plan,
        manifest: Manifest,
        *,
        threads: int,
        chunk: int | None = None,
        device: Device | None = None,
    ) -> None:
        """Compile or load the kernels, and lower the plan.

        Args:
            plan: a checked graph of an encoder.
            manifest: of its bundle.
            threads: how many run each step, the caller's own included.
            chunk: rows a call; at least one sequence goes into each.
            device: a simulated device that computes the operators it takes, without threads.

        Raises:
            ConfigError: a count is out of range.
        """
        if chunk is not None and chunk < 1:
            raise ConfigError(f"chunk is {chunk}; it must be at least 1")
        self.plan = plan
        self.manifest = manifest
        self.context_length = manifest.context_length
        self.chunk = max(chunk or DEFAULT_CHUNK, self.context_length)
        self.threads = threads
        self._is_vision = manifest.task == CLASSIFICATION
        images = max(1, self.chunk // self.context_length)
        sizes = {IMAGES: images} if self._is_vision else {TOKENS: self.chunk, SEQUENCES: self.chunk}
        self._machine: Machine | PlacedMachine = (
            Machine(plan, sizes, threads, least_rows=LEAST_ROWS)
            if device is None
            else PlacedMachine(plan, device)
        )
        (self._output,) = plan.outputs
        self.width = int(plan.values[self._output].shape[1])
        self._work_per_row = sum(array.size for array in plan.constants.values())
        self._lock = threading.Lock()
        self._closed = False

    @property
    def steps(self) -> int:
        """How many steps a call has."""
        return len(self._machine.steps)

    def run_images(self, pixels: npt.NDArray[np.uint8]) -> Integers:
        """Return (images, labels) logits.

        Args:
            pixels: (images, height, width, channels), or in the shape of the graph's input.

        Raises:
            ConfigError: no images, or of another size.
        """
        if not self._is_vision or pixels.dtype != np.uint8 or len(pixels) == 0:
            raise ConfigError(f"needed are images of bytes, got {pixels.dtype} {pixels.shape}")
        if pixels.shape[1:] != pixel_shape(self.manifest):
            pixels = self.as_patches(pixels)
        step = max(1, self.chunk // self.context_length)
        out = np.empty((len(pixels), self.width), np.int32)
        for begin in range(0, len(pixels), step):
            part = np.ascontiguousarray(pixels[begin : begin + step])
            self._call(self._image_feeds(part), out[begin : begin + step])
        return out

    def as_patches(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return images (images, height, width, channels) in the shape of the graph's input.

        What holds no whole patch, at the right and at the bottom, is cut off.

        Raises:
            ConfigError: they are of another size.
        """
        facts = self.manifest
        size = (facts.image_height, facts.image_width, facts.num_channels)
        if pixels.shape[1:] != size:
            raise ConfigError(f"images are {pixels.shape[1:]}; this model takes {size}")
        shape = pixel_shape(facts)
        rows, height, columns, row_bytes = shape
        width = columns * row_bytes // facts.num_channels
        cut = pixels[:, : rows * height, :width]
        return np.ascontiguousarray(cut).reshape(len(pixels), *shape)

    def _image_feeds(self, pixels: npt.NDArray[np.uint8]) -> dict[str, Array]:
        return {PIXELS: pixels, ENDS: np.arange(1, len(pixels) + 1) * self.context_length}

    def run_texts(self, texts: Sequence[Ids]) -> Integers:
        """Return (texts, hidden) embeddings.

        Args:
            texts: ids of each; at least one, at most ``context_length``.

        Raises:
            ConfigError: no texts, an empty one, or an id outside of the vocabulary.
            ContextLengthError: a text is too long.
        """
        for number, ids in enumerate(texts):
            self._check_ids(ids, number)
        if self._is_vision or not len(texts):
            raise ConfigError("needed are texts, at least one")
        out = np.empty((len(texts), self.width), np.int32)
        for begin, end in _cut([len(ids) for ids in texts], self.chunk):
            self._call(text_feeds(texts[begin:end]), out[begin:end])
        return out

    def _check_ids(self, ids: Ids, number: int) -> None:
        if ids.ndim != 1 or len(ids) == 0:
            raise ConfigError(f"text {number} has no token")
        if len(ids) > self.context_length:
            raise ContextLengthError(
                f"text {number} has {len(ids)} tokens; allowed are {self.context_length}"
            )
        if int(ids.min()) < 0 or int(ids.max()) >= self.manifest.vocab_size:
            raise ConfigError(
                f"text {number} has ids from {ids.min()} to {ids.max()}; allowed are 0 to "
                f"{self.manifest.vocab_size - 1}"
            )

    def _call(self, feeds: Mapping[str, Array], out: Integers) -> None:
        """Run the steps on one chunk; feeds are checked and in C order."""
        with self._lock:
            self._prepare(feeds, out)
            self._machine.run(alone=self._rows(feeds) * self._work_per_row < SHARED_WORK)

    def _prepare(self, feeds: Mapping[str, Array], out: Integers) -> None:
        if self._closed:
            raise ConfigError("the engine is closed")
        for name, array in feeds.items():
            self._machine.bind(name, array)
        self._machine.bind(self._output, out)
        count = len(feeds[ENDS])
        sizes = {IMAGES: count}
        if not self._is_vision:
            sizes = {SEQUENCES: count, TOKENS: len(feeds[IDS])}
        self._machine.resize(sizes)
        self._machine.divide_by_rows(self._rows(feeds) >= LEAST_ROWS * self.threads)

    def _rows(self, feeds: Mapping[str, Array]) -> int:
        return len(feeds[ENDS]) * self.context_length if self._is_vision else len(feeds[IDS])

    def run(self, feeds: Mapping[str, Array], *, trace: bool = False) -> dict[str, Array]:
        """Return the graph's output by name, or every value that a step makes when tracing.

        Args:
            feeds: the graph's inputs; sequences end where the engine lets them end.
            trace: all of it in one call, step by step.

        Raises:
            ConfigError, ContextLengthError: as ``run_images`` and ``run_texts``.
        """
        if self._is_vision:
            pixels = np.ascontiguousarray(feeds[PIXELS], np.uint8)
            output, whole = self.run_images(pixels), self._image_feeds(pixels)
        else:
            texts = np.split(feeds[IDS].astype(np.int64), feeds[ENDS][:-1].astype(np.int64))
            output, whole = self.run_texts(texts), text_feeds(texts)
        if not trace:
            return {self._output: output}
        rows = self._rows(whole)
        engine = self if rows <= self.chunk else self._larger(rows)
        values = engine._trace(whole)
        if engine is not self:
            engine.close()
        return values

    def _larger(self, rows: int) -> "EncoderEngine":
        return EncoderEngine(self.plan, self.manifest, threads=self.threads, chunk=rows)

    def _trace(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the steps one by one on all threads and return every value that one makes."""
        out = np.empty((len(feeds[ENDS]), self.width), np.int32)
        values: dict[str, Array] = {}
        with self._lock:
            self._prepare(feeds, out)
            self._machine.divide_by_rows(False)  # values are copied whole
            for index, step in enumerate(self._machine.steps):
                self._machine.run(index, 1)
                for name in step.outputs:
                    value = self._machine.copy_value(name)
                    values[name] = out if value is None else value
        return values

    def close(self) -> None:
        """End the threads; the engine cannot run after that. A second call does nothing."""
        self._closed = True
        self._machine.close()


def text_feeds(texts: Sequence[Ids]) -> dict[str, Array]:
    """Return the graph's inputs for texts, one after the other."""
    lengths = [len(ids) for ids in texts]
    return {
        IDS: np.concatenate(texts).astype(np.int64, copy=False),
        TYPES: np.zeros(sum(lengths), np.int64),
        POSITIONS: np.concatenate([np.arange(length) for length in lengths]),
        ENDS: np.cumsum(lengths),
    }


def _cut(lengths: Sequence[int], chunk: int) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of neighbours that have at most ``chunk`` tokens together."""
    begin, total = 0, 0
    for index, length in enumerate(lengths):
        if total + length > chunk and index > begin:
            yield begin, index
            begin, total = index, 0
        total += length
    yield begin, len(lengths)
