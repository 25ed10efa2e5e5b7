"""The equations that devices share."""

import pytest

from edgellm.device import Call, MatMul, Refusal
from edgellm.devices import _catalog, _model
from edgellm.devices._model import Demand
from edgellm.devices._sections import ArrayUnit, Efficiency, Memory, Quantum
from edgellm.errors import DeviceError


def array(rows: int, columns: int, dataflow: str = "os") -> ArrayUnit:
    return ArrayUnit(id="array", m=rows, n=columns, k=1, dataflow=dataflow)


@pytest.mark.parametrize(
    ("product", "size", "os_cycles", "ws_cycles"),
    [
        ((1, 64, 64), (8, 8), 623, 1471),
        ((16, 64, 64), (16, 16), 375, 991),
        ((64, 256, 128), (32, 32), 2543, 5055),
        ((30, 100, 50), (32, 16), 583, 1727),
        ((128, 128, 512), (64, 64), 4063, 5087),
    ],
)
def test_systolic_cycles_are_those_of_scale_sim(
    product: tuple[int, int, int], size: tuple[int, int], os_cycles: int, ws_cycles: int
) -> None:
    """SCALE-Sim 3.0.0 gives the last cycle's number, from 0: tests/benchmarks/systolic.py."""
    m, k, n = product
    work = MatMul(m=m, k=k, n=n)

    assert _model.output_stationary_cycles(array(*size), work, fill=True) == os_cycles + 1
    assert _model.weight_stationary_cycles(array(*size), work, fill=True) == ws_cycles + 1


def test_fused_elements_share_tiles() -> None:
    work = MatMul(m=64, k=10, n=64)

    assert _model.output_stationary_cycles(array(32, 32), work) == 4 * 10
    assert _model.output_stationary_cycles(array(32, 32), work, (1, 2)) == 2 * 10


def test_tiles_are_padded() -> None:
    unit = ArrayUnit(id="mv", m=1, n=64, k=16, dataflow="dspchain", quantum=Quantum(n=512, k=16))

    assert _model.parallel_cycles(unit, MatMul(m=1, k=17, n=513)) == 1024 * 32 / 1024


def test_precisions_that_an_array_lacks_are_refused() -> None:
    unit = ArrayUnit(id="pe", m=1, n=1, k=1, dataflow="os", rate={"w4a8": 2.0, "w2a8": 4.0})

    assert _model.rate(unit, MatMul(m=1, k=1, n=1, weight_bits=1.6)) == 4.0
    refusal = _model.rate(unit, MatMul(m=1, k=1, n=1, weight_bits=8))
    assert refusal == Refusal("pe multiplies w4a8, w2a8, not w8a8")


def test_bandwidth_is_of_the_channels_in_use() -> None:
    memory = Memory(id="hbm", bw_gbs=460, channels=32, channels_used=24, eff=Efficiency(stream=0.7))

    assert _model.bytes_per_s(memory) == pytest.approx(460e9 * 24 / 32 * 0.7)
    assert _model.bytes_per_s(memory, "cross") == pytest.approx(345e9)


def test_a_cost_is_the_busiest_unit_and_what_does_not_overlap() -> None:
    description = _catalog.describe("reference", ["energy.static_w=2"])
    call = Call(op_type="Linear", name="x", work=MatMul(m=2, k=3, n=4))
    demand = Demand(
        busy_s={"mac": 3.0, "ram": 1.0},
        fill_s=0.5,
        read={"ram": 10},
        written={"ram": 5},
        compute_pj=7.0,
    )

    cost = _model.cost(description, call, demand)

    assert (cost.seconds, cost.cycles, cost.bound, cost.macs) == (3.5, 3.5e9, "mac", 24)
    assert cost.bytes == {"ram": 15}
    assert cost.energy_pj == {"static": 7e12, "compute": 7.0, "sram": 0.0, "ram": 15 * 8 * 20}


def test_products_and_kinds_without_an_energy_or_a_unit_are_errors() -> None:
    description = _catalog.describe("null")

    with pytest.raises(DeviceError, match="neither mac_w4a8 nor mac"):
        _model.mac_pj(description, "w4a8")
    with pytest.raises(DeviceError, match=r"no .*sfu.* for 'norm'"):
        _model.element_cycles(description, "norm", 10)
