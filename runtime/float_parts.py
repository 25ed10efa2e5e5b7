"""Compute a part of a float model by onnxruntime."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime


def run_part(
    model: Path,
    outputs: Sequence[str],
    feeds: Sequence[Mapping[str, npt.NDArray[np.generic]]],
) -> list[dict[str, npt.NDArray[np.float32]]]:
    """Run a model once for each of the feeds.

    Args:
        model: path of the ONNX file.
        outputs: names of values.
        feeds: arrays by name; those that the model does not take are left out.

    Returns:
        the outputs by name, for each of the feeds.
    """
    return list(run_each(model, outputs, feeds))


def run_each(
    model: Path,
    outputs: Sequence[str],
    feeds: Iterable[Mapping[str, npt.NDArray[np.generic]]],
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Yield what ``run_part`` returns, feed by feed."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    taken = {item.name for item in session.get_inputs()}
    for feed in feeds:
        chosen = {name: array for name, array in feed.items() if name in taken}
        values = session.run(list(outputs), chosen)
        yield dict(zip(outputs, values, strict=True))
