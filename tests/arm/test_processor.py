"""Each emulated processor runs the kernels of its own features and no others; see run.sh."""

import os

import pytest

from edgellm.runtime import cpu
from edgellm.runtime.kernels import simd

VARIANTS = {
    "cortex-a53": ("neon", "portable"),
    "cortex-a72": ("neon", "portable"),
    "cortex-a76": ("neon_dotprod", "neon", "portable"),
}
PROCESSOR = os.environ.get("EDGELLM_QEMU_CPU", "")


@pytest.mark.skipif(PROCESSOR not in VARIANTS, reason="only where tests/arm/run.sh emulates one")
def test_an_emulated_processor_runs_what_its_features_allow() -> None:
    assert simd.available(cpu.host()) == VARIANTS[PROCESSOR]
