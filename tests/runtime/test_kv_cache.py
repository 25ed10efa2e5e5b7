"""The key/value cache: rewinding, copying, and arrays that come from outside."""

import numpy as np
import pytest

from edgellm.errors import ConfigError
from edgellm.runtime import huge_pages
from edgellm.runtime.kv_cache import KvCache
from edgellm.runtime.plan import Value

VALUES = [
    Value("past_key_values.0.key", "int8", ("past", 2, 4)),
    Value("past_key_values.0.key_absmax", "int32", ("past", 2)),
]


def arrays(length: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(length)
    return {
        value.name: generator.integers(0, 100, (length, *value.shape[1:])).astype(value.dtype)
        for value in VALUES
    }


def filled(length: int) -> KvCache:
    cache = KvCache(VALUES, 10)
    cache.import_arrays(arrays(length))
    return cache


def test_arrays_go_in_and_come_out() -> None:
    cache = filled(7)

    assert (cache.length, cache.capacity) == (7, 10)
    for name, array in cache.export_arrays().items():
        np.testing.assert_array_equal(array, arrays(7)[name], strict=True)


def test_truncate_keeps_the_first_positions() -> None:
    cache = filled(7)
    cache.truncate(3)

    assert cache.length == 3
    for name, array in cache.export_arrays().items():
        np.testing.assert_array_equal(array, arrays(7)[name][:3], strict=True)


@pytest.mark.parametrize("length", [-1, 8])
def test_truncate_to_what_is_not_there(length: int) -> None:
    with pytest.raises(ConfigError, match="holds 7 positions"):
        filled(7).truncate(length)


def test_a_copy_is_independent() -> None:
    cache = filled(4)
    twin = cache.copy()
    cache.import_arrays(arrays(2))

    assert twin.length == 4
    for name, array in twin.export_arrays().items():
        np.testing.assert_array_equal(array, arrays(4)[name], strict=True)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("past_key_values.0.key", np.zeros((3, 2, 4), np.int16), "must be int8"),
        ("past_key_values.0.key", np.zeros((3, 4, 2), np.int8), "shape"),
        ("past_key_values.0.key", np.zeros((3, 8), np.int8), "must be int8"),
        ("past_key_values.0.key", np.zeros((11, 2, 4), np.int8), "at most 10 rows"),
        ("past_key_values.0.key_absmax", np.zeros((2, 2), np.int32), "shape"),
        ("past_key_values.1.key", np.zeros((3, 2, 4), np.int8), "past_key_values.1.key"),
    ],
)
def test_wrong_arrays_are_refused_and_change_nothing(
    name: str, array: np.ndarray, message: str
) -> None:
    cache = filled(5)

    with pytest.raises(ConfigError, match=message):
        cache.import_arrays({**arrays(3), name: array})
    assert cache.length == 5
    with pytest.raises(ConfigError, match="key_absmax"):
        cache.import_arrays({"past_key_values.0.key": arrays(3)["past_key_values.0.key"]})
    for key, value in cache.export_arrays().items():
        np.testing.assert_array_equal(value, arrays(5)[key], strict=True)


def test_what_half_fills_a_huge_page_moves_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """512 KiB a position and 2 MiB a page: pages move with positions 2, 6 and 10; others never."""
    moved: list[int] = []
    monkeypatch.setattr(huge_pages.Memory, "make_huge", lambda _, number: moved.append(number))
    cache = KvCache([*VALUES, Value("large", "int32", ("past", 1 << 17))], 11)
    moves = []
    for count in (1, 1, 1, 7, 1):
        moved.clear()
        cache.advance(count)
        moves.append(list(moved))

    assert moves == [[], [0], [], [1, 2], []]


def test_a_large_cache_keeps_its_content() -> None:
    large = [Value("large", "int32", ("past", 1 << 17))]
    content = np.random.default_rng(8).integers(0, 99, (11, 1 << 17)).astype(np.int32)
    cache = KvCache(large, 12)
    assert not cache.export_arrays()["large"].any()
    cache.import_arrays({"large": content[:9]})
    np.testing.assert_array_equal(cache.copy().export_arrays()["large"], content[:9])
    cache.import_arrays({"large": content})
    np.testing.assert_array_equal(cache.export_arrays()["large"], content, strict=True)
