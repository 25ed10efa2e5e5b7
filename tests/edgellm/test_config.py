import json
import math

import pytest

from edgellm.config import JsonFields
from edgellm.errors import BundleError, CheckpointError

FIELDS = JsonFields(
    {
        "n": 3,
        "x": 0.5,
        "yes": True,
        "name": "a",
        "ids": [1, 2],
        "null": None,
        "part": {"n": 4},
        "nan": math.nan,
        "inf": math.inf,
        "vast": 10**400,
    },
    "config.json",
)


def test_fields_are_read_by_type():
    assert FIELDS.integer("n") == 3
    assert FIELDS.number("n") == 3.0
    assert FIELDS.number("x") == 0.5
    assert FIELDS.flag("yes", default=False)
    assert FIELDS.text("name") == "a"
    assert FIELDS.integers("ids") == (1, 2)
    assert FIELDS.integers("n") == (3,)
    assert FIELDS.section("part").integer("n") == 4


def test_null_is_absent():
    assert not FIELDS.has("null")
    assert FIELDS.integer("null", 7) == 7
    assert FIELDS.section("null") is None
    assert FIELDS.integers("null") == ()
    assert FIELDS.texts("null") == []


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: FIELDS.integer("x"), r"x is 0\.5; allowed are integers from 1"),
        (lambda: FIELDS.integer("yes"), "yes is True"),
        (lambda: FIELDS.integer("n", low=4), "n is 3; allowed are integers from 4"),
        (lambda: FIELDS.number("name"), "name is 'a'; allowed are numbers"),
        (lambda: FIELDS.number("yes"), "yes is True"),
        (lambda: FIELDS.number("nan"), "nan is nan; allowed are numbers from 0 to 1e"),
        (lambda: FIELDS.number("inf"), "inf is inf; allowed"),
        (lambda: FIELDS.number("vast"), "vast is 1000000"),
        (lambda: FIELDS.flag("n", default=True), "n is 3; allowed are true and false"),
        (lambda: FIELDS.text("null"), "null is missing"),
        (lambda: FIELDS.texts("ids"), r"ids is \[1, 2\]; a list of strings"),
        (lambda: FIELDS.integers("name"), "a non-negative integer or a list"),
        (lambda: FIELDS.section("ids"), "an object is needed"),
    ],
)
def test_wrong_values_are_named_with_what_is_allowed(read, message):
    with pytest.raises(CheckpointError, match=f"config.json: .*{message}"):
        read()


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, "\xff"])
def test_files_that_hold_no_object_are_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(BundleError, match=r"a\.json: "):
        JsonFields.read(path, BundleError)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.json: no such file"):
        JsonFields.read(tmp_path / "a.json")


def test_an_object_is_read(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"n": 1}))
    assert JsonFields.read(tmp_path / "a.json").integer("n") == 1
