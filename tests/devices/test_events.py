"""The event-driven engine: order, tokens, deadlocks, functional execution."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.devices._events import DeviceMemory, Instruction, simulate
from edgellm.errors import DeadlockError, DeviceError


def load(value: int, *, cycles: float, waits: tuple[str, ...] = ()) -> Instruction:
    def effect(_: DeviceMemory) -> Mapping[str, np.ndarray]:
        return {"slot": np.array([value])}

    return Instruction("LD", cycles, f"LD {value}", waits, ("MM",), "ram", 8, effect)


def add(*, cycles: float, waits: tuple[str, ...] = ("LD",)) -> Instruction:
    def effect(memory: DeviceMemory) -> Mapping[str, np.ndarray]:
        return {"sum": memory["sum"] + memory["slot"]}

    return Instruction("MM", cycles, "MM", waits, ("LD",), effect=effect)


def start() -> DeviceMemory:
    return DeviceMemory({"sum": np.array([0])})


def test_units_overlap_and_tokens_order_them() -> None:
    program = [load(1, cycles=10), add(cycles=4), load(2, cycles=10, waits=("MM",)), add(cycles=4)]

    timeline = simulate(program, start(), keep_events=True)

    assert timeline.cycles == 28
    assert timeline.busy == {"LD": 20, "MM": 8}
    assert timeline.stall == {"LD": 4, "MM": 20}
    assert timeline.bytes == {"ram": 16}
    assert timeline.memory["sum"].tolist() == [3]
    assert [(event.start, event.end) for event in timeline.events] == [
        (0, 10),
        (10, 14),
        (14, 24),
        (24, 28),
    ]
    assert timeline.tokens_left == 1


def test_a_missing_token_is_a_wrong_answer() -> None:
    """The second sum does not wait for the second load, which is slower than the first sum."""
    program = [
        load(1, cycles=1),
        add(cycles=4),
        load(2, cycles=9, waits=("MM",)),
        add(cycles=4, waits=()),
    ]

    assert simulate(program, start()).memory["sum"].tolist() == [2]


def test_what_is_read_must_not_be_overwritten() -> None:
    """The second load does not wait until its slot was read."""
    program = [load(1, cycles=1), add(cycles=4), load(2, cycles=1), add(cycles=4)]

    with pytest.raises(DeviceError, match="LD 2 overwrites slot while MM reads it"):
        simulate(program, start())


def test_reading_what_is_not_there_yet_is_an_error() -> None:
    with pytest.raises(DeviceError, match="reads 'slot' before it is written"):
        simulate([load(1, cycles=10), add(cycles=4, waits=())], start())


def test_a_deadlock_names_the_heads_of_the_queues() -> None:
    program = [load(1, cycles=1, waits=("MM",)), add(cycles=1), add(cycles=1)]

    with pytest.raises(DeadlockError) as caught:
        simulate(program, start())

    assert "LD: LD 1 waits for MM (1 instructions left)" in str(caught.value)
    assert "MM: MM waits for LD (2 instructions left)" in str(caught.value)


def test_a_token_for_a_unit_without_instructions_is_an_error() -> None:
    with pytest.raises(DeviceError, match="releases a token to MM"):
        simulate([load(1, cycles=1)])


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=8),
    st.lists(st.integers(1, 9), min_size=2, max_size=8),
)
def test_two_slots_keep_any_pair_of_units_in_order(loads: list[int], sums: list[int]) -> None:
    """Double buffering: whatever the speeds, the sum is right and no unit works too much."""
    count = min(len(loads), len(sums))
    program = []
    for tile in range(count):
        waits = ("MM",) if tile >= 2 else ()
        program.append(slotted_load(tile, loads[tile], waits))
        program.append(slotted_add(tile, sums[tile], releases=tile < count - 2))

    timeline = simulate(program, start())

    assert timeline.memory["sum"].tolist() == [count * (count - 1) // 2]
    assert timeline.tokens_left == 0
    assert timeline.busy == {"LD": sum(loads[:count]), "MM": sum(sums[:count])}
    assert max(timeline.busy.values()) < timeline.cycles <= sum(timeline.busy.values())


def slotted_load(tile: int, cycles: int, waits: tuple[str, ...]) -> Instruction:
    return Instruction(
        "LD", cycles, f"LD {tile}", waits, ("MM",), effect=lambda _: {f"slot{tile % 2}": tile}
    )


def slotted_add(tile: int, cycles: int, *, releases: bool) -> Instruction:
    def effect(memory: DeviceMemory) -> Mapping[str, np.ndarray]:
        return {"sum": memory["sum"] + memory[f"slot{tile % 2}"]}

    give = ("LD",) if releases else ()
    return Instruction("MM", cycles, f"MM {tile}", ("LD",), give, effect=effect)
