"""The reproduction table: published results that are gates hold, on every device."""

import pytest

from edgellm.devices import _catalog, _shapes, _simulation, _validation
from edgellm.devices._simulation import Request
from edgellm.devices._validation import METRICS

GATES = [
    (name, point)
    for name in _catalog.names()
    for point in _catalog.describe(name).validation.point
    if point.gate
]


@pytest.mark.parametrize(
    ("name", "point"), GATES, ids=[f"{point.row}-{name}-{point.id}" for name, point in GATES]
)
def test_a_gate_holds(name: str, point) -> None:
    ours = _validation.compute(name, point)

    assert ours == pytest.approx(point.published, rel=point.tol_rel)


ROWS = [
    *(f"F{n}" for n in range(1, 6)),
    "M1",
    "L1",
    "L2",
    "L3",
    "T1",
    *(f"C{n}" for n in range(1, 6)),
]


@pytest.mark.parametrize("row", ROWS)
def test_rows_that_must_be_gates_are(row: str) -> None:
    assert row in {point.row for _, point in GATES}


def test_the_table_has_every_point_with_its_fits() -> None:
    outcomes = {item.point.id: item for item in _validation.outcomes("raspberry-pi-5")}

    fitted = outcomes["tmac-w2-best"]
    gate = outcomes["tmac-3b-best"]
    assert len(outcomes) == len(_catalog.describe("raspberry-pi-5").validation.point)
    assert "memory.dram.eff.stream" in fitted.fits
    assert fitted.deviation == pytest.approx(0, abs=0.01)
    assert (gate.fits, gate.passed) == ((), True)


def test_a_prediction_by_hand() -> None:
    """BitNet 3B on a Raspberry Pi 5: 3.324e9 weights of 2 bits at 9.02 ms/1e9 and 15.49 GB/s."""
    device = _catalog.load("raspberry-pi-5")
    workload = _shapes.workload("bitnet-3b", "w2a8")

    result = _simulation.run(device, workload, Request(prompt=0, new=1))

    by_hand = 3.324 * 9.02e-3 + 3.324e9 * 2 / 8 / 15.49e9
    assert 1 / result.tokens_per_s == pytest.approx(by_hand, rel=5e-3)


def test_metrics_are_of_one_simulation() -> None:
    device = _catalog.load("i7-13700h")
    result = _simulation.run(device, _shapes.workload("weights-7b", "w2a8"), Request(new=4))

    figures = {name: metric(result) for name, metric in METRICS.items()}

    assert result.decode is not None
    assert figures["watts"] == pytest.approx(45.7)
    assert figures["joules"] == pytest.approx(45.7 * result.decode.seconds)
    assert figures["seconds"] == pytest.approx(
        figures["prefill_ms"] / 1e3 + 4 / figures["decode_tokens_per_s"]
    )
