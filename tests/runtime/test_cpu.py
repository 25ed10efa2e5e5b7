"""What the processor can do, and what may override it."""

from collections.abc import Iterator

import pytest

from edgellm.runtime import cpu


@pytest.fixture(autouse=True)
def fresh_host() -> Iterator[None]:
    cpu.host.cache_clear()
    yield
    cpu.host.cache_clear()


def test_the_host_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        monkeypatch.delenv(name, raising=False)
    host = cpu.host()

    assert host.name
    assert host.model
    assert 1 <= host.physical_cores <= host.logical_cores == len(cpu.usable_cores())
    assert all(feature[0] in "+-" for feature in host.features)
    assert not host.has("no-such-feature")


def test_the_environment_overrides_name_and_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CPU_NAME", "cortex-a76")
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+neon,+dotprod")
    host = cpu.host()

    assert host.name == "cortex-a76"
    assert host.feature_string == "+dotprod,+neon"
    assert host.has("dotprod")
    assert not host.has("sve")


def test_a_given_name_does_not_get_the_features_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)

    assert cpu.host().features == ()


def test_tile_registers_need_the_leave_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the environment claims them: without leave their use ends the process."""
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2,+amx-int8,+amx-tile")
    for given in (True, False):
        cpu.host.cache_clear()
        monkeypatch.setattr(cpu, "_lets_use_tiles", lambda given=given: given)

        assert cpu.host().has("avx2")
        assert cpu.host().has("amx-tile") == cpu.host().has("amx-int8") == given


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({16: 1 << 1 | 1 << 20}, {"neon": True, "dotprod": True, "i8mm": False}),  # Cortex-A76
        ({16: 1 << 1}, {"neon": True, "dotprod": False, "i8mm": False}),  # Cortex-A72
        ({16: 1 << 1, 26: 1 << 13}, {"neon": True, "dotprod": False, "i8mm": True}),
    ],
)
def test_arm_features_are_what_the_kernel_says(
    words: dict[int, int], expected: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu.platform, "system", lambda: "Linux")
    monkeypatch.setattr(cpu.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu, "_auxiliary_word", lambda word: words.get(word, 0))

    host = cpu.host()

    assert {name: host.has(name) for name in expected} == expected
