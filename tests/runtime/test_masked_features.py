"""A processor without a feature never sees its instructions: what is compiled for it is looked at.

Each processor is a process of its own, which is told what it has: Numba and its LLVM know no other.
Arm processors are emulated by tests/arm.
"""

import json
import os
import platform
import re
import subprocess
import sys

import pytest

from edgellm.runtime import cpu
from edgellm.runtime.kernels import simd

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="assembly of x86-64"
)

FEATURES = {"portable": "", "avx2": "+avx2", "avx_vnni": "+avx2,+avxvnni"}
"""What a processor has whose best variant this is, beside what every 64-bit x86 has."""
VARIANTS = [name for name in FEATURES if name in simd.available(cpu.host())]
OPERATORS = ("BitLinear", "LookUpBitLinear", "LogitsHead", "Attention", "RmsNormQuantize")
"""Products on vector units, vectors of any unit, and loops that LLVM turns into vectors."""

AVX, AVX2 = re.compile(r"^\s+v[a-z]\w*", re.M), re.compile(r"%ymm")
SSE3_AND_LATER = re.compile(
    r"^\s+(popcntq?|lzcntq?|pshufb|pmulld|pmaddubsw|phadd\w+|pextr[bdq]|pminsd|blendv?p[sd])\s",
    re.M,
)
AVX512 = re.compile(r"%zmm|%[xy]mm(1[6-9]|[23]\d)|%k\d|\{%k")
FMA_OR_BMI = re.compile(
    r"^\s+(vfn?m(add|sub)\w*|shlx\w?|sarx\w?|shrx\w?|mulx\w?|pdep\w?|andn\w?)\s", re.M
)
DOT = re.compile(r"vpdpbusd")
FORBIDDEN = {
    "portable": (AVX, SSE3_AND_LATER),
    "avx2": (AVX512, FMA_OR_BMI, DOT),
    "avx_vnni": (AVX512, FMA_OR_BMI),
}
USED = {"portable": re.compile(r"pmaddwd"), "avx2": re.compile(r"vpmaddubsw"), "avx_vnni": DOT}
"""What products are made of: were it not there, these tests would look at nothing."""

PROGRAM = f"""
import json
from llvmlite import binding
from edgellm.runtime import cpu
from edgellm.runtime.kernels import _jit, find, simd
host = cpu.host()
machine = _jit.target_machine(host)
texts = {{}}
for op_type in {OPERATORS}:
    kernel = find(op_type)
    texts[op_type] = machine.emit_assembly(_jit.lower_kernel(kernel, host))
print(json.dumps({{"variants": simd.available(host), "assembly": texts}}))
"""


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict]:
    """What processes that have these features run, and the assembly of their kernels."""
    started = {}
    for variant in VARIANTS:
        masked = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": FEATURES[variant]}
        environment = {**os.environ, **masked}
        environment.pop(simd.ENVIRONMENT, None)
        started[variant] = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, env=environment
        )
    outputs = {variant: process.communicate()[0] for variant, process in started.items()}
    assert all(process.returncode == 0 for process in started.values())
    return {variant: json.loads(output) for variant, output in outputs.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_processor_runs_the_best_it_has(compiled: dict[str, dict], variant: str) -> None:
    assert compiled[variant]["variants"][0] == variant


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("op_type", OPERATORS)
def test_nothing_is_compiled_that_a_processor_lacks(
    compiled: dict[str, dict], op_type: str, variant: str
) -> None:
    text = compiled[variant]["assembly"][op_type]

    assert text.count("\n") > 100
    for pattern in FORBIDDEN[variant]:
        found = pattern.search(text)
        assert found is None, found[0].strip()


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_there_is_used(compiled: dict[str, dict], variant: str) -> None:
    """And what is forbidden for lesser processors would be found."""
    text = compiled[variant]["assembly"]["BitLinear"]

    assert USED[variant].search(text)
    if variant != "portable":
        assert AVX.search(text)
        assert AVX2.search(text)
