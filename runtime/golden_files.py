"""How golden cases lie in a bundle: a list in JSON, and a file of arrays for each case.

``golden/cases.json`` lists the cases; ``golden/<name>.safetensors`` holds the arrays of each. What
the lists and arrays hold is told by ``golden.py`` and ``encoder_golden.py``.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.bundle import Bundle
from edgellm.config import JsonFields
from edgellm.errors import BundleError
from edgellm.runtime.plan import Plan
from edgellm.runtime.session_file import read_arrays, write_arrays

FOLDER = "golden"
CASES = "cases.json"
MAX_CASES = 16
MAX_CASE_BYTES = 1 << 28
"""Of the arrays of a case: the inputs and outputs of a few images or texts."""

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Entry:
    """A case of the list, checked as far as all cases are alike.

    Attributes:
        path: of the list.
        name: of the case.
        layers: sha256 of each residual value, in order.
        fields: all that the list says of the case.
    """

    path: Path
    name: str
    layers: dict[str, str]
    fields: dict[str, Any]


def array_path(directory: Path, name: str) -> Path:
    """Return the file of a case's arrays."""
    return directory / FOLDER / f"{name}.safetensors"


def write_case_arrays(directory: Path, name: str, arrays: Arrays) -> None:
    """Write the arrays of a case into a bundle's directory."""
    (directory / FOLDER).mkdir(exist_ok=True)
    write_arrays(array_path(directory, name), arrays, {})


def read_case_arrays(bundle: Bundle, name: str) -> Arrays:
    """Return the arrays of a listed case.

    Raises:
        BundleError: the file is damaged, or vast.
    """
    path = array_path(bundle.path, name)
    if path.stat().st_size > MAX_CASE_BYTES:
        raise BundleError(f"{path}: larger than {MAX_CASE_BYTES} bytes")
    arrays, _ = read_arrays(path)
    return arrays


def write_list(directory: Path, form: str, entries: Sequence[Mapping[str, object]]) -> None:
    """Write the list of the cases into a bundle's directory."""
    content = json.dumps({"format": form, "cases": entries}, indent=1) + "\n"
    (directory / FOLDER / CASES).write_text(content, encoding="utf-8")


def read_list(bundle: Bundle, form: str) -> list[Entry]:
    """Return the listed cases of a bundle, none if it has no list.

    Raises:
        BundleError: the list is damaged, of another format, or names a file that is not there.
    """
    path = bundle.file(f"{FOLDER}/{CASES}")
    if path is None:
        return []
    content = JsonFields.read(path, BundleError).values
    entries = content.get("cases")
    if not isinstance(entries, list) or len(entries) > MAX_CASES or content.get("format") != form:
        raise BundleError(f"{path}: is no {form} list of at most {MAX_CASES} cases")
    return [_checked(bundle, path, fields) for fields in entries]


def _checked(bundle: Bundle, path: Path, fields: Any) -> Entry:  # noqa: ANN401
    name = fields.get("name") if isinstance(fields, dict) else None
    if not isinstance(name, str) or bundle.file(f"{FOLDER}/{name}.safetensors") is None:
        raise BundleError(f"{path}: the case {name!r} has no listed file {name}.safetensors")
    layers = fields.get("layers")
    if not isinstance(layers, dict) or not all(isinstance(item, str) for item in layers.values()):
        raise BundleError(f"{path}: layers of {name!r} is no object of checksums")
    return Entry(path, name, layers, fields)


def checksums(
    plan: Plan, values: Arrays, op_types: Iterable[str], dtype: npt.DTypeLike
) -> dict[str, str]:
    """Return the sha256 of what some operators made, as ``dtype``, in the order of the graph."""
    names = [step.outputs[0] for step in plan.steps if step.op_type in op_types]
    return {
        name: hashlib.sha256(np.ascontiguousarray(values[name], dtype).tobytes()).hexdigest()
        for name in names
    }
