"""Compute a part of a float model by onnxruntime."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

Feeds = Mapping[str, npt.NDArray[np.generic]]


def run_each(
    model: Path, outputs: Sequence[str], feeds: Iterable[Feeds]
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """Run a model once for each of the feeds, when its outputs are asked for.

    Args:
        model: path of the ONNX file, which is read at once.
        outputs: names of values.
        feeds: arrays by name; those that the model does not take are left out.

    Returns:
        the outputs by name, for each of the feeds.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    # Between two runs NumPy needs the cores: a step of tuning takes 0.17 s instead of 0.4 on a busy
    # machine of two cores, and half of the processor time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return _results(session, list(outputs), feeds)


def _results(
    session: onnxruntime.InferenceSession, outputs: list[str], feeds: Iterable[Feeds]
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    taken = {item.name for item in session.get_inputs()}
    for feed in feeds:
        chosen = {name: array for name, array in feed.items() if name in taken}
        yield dict(zip(outputs, session.run(outputs, chosen), strict=True))
