"""Look things up by file name: operators, architectures, kernels, executors, devices.

There is no central list. A file ``foo_bar.py`` in a package *is* the thing named ``foo_bar``;
adding one adds it, and a name that no file has gets an error with the nearest names.
"""

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType

from edgellm.errors import UnknownNameError


@cache
def names(package: ModuleType) -> tuple[str, ...]:
    """Return the public modules of ``package``, sorted; ``_private`` files are parts of them."""
    files = (file for folder in package.__path__ for file in Path(folder).glob("*.py"))
    return tuple(sorted(file.stem for file in files if not file.stem.startswith("_")))


def load(package: ModuleType, name: str) -> ModuleType:
    """Import and return the module ``name`` of ``package``.

    Raises:
        UnknownNameError: no file of that name exists; the message lists the nearest names.
    """
    if name not in names(package):
        kind = package.__name__.rpartition(".")[2]
        raise UnknownNameError(f"no {name!r} in {kind}; {nearest(package, name)}")
    return importlib.import_module(f"{package.__name__}.{name}")


def nearest(package: ModuleType, name: str) -> str:
    """Return what a message says of the modules there are: those of a like name first."""
    from difflib import get_close_matches

    known = names(package)
    near = get_close_matches(name, known, n=3)
    first = f"nearest: {', '.join(near)}; " if near else ""
    return f"{first}known are {', '.join(known)}"
