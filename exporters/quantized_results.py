"""What an export has quantised so far, on disk, so that it can be interrupted."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.errors import ExportError
from edgellm.exporters.quantizers.low_bit import LowBitLinear, Scheme
from edgellm.exporters.quantizers.row_classes import (
    JoinedLinear,
    QuantizedWeight,
    Recipe,
    RowSchemes,
)

LOG = logging.getLogger(__name__)

KEY = "key.txt"
SUFFIX = ".npz"
SCHEMES = "schemes.json"


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

    def save(self, path: str, linear: QuantizedWeight) -> None:
        """Store the result of a linear."""
        target = self._directory / f"{path}{SUFFIX}"
        part = target.with_suffix(".part")
        if isinstance(linear, JoinedLinear):
            arrays: dict[str, npt.NDArray[np.generic]] = {"classes": linear.classes}
            for number, each in enumerate(linear.parts):
                arrays |= _arrays(each, f"{number}.")
        else:
            arrays = _arrays(linear, "0.")
        with part.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        part.replace(target)

    def save_recipes(self, recipes: Mapping[str, Recipe]) -> None:
        """Store how each linear is quantised."""
        part = self._directory / f"{SCHEMES}.part"
        part.write_text(json.dumps({path: asdict(one) for path, one in recipes.items()}))
        part.replace(self._directory / SCHEMES)

    def recipes(self) -> dict[str, Recipe]:
        """Return the stored recipes, none if there are none."""
        file = self._directory / SCHEMES
        if not file.is_file():
            return {}
        return {path: _recipe(facts) for path, facts in json.loads(file.read_text()).items()}

    def load(self, path: str) -> QuantizedWeight | None:
        """Return a stored result, None if there is none."""
        target = self._directory / f"{path}{SUFFIX}"
        if not target.is_file():
            return None
        with np.load(target, allow_pickle=False) as stored:
            if "classes" not in stored.files:
                return _linear(stored, "0.")
            classes = stored["classes"]
            parts = [_linear(stored, f"{number}.") for number in range(int(classes.max()) + 1)]
            return JoinedLinear(tuple(parts), classes)


def _arrays(linear: LowBitLinear, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
    facts = np.array([linear.op_type, *(f"{k}={v}" for k, v in linear.attributes.items())])
    arrays = {"facts": facts, "unit": linear.unit, **linear.tensors}
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def _linear(stored: Mapping[str, npt.NDArray[np.generic]], prefix: str) -> LowBitLinear:
    arrays = {name.removeprefix(prefix): stored[name] for name in stored if name.startswith(prefix)}
    op_type, *pairs = arrays.pop("facts").tolist()
    attributes = {name: int(value) for name, value in (pair.split("=") for pair in pairs)}
    unit = arrays.pop("unit").astype(np.float64)
    return LowBitLinear(op_type, arrays, attributes, unit)


def _recipe(facts: dict[str, Any]) -> Recipe:
    if "classes" not in facts:
        return Scheme(**facts)
    schemes = tuple(Scheme(**one) for one in facts["schemes"])
    return RowSchemes(schemes, tuple(facts["classes"]))
