"""Cycles of dense systolic arrays, by our equations and by SCALE-Sim.

    pip install scalesim "numpy<2.4"
    python tests/benchmarks/systolic.py

SCALE-Sim (3.0.0) simulates each cycle of its array. The table shows its compute cycles beside ours
with the waves that fill and drain each tile, and without them (MixPE's simulator leaves them out).
They are equal but for one cycle: SCALE-Sim gives the number of the last one, counted from 0.
"""

import contextlib
import io
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgellm.device import MatMul
from edgellm.devices import _model
from edgellm.devices._sections import ArrayUnit

CONFIG = """
[general]
run_name = run
[architecture_presets]
ArrayHeight: {rows}
ArrayWidth: {columns}
IfmapSramSzkB: 8192
FilterSramSzkB: 8192
OfmapSramSzkB: 8192
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Bandwidth: 1000
Dataflow: {dataflow}
MemoryBanks: 1
ReadRequestBuffer: 512
WriteRequestBuffer: 512
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 1000
IfmapSRAMBankNum: 1
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 1000
FilterSRAMBankNum: 1
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
[run_presets]
InterfaceBandwidth: USER
UseRamulatorTrace: False
"""
CASES = (
    ((1, 64, 64), (8, 8)),
    ((16, 64, 64), (16, 16)),
    ((64, 256, 128), (32, 32)),
    ((30, 100, 50), (32, 16)),
    ((128, 128, 512), (64, 64)),
)
"""Sizes of the product (m, k, n), and of the array (rows, columns)."""


@dataclass(frozen=True)
class Case:
    """A product on an array."""

    work: MatMul
    array: ArrayUnit

    def ours(self, *, fill: bool) -> int:
        """Return the cycles by our equations."""
        cycles = {
            "os": _model.output_stationary_cycles,
            "ws": _model.weight_stationary_cycles,
        }[self.array.dataflow]
        return cycles(self.array, self.work, fill=fill)

    def theirs(self) -> int:
        """Return the cycles by SCALE-Sim, stalls for memory not counted."""
        from scalesim.scale_sim import scalesim

        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            config, topology, layout = (
                Path(folder, name) for name in ("a.cfg", "gemm.csv", "layout.csv")
            )
            config.write_text(
                CONFIG.format(rows=self.array.m, columns=self.array.n, dataflow=self.array.dataflow)
            )
            sizes = f"{self.work.m}, {self.work.n}, {self.work.k}"
            topology.write_text(f"Layer, M, N, K,\nproduct, {sizes},\n")
            layout.write_text("Layer,\nproduct," + "1," * 30 + "\n")
            run = scalesim(
                save_disk_space=True,
                verbose=False,
                config=str(config),
                topology=str(topology),
                layout=str(layout),
                input_type_gemm=True,
            )
            run.run_scale(top_path=folder)
            layer = run.runner.single_layer_sim_object_list[0]
            return int(layer.total_cycles - layer.stall_cycles)


def main() -> int:
    """Print the table."""
    lines = [
        f"{'flow':4} {'m x k x n':>16} {'array':>8} {'SCALE-Sim':>10} {'ours':>8} {'no fill':>8}"
    ]
    for sizes, (rows, columns) in CASES:
        for dataflow in ("os", "ws"):
            m, k, n = sizes
            array = ArrayUnit(id="array", m=rows, n=columns, k=1, dataflow=dataflow)
            case = Case(MatMul(m=m, k=k, n=n), array)
            shape, place = f"{m} x {k} x {n}", f"{rows} x {columns}"
            lines.append(
                f"{dataflow:4} {shape:>16} {place:>8} {case.theirs():10} "
                f"{case.ours(fill=True):8} {case.ours(fill=False):8}"
            )
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
