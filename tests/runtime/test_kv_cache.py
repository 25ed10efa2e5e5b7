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


def test_positions_are_repeated_in_turn() -> None:
    cache = filled(3)
    cache.repeat(8)

    assert cache.length == 8
    for name, array in cache.export_arrays().items():
        expected = arrays(3)[name][[0, 1, 2, 0, 1, 2, 0, 1]]
        np.testing.assert_array_equal(array, expected, strict=True)


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


def test_arrays_move_apart_with_what_they_hold() -> None:
    """There is room for 256 positions first, then for as many as come, or half as many more."""
    cache = KvCache(VALUES, 700)
    moved = []
    for length in (200, 256, 257, 384, 385, 700):
        before = cache.addresses
        cache.make_room(length)
        moved.append(cache.addresses is not before)
        for name, array in cache.export_arrays().items():
            np.testing.assert_array_equal(array, arrays(700)[name][: cache.length])
        cache.import_arrays({name: a[:length] for name, a in arrays(700).items()})

    assert moved == [False, False, True, False, True, True]
    for name, array in cache.export_arrays().items():
        np.testing.assert_array_equal(array, arrays(700)[name], strict=True)


@pytest.mark.parametrize(("capacity", "asks"), [(100, True), (12, False)])
def test_only_what_fills_huge_pages_asks_for_them(
    capacity: int, asks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are 16 KiB a position and 2 MiB a page; there is room for 64 positions and more."""
    asked: list[huge_pages.Memory] = []
    monkeypatch.setattr(huge_pages.Memory, "fill_huge", lambda memory: asked.append(memory))
    KvCache([Value("large", "int32", ("past", 1 << 12))], capacity)

    assert bool(asked) == asks


def test_a_large_cache_keeps_its_content() -> None:
    large = [Value("large", "int32", ("past", 1 << 17))]
    content = np.random.default_rng(8).integers(0, 99, (11, 1 << 17)).astype(np.int32)
    cache = KvCache(large, 12)
    assert not cache.export_arrays()["large"].any()
    cache.import_arrays({"large": content[:9]})
    np.testing.assert_array_equal(cache.copy().export_arrays()["large"], content[:9])
    cache.import_arrays({"large": content})
    np.testing.assert_array_equal(cache.export_arrays()["large"], content, strict=True)
