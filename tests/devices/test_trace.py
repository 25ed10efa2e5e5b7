"""Traces and pictures of simulations."""

import itertools
from pathlib import Path

import pytest

from edgellm.devices import _catalog, _plot, _shapes, _simulation
from edgellm.devices._simulation import Request
from edgellm.devices._trace import trace

WORKLOAD = _shapes.workload("bitnet-3b", "w2a8")


def test_a_trace_shows_each_instruction_of_a_pass() -> None:
    device = _catalog.load("reference")
    result = _simulation.run(device, WORKLOAD, Request(prompt=4, new=1, engine="events"))

    content = trace(device, WORKLOAD, result)

    slices = [item for item in content["traceEvents"] if item["ph"] == "X"]
    lanes = {
        item["tid"]: item["args"]["name"]
        for item in content["traceEvents"]
        if item["name"] == "thread_name"
    }
    assert sorted(lanes.values()) == ["COMPUTE", "LOAD"]
    assert {item["args"]["repeats"] for item in slices} == {1, 26}
    for lane in lanes:
        own = [item for item in slices if item["tid"] == lane]
        assert all(
            one["ts"] + one["dur"] <= other["ts"] + 1e-6 for one, other in itertools.pairwise(own)
        )
    once = {1: 0.0, 26: 0.0}
    for item in slices:
        once[item["args"]["repeats"]] += item["dur"] if lanes[item["tid"]] == "COMPUTE" else 0
    whole = once[1] + 26 * once[26]
    assert whole / 1e6 == pytest.approx(result.last.cost.seconds, rel=0.03)


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    from PIL import Image

    device = _catalog.load("reference")
    result = _simulation.run(device, WORKLOAD, Request(prompt=4, new=1))

    _plot.draw(result, device.description, str(tmp_path / "plot.png"))

    with Image.open(tmp_path / "plot.png") as image:
        assert image.size == (_plot.WIDTH, _plot.HEIGHT)
        colors = {color for _, color in image.getcolors(1 << 20)}
    operators = result.last.operators
    products = [index for index, item in enumerate(operators) if item.cost.macs]
    assert len(products) == 9
    assert {_plot.COLORS[index % len(_plot.COLORS)] for index in products} <= colors
