"""What the tuner remembers: found again for the same machine, never trusted when damaged."""

import json
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from edgellm.bundle import open_bundle
from edgellm.runtime import cpu, tuning
from edgellm.runtime.choices import Choices, kind_of
from edgellm.runtime.kernels import simd
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan
from edgellm.runtime.tuning import Tuning, recall, remember


@pytest.fixture(scope="module")
def plan(random_bundle: Path) -> Plan:
    return load_plan(open_bundle(random_bundle))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    return tuning.tuning_path()


def some_tuning(plan: Plan, variant: str = "portable") -> Tuning:
    kinds = {str(kind_of(plan, step)): variant for step in plan.steps}
    return Tuning(Choices(one=kinds, many={}), threads=1)


def test_nothing_is_known_at_first(
    plan: Plan, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert recall(plan) == Tuning()
    assert not path.exists()
    assert caplog.text == ""


def test_what_was_found_out_is_known_later(plan: Plan, path: Path) -> None:
    expected = some_tuning(plan)

    assert remember(plan, expected) == path
    assert recall(plan) == expected


def test_what_is_known_of_other_models_stays(plan: Plan, path: Path) -> None:
    other = replace(plan, steps=plan.steps[:3])
    remember(plan, some_tuning(plan))

    remember(other, Tuning(Choices(one={"Other K=1": "portable"}), threads=1))

    assert recall(plan).threads == 1
    assert recall(plan).choices.one == {**some_tuning(plan).choices.one, "Other K=1": "portable"}
    assert recall(replace(plan, steps=plan.steps[:2])).threads is None


def test_another_processor_has_a_file_of_its_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = cpu.host()
    for changed in (
        replace(host, name="other"),
        replace(host, features=("+other",)),
        replace(host, physical_cores=host.physical_cores + 1),
    ):
        monkeypatch.setattr(cpu, "host", lambda changed=changed: changed)
        assert tuning.tuning_path() != path


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


DAMAGES = {
    "empty": lambda path: path.write_text(""),
    "no json": lambda path: path.write_bytes(b"\xff\x00{"),
    "a list": lambda path: path.write_text("[]"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "large": lambda path: path.write_text(" " * ((1 << 20) + 1)),
    "cut": lambda path: path.write_text(path.read_text()[:-20]),
    "other format": lambda path: change(path, format=3),
    "no format": lambda path: change(path, format=None),
    "no section": lambda path: change(path, many=None),
    "section is a list": lambda path: change(path, one=["portable"]),
    "unknown variant": lambda path: change(path, one={"BitLinear": "../../evil"}),
    "variant is a number": lambda path: change(path, one={"BitLinear": 1}),
    "variant is a list": lambda path: change(path, many={"BitLinear": ["portable"]}),
    "no thread": lambda path: change(path, threads={"a": 0}),
    "too many threads": lambda path: change(path, threads={"a": 1 << 40}),
    "threads are text": lambda path: change(path, threads={"a": "1"}),
    "threads are true": lambda path: change(path, threads={"a": True}),
    "threads are a fraction": lambda path: change(path, threads={"a": 1.0}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_ignored_and_replaced(
    plan: Plan, path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    remember(plan, some_tuning(plan))
    DAMAGES[damage](path)

    with caplog.at_level(logging.WARNING):
        assert recall(plan) == Tuning()
    assert str(path) in caplog.text
    assert "edgellm tune" in caplog.text

    remember(plan, some_tuning(plan))
    assert recall(plan) == some_tuning(plan)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_file_that_is_none_is_ignored(
    plan: Plan, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading from a pipe would wait for ever."""
    path.parent.mkdir()
    os.mkfifo(path)

    with caplog.at_level(logging.WARNING):
        assert recall(plan) == Tuning()
    assert "no such file" in caplog.text


def test_a_variant_of_another_machine_is_refused(
    plan: Plan, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = "neon" if "neon" not in simd.available(cpu.host()) else "avx2"
    remember(plan, some_tuning(plan, foreign))

    assert recall(plan) == Tuning()
    assert foreign in caplog.text


def test_without_a_place_for_the_file_nothing_is_lost_but_it(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "file"))

    remember(plan, some_tuning(plan))

    assert "EDGELLM_CACHE" in caplog.text
    assert recall(plan) == Tuning()
