"""Simulations: what is added up, sampled, refused."""

import pytest

from edgellm.device import Call, ForwardPass, Refusal
from edgellm.devices import _catalog, _shapes, _simulation
from edgellm.devices._simulation import Request
from edgellm.devices.reference import Device
from edgellm.errors import ConfigError, DeviceError

WORKLOAD = _shapes.workload("bitnet-3b", "w2a8")


class LinearOnly(Device):
    """A reference device that takes products only."""

    def supports(self, call: Call) -> Refusal | None:
        return None if call.op_type == "Linear" else Refusal(f"no unit for {call.op_type}")


class Bucketed(Device):
    """A reference device whose programs are for multiples of 16 tokens."""

    def compiled_for(self, forward: ForwardPass) -> ForwardPass:
        length = -(-(forward.past + forward.tokens) // 16) * 16
        return ForwardPass(tokens=forward.tokens, past=length - forward.tokens)


def test_totals_are_those_of_every_token() -> None:
    device = _catalog.load("reference")
    one = [
        _simulation.run(device, WORKLOAD, Request(prompt=past, new=1)).decode
        for past in range(64, 96)
    ]

    result = _simulation.run(device, WORKLOAD, Request(prompt=64, new=32))

    assert result.decode is not None
    # Samples stand for 16 tokens each, and their middle is half a token off.
    expected = sum(cost.seconds for cost in one if cost)
    assert result.decode.seconds == pytest.approx(expected, rel=1e-4)
    assert result.tokens_per_s == pytest.approx(32 / expected, rel=1e-4)
    assert result.joules_per_token == pytest.approx(sum(result.energy_per_token.values()))
    assert result.uncounted == ()
    assert max(result.utilisation.values()) <= 1


def test_the_engines_agree() -> None:
    device = _catalog.load("reference")
    request = Request(prompt=16, new=4)

    by_equations = _simulation.run(device, WORKLOAD, request)
    by_events = _simulation.run(device, WORKLOAD, Request(prompt=16, new=4, engine="events"))

    assert by_events.tokens_per_s == pytest.approx(by_equations.tokens_per_s, rel=0.03)
    assert by_events.time_to_first_token_s == pytest.approx(
        by_equations.time_to_first_token_s, rel=0.03
    )


def test_what_is_refused_is_said_or_runs_on_the_host() -> None:
    description = _catalog.describe("reference")
    request = Request(prompt=4, new=2)

    alone = _simulation.run(LinearOnly(description), WORKLOAD, request)
    hosted = _simulation.run(LinearOnly(description), WORKLOAD, request, Device(description))

    assert alone.refused["Attention"] == "no unit for Attention"
    assert set(alone.uncounted) == {"Embedding", "Norm", "CacheAppend", "Attention", "Add",
                                    "Activation"}  # fmt: skip
    assert hosted.uncounted == ()
    assert hosted.refused == alone.refused
    assert hosted.decode is not None
    assert alone.decode is not None
    assert hosted.decode.seconds > alone.decode.seconds


def test_lengths_are_those_that_programs_are_made_for() -> None:
    device = Bucketed(_catalog.describe("reference"))

    near = _simulation.run(device, WORKLOAD, Request(prompt=17, new=1))
    far = _simulation.run(device, WORKLOAD, Request(prompt=31, new=1))
    over = _simulation.run(device, WORKLOAD, Request(prompt=32, new=1))

    assert near.decode == far.decode
    assert over.tokens_per_s < far.tokens_per_s


@pytest.mark.parametrize(
    "request_", [Request(prompt=0, new=0), Request(prompt=-1), Request(sequences=0)]
)
def test_requests_out_of_range_are_refused(request_: Request) -> None:
    with pytest.raises(ConfigError):
        _simulation.run(_catalog.load("reference"), WORKLOAD, request_)


def test_a_device_without_instructions_has_no_events() -> None:
    with pytest.raises(ConfigError, match="null has no instructions"):
        _simulation.run(_catalog.load("null"), WORKLOAD, Request(engine="events"))


def test_a_device_that_takes_nothing_says_why() -> None:
    with pytest.raises(DeviceError, match="the shapes of its outputs are open"):
        _simulation.run(_catalog.load("null"), WORKLOAD, Request())
