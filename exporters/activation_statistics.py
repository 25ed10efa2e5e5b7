"""What the activations of an encoder are like, measured by its float model on some inputs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SAMPLE = 1 << 18
"""Numbers that are kept of each site."""
SEED = 7
SCORES = ".scores"
"""How the sites end that have as many columns as a sequence has rows."""

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]
Feed = Mapping[str, npt.NDArray[np.generic]]
RunEach = Callable[[Path, Sequence[str], Iterable[Feed]], Iterator[dict[str, Rows]]]
"""(path of an ONNX model, names of outputs, feeds) -> for each of the feeds the outputs by name."""


@dataclass(frozen=True)
class Site:
    """The values of one step.

    Attributes:
        peak: (columns,) the largest magnitude of each column; of scores (1,).
        rows: some rows, drawn at random; (rows, columns) each, of scores of several widths.
    """

    peak: Floats
    rows: tuple[Rows, ...]

    @property
    def sample(self) -> Floats:
        """The rows in one array (rows, columns); not for scores."""
        return np.concatenate(self.rows).astype(np.float64)


Statistics = Mapping[str, Site]
"""By path, as ``Float32EncoderLowering.sites`` has them."""


def measure(
    model: Path, sites: Mapping[str, Sequence[str]], feeds: Sequence[Feed], run: RunEach
) -> Statistics:
    """Run the float model and collect what each site has.

    Args:
        model: ONNX file that has the values of all sites as outputs.
        sites: names of values by path.
        feeds: at least one.
        run: computes the outputs.
    """
    names = sorted({name for values in sites.values() for name in values})
    rng = np.random.default_rng(SEED)
    peaks: dict[str, Floats] = {}
    rows: dict[str, list[Rows]] = {path: [] for path in sites}
    for outputs in run(model, names, feeds):
        for path, values in sites.items():
            for name in values:
                flat = outputs[name].reshape(-1, outputs[name].shape[-1])
                peak = _peak(path, flat)
                peaks[path] = np.maximum(peaks.get(path, peak), peak)
                budget = SAMPLE // (len(feeds) * len(values))
                rows[path].append(_some(flat, budget, rng))
    return {path: Site(peaks[path], tuple(rows[path])) for path in sites}


def _peak(path: str, flat: Rows) -> Floats:
    magnitude = np.abs(flat)
    if path.endswith(SCORES):
        return np.array([magnitude.max()], np.float64)
    return magnitude.max(axis=0).astype(np.float64)


def _some(flat: Rows, budget: int, rng: np.random.Generator) -> Rows:
    """Return at least one row, and as many as ``budget`` numbers have."""
    count = min(len(flat), max(1, budget // flat.shape[1]))
    return flat[rng.choice(len(flat), count, replace=False)].copy()
