"""Instructions a weight, counted in what is compiled: look-ups against products."""

import os
import re
from collections.abc import Iterator

import pytest

from edgellm.runtime import cpu
from edgellm.runtime.kernels import _jit, find

PROCESSOR = os.environ.get("EDGELLM_QEMU_CPU", "")
LABEL = re.compile(r"^(\.L\w+):")
BACK = re.compile(r"^(?:b\.\w+|cbn?z|tbn?z)\s.*?(\.L\w+)$")


def innermost_loops(assembly: str) -> Iterator[list[str]]:
    """Yield the instructions of each loop that is one piece of code without jumps."""
    lines, labels = [], {}
    for line in assembly.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(lines)
        elif line.startswith("\t") and line[1:2].isalpha():
            lines.append(line.strip())
            jump = BACK.match(lines[-1])
            if jump and jump[1] in labels:
                loop = lines[labels[jump[1]] :]
                if not any(item.startswith(("b", "cb", "tb.")) for item in loop[:-1]):
                    yield loop


def instructions_a_weight(op_type: str, mnemonics: tuple[str, ...], weights: float) -> float:
    """Return the fewest instructions a weight of the loops that have these mnemonics.

    Args:
        op_type: the operator.
        mnemonics: what multiplies or looks up.
        weights: that one of these instructions stands for.
    """
    host = cpu.host()
    text = _jit.target_machine(host).emit_assembly(_jit.lower_kernel(find(op_type), host))
    counts = []
    for loop in innermost_loops(text):
        used = sum(item.split()[0] in mnemonics for item in loop)
        stores = sum(item.startswith("st") for item in loop)  # of several tokens, or not innermost
        if used and not stores:
            counts.append(len(loop) / (used * weights))
    return min(counts)


@pytest.mark.skipif(
    PROCESSOR != "cortex-a72", reason="of processors without dot products, all compile the same"
)
def test_an_emulated_processor_looks_up_in_less_than_half_the_instructions() -> None:
    products = instructions_a_weight("BitLinear", ("smull", "smull2", "smlal", "smlal2"), 8)
    look_ups = instructions_a_weight("LookUpBitLinear", ("tbl",), 32)

    assert look_ups < 0.5 * products
