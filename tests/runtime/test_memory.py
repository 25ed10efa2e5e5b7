"""The arena: values that live at the same time never share a byte."""

from hypothesis import given
from hypothesis import strategies as st

from edgellm.runtime.memory import ALIGNMENT, Lifetime, lifetimes, place

VALUES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.tuples(st.integers(0, 5000), st.integers(0, 12), st.integers(0, 12)).map(
        lambda item: Lifetime(item[0], min(item[1:]), max(item[1:]))
    ),
    max_size=16,
)


@given(VALUES)
def test_living_values_do_not_overlap(values: dict[str, Lifetime]) -> None:
    arena = place(values)

    assert set(arena.offsets) == set(values)
    for name, value in values.items():
        begin = arena.offsets[name]
        assert begin % ALIGNMENT == 0
        assert begin + value.size <= arena.size
        for other, neighbour in values.items():
            apart = value.last < neighbour.first or neighbour.last < value.first
            start = arena.offsets[other]
            disjoint = begin + value.size <= start or start + neighbour.size <= begin
            assert other == name or apart or disjoint


@given(VALUES)
def test_arena_is_no_larger_than_all_values_side_by_side(values: dict[str, Lifetime]) -> None:
    padded = sum(value.size + ALIGNMENT for value in values.values())

    assert place(values).size <= padded


def test_a_chain_reuses_memory() -> None:
    """Of a long chain only two neighbours live at once."""
    values = {f"v{i}": Lifetime(640, i, i + 1) for i in range(50)}

    assert place(values).size == 2 * 640


def test_lifetime_is_from_first_to_last_use() -> None:
    steps = [(["x"], ["a"]), (["a"], ["b", "unused"]), (["a", "b"], ["c"])]

    found = lifetimes(steps, {"a": 1, "b": 2, "c": 3, "unused": 4})

    assert found == {
        "a": Lifetime(1, 0, 2),
        "b": Lifetime(2, 1, 2),
        "unused": Lifetime(4, 1, 1),
        "c": Lifetime(3, 2, 2),
    }
