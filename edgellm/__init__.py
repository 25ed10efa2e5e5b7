"""Edge deployment of language models: one integer bundle, the same bits on every device.

    import edgellm

    with edgellm.load("bundle") as model:
        print(model.generate("Once upon a time", max_tokens=64))

Importing this loads nothing heavy; each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgellm.api import bench, evaluate, export, load, verify
    from edgellm.errors import EdgeLLMError
    from edgellm.runtime.generation import Token
    from edgellm.runtime.model import Model
    from edgellm.runtime.sampler import SamplingParams
    from edgellm.runtime.session import Session

__version__ = "0.1.0"

__all__ = [
    "EdgeLLMError",
    "Model",
    "SamplingParams",
    "Session",
    "Token",
    "bench",
    "evaluate",
    "export",
    "load",
    "verify",
]

_HOMES = {
    "EdgeLLMError": "edgellm.errors",
    "Model": "edgellm.runtime.model",
    "SamplingParams": "edgellm.runtime.sampler",
    "Session": "edgellm.runtime.session",
    "Token": "edgellm.runtime.generation",
    "bench": "edgellm.api",
    "evaluate": "edgellm.api",
    "export": "edgellm.api",
    "load": "edgellm.api",
    "verify": "edgellm.api",
}


def __getattr__(name: str) -> object:
    """Import a public name from where it lives (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgellm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
