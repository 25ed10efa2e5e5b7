"""What the loops of a kernel cost on an Arm processor, by LLVM's model of it, on any machine.

    python tests/benchmarks/arm_loops.py OPERATOR [VARIANT] [PROCESSOR] [LEAST]

For example ``BitLinear neon_dotprod cortex-a76``; the latter two are the defaults. Shown is each
innermost loop of at least LEAST instructions (default 24): the cycles of an iteration with all data
in the first cache, how many instructions there are, how many of them are for the stack, and the
most frequent. It takes llvm-mca (Debian: llvm), whose models of newer processors may be those of
older ones.
"""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

from llvmlite import binding

from edgellm.runtime import cpu, kernels
from edgellm.runtime.kernels import _jit

TRIPLE = "aarch64-linux-gnu"
FEATURES = {"neon": ("+neon",), "neon_dotprod": ("+neon", "+dotprod")}
ITERATIONS = 100
LABEL = re.compile(r"(\.L\w+):")
BRANCH = re.compile(r"\t(?:b\.\w+|cbn?z|tbn?z)\t(?:.*, )?(\.L\w+)$")


def main() -> None:
    options = [*sys.argv[1:], *("", "neon_dotprod", "cortex-a76", "24")[len(sys.argv) - 1 :]]
    operator, variant, processor, least = options[:4]
    if not operator:
        sys.exit(__doc__)
    for name, body in innermost_loops(assembly(operator, variant, processor)):
        if len(body) >= int(least):
            stack = sum("[sp" in line for line in body)
            common = Counter(line.split()[0] for line in body).most_common(8)
            cycles = model_cycles(body, variant, processor)
            listed = " ".join(f"{count} {kind}" for kind, count in common)
            write(
                f"{name:10} {cycles:7.1f} cycles, {len(body):4} instructions, "
                f"{stack:3} of the stack: {listed}"
            )


def assembly(operator: str, variant: str, processor: str) -> list[str]:
    """Return the lines of a kernel compiled for a processor."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple(TRIPLE)
    features = FEATURES[variant]
    machine = target.create_target_machine(
        cpu=processor, features=",".join(features), opt=3, codemodel="small"
    )
    host = cpu.host()
    arm = replace(host, machine="aarch64", name=processor, features=features)
    kernel = replace(kernels.find(operator, "portable"), variant=variant)
    # Numba lowers for the machine it runs on; what is chosen by processor is chosen for Arm.
    with (
        patch.object(cpu, "host", lambda: arm),
        patch.object(_jit, "target_machine", lambda _: machine),
    ):
        module = _jit.lower_kernel(kernel, host)
    module.triple, module.data_layout = TRIPLE, str(machine.target_data)
    return machine.emit_assembly(module).splitlines()


def innermost_loops(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield label and instructions of loops without another label inside, each kind once."""
    places = {found[1]: i for i, line in enumerate(lines) if (found := LABEL.match(line))}
    seen = set()
    for i, line in enumerate(lines):
        found = BRANCH.match(line.split("//")[0].rstrip())
        if not found or not places.get(found[1], i) < i:
            continue
        inside = [part.split("//")[0].rstrip() for part in lines[places[found[1]] + 1 : i + 1]]
        body = [part for part in inside if part.startswith("\t") and not part.startswith("\t.")]
        kinds = tuple(sorted(part.split()[0] for part in body))
        if not any(map(LABEL.match, inside)) and kinds not in seen:
            seen.add(kinds)
            yield found[1], body


def model_cycles(body: list[str], variant: str, processor: str) -> float:
    """Return the cycles of an iteration."""
    options = (f"-mtriple={TRIPLE}", f"-mcpu={processor}", f"-mattr={','.join(FEATURES[variant])}")
    answer = subprocess.run(
        ["llvm-mca", *options, f"-iterations={ITERATIONS}"],
        input="\n".join(body),
        capture_output=True,
        text=True,
        check=True,
    )
    return int(re.search(r"Total Cycles:\s+(\d+)", answer.stdout)[1]) / ITERATIONS


def write(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
