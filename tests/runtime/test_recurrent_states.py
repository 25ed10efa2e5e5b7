"""Caches whose states do not grow: going back, copying, and being interrupted."""

import numpy as np
import pytest

from edgellm.errors import ConfigError
from edgellm.runtime.kv_cache import KvCache
from edgellm.runtime.plan import Value
from edgellm.runtime.recurrent_states import MOST_KEPT

NAMES = ("past_key_values.0.recurrent_state", "past_key_values.1.recurrent_state")
VALUES = [Value(NAMES[0], "int64", (3,)), Value(NAMES[1], "int64", (2,))]
KEYS = Value("past_key_values.2.key", "int8", ("past", 4))


def write(cache: KvCache, length: int) -> None:
    """Do what a call does: write states that tell of how many tokens they are."""
    for array in cache._states.present.values():
        array[:] = length


def filled(length: int, values: list[Value] = VALUES) -> KvCache:
    """Return a cache that has seen one token after the other."""
    cache = KvCache(values, 5000)
    for _ in range(length):
        write(cache, cache.length + 1)
        cache.advance(1)
    return cache


def told(cache: KvCache) -> set[int]:
    return {int(number) for name in NAMES for number in cache.export_arrays()[name]}


def test_a_call_replaces_the_states() -> None:
    cache = filled(3)
    assert (cache.length, told(cache), cache.is_recurrent) == (3, {3}, True)


def test_what_a_call_did_not_finish_changes_nothing() -> None:
    cache = filled(3)
    write(cache, 99)
    cache.truncate(3)
    assert told(cache) == {3}


@pytest.mark.parametrize("length", [0, 1, 7, 100, 998, 999])
def test_going_back_ends_at_a_state_that_was_kept(length: int) -> None:
    """To compute again what is too much takes at most as long as what is thrown away."""
    cache = filled(1000)
    cache.truncate(length)

    assert cache.length <= length
    assert length - cache.length <= 1000 - length
    assert told(cache) == {cache.length}
    assert len(cache._states._earlier) <= MOST_KEPT


def test_what_is_kept_grows_no_further() -> None:
    cache = filled(4000)
    assert len(cache._states._earlier) == MOST_KEPT


def test_going_back_twice() -> None:
    cache = filled(20)
    for length in (19, 17, 17, 3, 0):
        cache.truncate(min(length, cache.length))
        assert cache.length <= length
        assert told(cache) == {cache.length}


def test_a_copy_has_the_same_way_back() -> None:
    cache = filled(6)
    twin = cache.copy()
    cache.truncate(0)
    assert (twin.length, told(twin)) == (6, {6})
    twin.truncate(5)
    assert (twin.length, told(twin)) == (5, {5})


def test_arrays_need_the_length_that_they_are_of() -> None:
    cache = KvCache(VALUES, 10)
    cache.import_arrays(filled(6).export_arrays(), 6)
    assert (cache.length, told(cache)) == (6, {6})
    cache.truncate(5)  # nothing else is known of that text
    assert (cache.length, told(cache)) == (0, {0})


def test_wrong_arrays_are_refused() -> None:
    cache = KvCache(VALUES, 10)
    arrays = filled(6).export_arrays()
    with pytest.raises(ConfigError, match="at most 10 rows"):
        cache.import_arrays(arrays, 11)
    with pytest.raises(ConfigError, match="must be int64"):
        cache.import_arrays({**arrays, NAMES[0]: np.zeros(4, np.int64)}, 6)
    assert told(cache) == {0}


def test_rows_and_states_go_back_together() -> None:
    cache = filled(30, [*VALUES, KEYS])
    cache.truncate(11)
    assert len(cache.export_arrays()[KEYS.name]) == cache.length <= 11
