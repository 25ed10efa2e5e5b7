"""Integer arrays and a few strings in one safetensors file: saved sessions and golden cases."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from edgellm.errors import BundleError, ConfigError

Arrays = dict[str, npt.NDArray[np.generic]]

DTYPES = {"I8": np.int8, "U8": np.uint8, "I32": np.int32, "I64": np.int64}


def write_arrays(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """Write a file in one step: it is there complete, or as it was before.

    Raises:
        ConfigError: the file cannot be written.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = save(contiguous, dict(metadata))
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(temporary).chmod(0o644)  # temporary files are private
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def read_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """Return the arrays and strings of a file.

    Raises:
        BundleError: no such file, a damaged one, or one with arrays that are not integers.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            arrays: Arrays = {}
            for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                kind = file.get_slice(name).get_dtype()
                if kind not in DTYPES:
                    raise BundleError(f"{path}: {name} is {kind}; allowed are {', '.join(DTYPES)}")
                arrays[name] = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path}: no usable safetensors file: {error}") from error
    return arrays, metadata
