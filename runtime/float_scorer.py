"""Predict tokens with a checkpoint in float32, by onnxruntime: the yardstick for the integers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from edgellm.runtime.evaluate import cross_entropy


class FloatScorer:
    """A float32 ONNX model: input_ids (tokens,) int64 to logits (tokens, vocab) float32."""

    def __init__(self, model: Path, *, threads: int) -> None:
        self._session = _open(model, threads)

    def nats(self, ids: Sequence[int]) -> float:
        """Return the sum of -log(probability) of ids[1:], each given those before it."""
        feeds = {"input_ids": np.array(ids[:-1], dtype=np.int64)}
        (logits,) = self._session.run(["logits"], feeds)
        return cross_entropy(logits.astype(np.float64), ids[1:])


class FloatEncoder:
    """A float32 ONNX model of an encoder, as ``exporters.encoder_build.float_model`` writes it."""

    def __init__(self, model: Path, *, threads: int) -> None:
        self._session = _open(model, threads)

    def logits(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return (images, labels) of images in the shape of the bundle's input."""
        (logits,) = self._session.run(["logits"], {"pixel_values": pixels})
        return np.asarray(logits, np.float32)

    def embed(self, texts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Return (texts, hidden) of token ids, text by text."""
        rows = [
            self._session.run(["embeddings"], {"input_ids": np.array([ids], np.int64)})[0]
            for ids in texts
        ]
        return np.concatenate(rows)


def _open(model: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
