"""Every device, found by its file: the contract, and that its two engines agree."""

import pytest

from edgellm.device import (
    Attention,
    Block,
    Call,
    Device,
    Elementwise,
    ForwardPass,
    MatMul,
    Move,
    total,
)
from edgellm.devices import _catalog, _shapes
from edgellm.devices._events import Compiler, simulate
from edgellm.errors import DeviceError

AGREEMENT = 0.03
"""How far the event-driven cycles of a layer may be from the equations."""


def layer(tokens: int) -> Block:
    """A layer of a small model, as int8 and as ternary and grouped products."""
    rows = tokens * 512
    return Block(
        (
            Call(
                op_type="RmsNormQuantize", name="norm", work=Elementwise(kind="norm", elements=rows)
            ),
            Call(op_type="Int8Linear", name="q", work=MatMul(m=tokens, k=512, n=512)),
            Call(
                op_type="Attention",
                name="attention",
                work=Attention(tokens=tokens, length=256, heads=8, kv_heads=8, head_dim=64),
            ),
            Call(
                op_type="BitLinear",
                name="up",
                work=MatMul(m=tokens, k=512, n=2048, weight_bits=2),
            ),
            Call(
                op_type="GroupLinear",
                name="down",
                work=MatMul(m=tokens, k=2048, n=512, weight_bits=4, group_size=128, group_bits=24),
            ),
            Call(op_type="CacheAppend", name="cache", work=Move(bytes=tokens * 1024)),
        )
    )


@pytest.mark.parametrize("name", _catalog.names())
def test_a_device_keeps_the_contract(name: str) -> None:
    device = _catalog.load(name)

    assert isinstance(device, Device)
    assert device.name == name
    for call in layer(1).calls:
        if device.supports(call) is None:
            cost = device.cost(call)
            assert cost == device.cost(call)
            assert cost.basis
            assert name == "null" or cost.seconds > 0
            assert cost.seconds >= max(cost.busy_s.values(), default=0)


@pytest.mark.parametrize("tokens", [1, 128])
@pytest.mark.parametrize("name", _catalog.names())
def test_events_agree_with_the_equations(name: str, tokens: int) -> None:
    device = _catalog.load(name)
    calls = [call for call in layer(tokens).calls if device.supports(call) is None]
    if not calls or not isinstance(device, Compiler):
        return

    expected = total([device.cost(call) for call in calls])
    timeline = simulate(device.compile(calls))

    assert timeline.cycles == pytest.approx(expected.cycles, rel=AGREEMENT)
    assert timeline.bytes == pytest.approx(dict(expected.bytes), rel=AGREEMENT)


@pytest.mark.parametrize("forward", [ForwardPass(tokens=1, past=511), ForwardPass(tokens=16)])
@pytest.mark.parametrize("precision", ["w2a8", "w4a8g128"])
@pytest.mark.parametrize("name", _catalog.names())
def test_events_agree_on_a_layer_of_7b(name: str, precision: str, forward: ForwardPass) -> None:
    device = _catalog.load(name)
    if not isinstance(device, Compiler):
        return
    _, layer_of_7b, _ = _shapes.workload("llama2-7b", precision).blocks(forward)
    calls = [call for call in layer_of_7b.calls if device.supports(call) is None]
    if not calls:
        return

    expected = total([device.cost(call) for call in calls])

    assert simulate(device.compile(calls)).cycles == pytest.approx(expected.cycles, rel=AGREEMENT)


def test_nothing_is_free_by_default() -> None:
    device = _catalog.load("reference")
    call = Call(op_type="CacheAppend", name="nothing", work=Move(bytes=0))

    with pytest.raises(DeviceError, match="would be free"):
        device.cost(call)


def test_costs_add_up() -> None:
    device = _catalog.load("reference")
    costs = [device.cost(call) for call in layer(1).calls]

    assert total(costs).seconds == pytest.approx(sum(cost.seconds for cost in costs))
    assert total([costs[0]] * 3) == costs[0].times(3)
