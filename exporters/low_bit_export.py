"""Quantise the linears of a checkpoint on calibration texts, so that it can be interrupted."""

import hashlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError, ExportError
from edgellm.exporters.calibrated import Calibrated
from edgellm.exporters.checkpoint import Checkpoint
from edgellm.exporters.float_parts import FloatParts, Run
from edgellm.exporters.lowering.inventory import Inventory
from edgellm.exporters.lowering.stored_weights import LinearQuantizer
from edgellm.exporters.progress import Progress
from edgellm.exporters.quantizers import low_bit
from edgellm.exporters.quantizers.low_bit import LowBitLinear, Scheme
from edgellm.exporters.source import Source

LOG = logging.getLogger(__name__)

WORK_SUFFIX = ".quantizing"
KEY = "key.txt"
SUFFIX = ".npz"

Texts = Sequence[npt.NDArray[np.int64]]
WriteFloatModel = Callable[[Path], Path]
"""Writes the float model into a directory and returns the path of its graph."""


@dataclass(frozen=True)
class LowBit:
    """What ``--quant`` asks for.

    Attributes:
        scheme: how linears are quantised.
        texts: (directory of the checkpoint, size of its vocabulary, longest text) -> token ids.
        run: computes a part of the float model.
    """

    scheme: Scheme
    texts: Callable[[Path, int, int], Texts]
    run: Run


class Results:
    """The results of linears, on disk as they come.

    A run that is interrupted leaves them, and the next with the same model, texts and scheme goes
    on from there; anything else begins anew. A directory that is not of such a run is left alone.
    """

    def __init__(self, directory: Path, key: str) -> None:
        self._directory = directory
        if directory.exists() and not (directory / KEY).is_file():
            raise ExportError(
                f"{directory}: is in the way of intermediate results and was not made by an "
                "export; move it away, or choose another output"
            )
        if directory.exists() and (directory / KEY).read_text(encoding="utf-8") != key:
            shutil.rmtree(directory)
        elif any(directory.glob(f"*{SUFFIX}")):
            LOG.warning("%s: going on from an interrupted export", directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / KEY).write_text(key, encoding="utf-8")

    def save(self, path: str, linear: LowBitLinear) -> None:
        """Store the result of a linear."""
        target = self._directory / f"{path}{SUFFIX}"
        part = target.with_suffix(".part")
        facts = np.array([linear.op_type, *(f"{k}={v}" for k, v in linear.attributes.items())])
        with part.open("wb") as stream:
            arrays = {"facts": facts, "unit": linear.unit, **linear.tensors}
            np.savez(stream, allow_pickle=False, **arrays)
        part.replace(target)

    def load(self, path: str) -> LowBitLinear | None:
        """Return a stored result, None if there is none."""
        target = self._directory / f"{path}{SUFFIX}"
        if not target.is_file():
            return None
        with np.load(target, allow_pickle=False) as stored:
            op_type, *pairs = stored["facts"].tolist()
            attributes = {name: int(value) for name, value in (pair.split("=") for pair in pairs)}
            tensors = {name: stored[name] for name in stored.files if name not in ("facts", "unit")}
            return LowBitLinear(op_type, tensors, attributes, stored["unit"])


def quantize_checkpoint(
    checkpoint: Checkpoint,
    model: Source,
    options: LowBit,
    work: Path,
    write_float_model: WriteFloatModel,
    progress: Progress | None = None,
) -> LinearQuantizer:
    """Quantise all linears of a float checkpoint.

    Args:
        checkpoint: where the weights come from.
        model: the same, described.
        options: how.
        work: a directory for intermediate results; the float model takes 4 bytes a parameter there.
        write_float_model: writes that model.
        progress: called with the parameters of linears done, and their number.

    Returns:
        The quantiser to export with; it reads the results in ``work``, which may go afterwards.

    Raises:
        ConfigError: the checkpoint is ternary already, or there is no text to calibrate on.
        ExportError: ``work`` exists and is not of an earlier export.
    """
    if model.quantization is not None:
        raise ConfigError("this checkpoint is ternary: it needs no --quant")
    shapes = _linears(model)
    config = model.model.config
    longest = config.max_position_embeddings
    texts = options.texts(checkpoint.path, config.vocab_size, longest)
    _check_texts(texts, shapes)
    results = Results(work, _key(checkpoint, options.scheme, texts))
    done, total = 0, num_linear_weights(model)

    def save(path: str, linear: LowBitLinear) -> None:
        nonlocal done
        results.save(path, linear)
        done += shapes[path][0] * shapes[path][1]
        if progress is not None:
            progress(done, total)

    parts = FloatParts(write_float_model(work / "float"), options.run)
    Calibrated(parts, texts, options.scheme).run(list(shapes), save, results.load)
    shutil.rmtree(work / "float")
    return lambda path, _weight: _found(results, path)


def round_plainly(scheme: Scheme) -> LinearQuantizer:
    """Return a quantiser that needs no texts: every weight goes to the nearest level."""
    return lambda _path, weight: low_bit.quantize(weight, None, scheme)


def _found(results: Results, path: str) -> LowBitLinear:
    linear = results.load(path)
    if linear is None:
        raise ExportError(f"{path}: the calibration did not reach this linear")
    return linear


def num_linear_weights(model: Source) -> int:
    """Return how many weights the linears of a model have: what the calibration reports."""
    return sum(rows * columns for rows, columns in _linears(model).values())


def _linears(model: Source) -> Mapping[str, tuple[int, int]]:
    inventory = Inventory()
    model.model.build(inventory)
    return {
        parameter.name.removesuffix(".weight"): (parameter.shape[0], parameter.shape[1])
        for parameter in inventory.parameters
        if parameter.is_linear
    }


def _check_texts(texts: Texts, shapes: Mapping[str, tuple[int, int]]) -> None:
    tokens, widest = sum(map(len, texts)), max(columns for _, columns in shapes.values())
    if not tokens:
        raise ConfigError("the text to calibrate on has no token of this model")
    if tokens < widest:
        LOG.warning(
            "%d tokens to calibrate on are few for linears of %d columns; give a longer text with "
            "--calib",
            tokens,
            widest,
        )


def _key(checkpoint: Checkpoint, scheme: Scheme, texts: Texts) -> str:
    """Return what a result depends on, as a checksum."""
    facts = hashlib.sha256(repr(scheme).encode())
    for file in sorted(checkpoint.path.glob("*.safetensors")):
        status = file.stat()
        facts.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    for ids in texts:
        facts.update(np.asarray(ids, np.int64).tobytes())
    return facts.hexdigest()
