"""The vector units that kernels are written for: a file an instruction set, found by its name.

``EDGELLM_KERNELS`` chooses one, for tests and measurements; otherwise the best that this processor
has is used. Which it has is known from its features, never tried: LLVM ends the process when it
meets an instruction that the processor lacks.
"""

import os
import sys
from functools import cache

from edgellm import registry
from edgellm.errors import ConfigError
from edgellm.runtime.cpu import Cpu
from edgellm.runtime.kernels.simd._unit import VectorUnit

PORTABLE = "portable"
"""The kernels of plain loops, which every processor runs."""
ENVIRONMENT = "EDGELLM_KERNELS"


def find(name: str) -> VectorUnit:
    """Return the vector unit of a file's name such as ``avx2``."""
    unit: VectorUnit = registry.load(sys.modules[__name__], name).UNIT
    return unit


@cache
def available(host: Cpu) -> tuple[str, ...]:
    """Return the variants that a processor runs, best first; the last is ``portable``."""
    units = {name: find(name) for name in registry.names(sys.modules[__name__])}
    suitable = [name for name, unit in units.items() if unit.runs_on(host)]
    return *sorted(suitable, key=lambda name: -units[name].rank), PORTABLE


def forced() -> str | None:
    """Return the variant that the environment names."""
    return os.environ.get(ENVIRONMENT) or None


def chosen(host: Cpu) -> str:
    """Return the variant to run: the one that the environment names, or the best.

    Raises:
        ConfigError: the environment names one that there is not, or that the processor lacks.
    """
    variants = available(host)
    name = forced() or variants[0]
    if name not in variants:
        raise ConfigError(f"{ENVIRONMENT} is {name!r}; this processor runs {', '.join(variants)}")
    return name
