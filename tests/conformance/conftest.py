"""Compile all kernels before the first test, on all cores: one after the other takes minutes."""

import pytest

from edgellm import ops
from edgellm.runtime import cpu, kernels
from edgellm.runtime.kernels import simd
from edgellm.runtime.kernels._compiler import compile_missing


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    variants = simd.available(cpu.host())
    compile_missing(
        kernels.find(module.SCHEMA.name, variant)
        for module in ops.modules()
        for variant in variants
    )
