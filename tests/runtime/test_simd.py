"""Which kernels run is decided by the processor's features; the environment may choose one."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgellm import registry
from edgellm.errors import ConfigError
from edgellm.runtime import cpu, kernels
from edgellm.runtime.cpu import Cpu
from edgellm.runtime.kernels import _objects, simd

NAMES = registry.names(simd)


def processor(machine: str, *features: str) -> Cpu:
    return replace(
        cpu.host(), machine=machine, features=tuple(sorted(f"+{name}" for name in features))
    )


AVX2 = ("avx", "avx2", "fma")
AVX512 = (*AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (processor("x86_64", "sse2"), ["portable"]),
        (processor("x86_64", *AVX2), ["avx2", "portable"]),
        (processor("AMD64", *AVX2, "avxvnni"), ["avx_vnni", "avx2", "portable"]),
        (processor("x86_64", *AVX512), ["avx2", "portable"]),
        (processor("x86_64", *AVX512, "avx512vnni"), ["avx512_vnni", "avx2", "portable"]),
        (
            processor("x86_64", *AVX512, "avx512vnni", "avx512vbmi", "gfni"),
            ["avx512_vbmi", "avx512_vnni", "avx2", "portable"],
        ),
        (
            processor(
                "x86_64", *AVX512, "avx512vnni", "avx512vbmi", "gfni", "amx-tile", "amx-int8"
            ),
            ["avx512_amx", "avx512_vbmi", "avx512_vnni", "avx2", "portable"],
        ),
        (processor("aarch64", "neon"), ["neon", "portable"]),
        (processor("arm64", "neon", "dotprod"), ["neon_dotprod", "neon", "portable"]),
        (processor("aarch64", "avx2"), ["portable"]),
        (processor("riscv64", "v"), ["portable"]),
    ],
)
def test_a_processor_runs_what_its_features_allow(host: Cpu, expected: list[str]) -> None:
    assert list(simd.available(host)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_feature_rules_a_unit_out(name: str) -> None:
    unit = simd.find(name)
    for machine in unit.machines:
        assert name in simd.available(processor(machine, *unit.features))
        for missing in unit.features:
            others = [feature for feature in unit.features if feature != missing]
            assert name not in simd.available(processor(machine, *others))


def test_the_best_is_chosen_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = processor("x86_64", *AVX2)
    monkeypatch.delenv(simd.ENVIRONMENT, raising=False)
    assert simd.chosen(host) == "avx2"
    monkeypatch.setenv(simd.ENVIRONMENT, "portable")
    assert simd.chosen(host) == "portable"


@pytest.mark.parametrize("name", ["avx512_vnni", "neon", "avx3", "../avx2"])
def test_what_the_processor_lacks_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(simd.ENVIRONMENT, name)

    with pytest.raises(ConfigError, match="this processor runs avx2, portable"):
        simd.chosen(processor("x86_64", *AVX2))


def test_operators_without_loops_for_vector_units_are_portable() -> None:
    variant = simd.chosen(cpu.host())
    while variant != "portable" and not simd.find(variant).has_own("BitLinear"):
        variant = simd.find(variant).base

    assert kernels.find("BitLinear").variant == variant
    assert kernels.find("BitLinear", "portable").variant == "portable"
    assert kernels.find("Requantize").variant == "portable"


@pytest.mark.parametrize(
    ("op_type", "variant"), [("TritLinear", "avx512_vbmi"), ("BitLinear", "avx512_vnni")]
)
def test_operators_that_a_unit_has_not_run_with_its_base(op_type: str, variant: str) -> None:
    assert kernels.find(op_type, "avx512_vbmi").variant == variant


def test_each_variant_has_object_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))
    variants = simd.available(cpu.host())
    _objects.kernel_address.cache_clear()
    found = {kernels.find("LookUpBitLinear", variant) for variant in variants}
    addresses = {_objects.kernel_address(kernel) for kernel in found}
    _objects.kernel_address.cache_clear()

    names = sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir())
    assert names == sorted(kernel.symbol for kernel in found)
    assert len(addresses) == len(found) == len({kernel.variant for kernel in found})
    assert len(found) > 1 or len(variants) == 1
