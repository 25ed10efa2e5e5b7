"""What the machine can do at most, measured; the bounds are those of any machine."""

import pytest

from edgellm.runtime import cpu, limits
from edgellm.runtime.kernels import simd


def test_the_bandwidth_is_that_of_a_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BANDWIDTH_BYTES", 1 << 24)

    # From a memory card's speed to more than any cache's.
    assert 1e7 < limits.read_bandwidth(1) < 1e13


@pytest.mark.parametrize("variant", simd.available(cpu.host()))
def test_the_peak_is_that_of_a_core(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOT_ROUNDS", 1 << 14)
    peak = limits.dot_peak(variant, 1)

    if variant == simd.PORTABLE:
        assert peak is None
    else:
        # From an emulated processor to a matrix product of 1,024 a cycle at 6 GHz.
        assert peak is not None
        assert 1e6 < peak < 6.2e12
