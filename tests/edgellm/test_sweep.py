"""Sweeps of designs: combinations, the Pareto front, files, processes."""

import csv
import json
from pathlib import Path

import pytest

from edgellm import cli, sweep
from edgellm.device_api import Subject
from edgellm.devices._simulation import Request
from edgellm.errors import ConfigError, MissingDependencyError
from edgellm.sweep import Design, Job

WORDS = ("sweep", "--shape", "bitnet-3b", "--precision", "w2a8", "--device", "reference",
         "--prompt", "4", "--new", "2")  # fmt: skip


def jobs(*settings: str) -> list[Job]:
    subject = Subject(shape="bitnet-3b", precision="w2a8")
    request = Request(prompt=4, new=2)
    return [
        Job(subject=subject, device="reference", request=request, changes=changes)
        for changes in sweep.combinations(settings)
    ]


def test_all_combinations_are_made() -> None:
    made = sweep.combinations(["array.m=1, 2", "memory.bw_gbs=10"])

    assert made == [("array.m=1", "memory.bw_gbs=10"), ("array.m=2", "memory.bw_gbs=10")]


@pytest.mark.parametrize(
    "settings", [[], ["array.m"], ["array.m=,"], ["a.b=1", "a.b=2"], ["a.b=" + "1," * 400] * 1]
)
def test_settings_without_values_are_refused(settings: list[str]) -> None:
    if settings and settings[0].count(",") > 100:
        settings = [f"a.{letter}={'1,' * 400}" for letter in "bc"]
    with pytest.raises(ConfigError):
        sweep.combinations(settings)


def test_the_front_is_what_nothing_dominates() -> None:
    def design(speed: float, joules: float, multipliers: int) -> Design:
        return Design(
            changes=(), tokens_per_s=speed, joules_per_token=joules, multipliers=multipliers
        )

    designs = [
        design(10, 1, 4),
        design(10, 1, 4),
        design(10, 2, 4),
        design(5, 1, 2),
        design(5, 1, 4),
        design(10.001, 0.9999, 5),
        Design(changes=(), error="no"),
    ]

    assert [item.pareto for item in sweep.mark_pareto(designs)] == [
        True, True, False, True, False, False, False
    ]  # fmt: skip


def test_processes_find_what_one_process_finds() -> None:
    some = jobs("array.mac.m=1,64", "memory.ram.bw_gbs=1,0")
    done: list[int] = []

    alone = sweep.sweep(some, processes=1, progress=done.append)
    together = sweep.sweep(some, processes=2)

    assert alone == together
    assert sum(done) == 4
    assert [bool(item.error) for item in alone] == [False, True, False, True]
    assert "bw_gbs is 0" in alone[1].error
    assert alone[2].tokens_per_s > alone[0].tokens_per_s
    assert [item.multipliers for item in alone] == [1, 0, 64, 0]


def test_a_sweep_without_a_sound_design_is_refused() -> None:
    with pytest.raises(ConfigError, match="no design can be simulated"):
        sweep.sweep(jobs("array.m=0"), processes=1)


def test_the_command_writes_table_and_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table, picture = tmp_path / "designs.csv", tmp_path / "designs.png"
    files = ("--csv", str(table), "--plot", str(picture))

    status = cli.main([*WORDS, "--set", "array.m=1,8", "-j", "1", *files])
    out = capsys.readouterr().out

    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert status == 0
    assert [row["array.m"] for row in rows] == ["1", "8"]
    assert {row["pareto"] for row in rows} == {"1"}
    assert float(rows[1]["tokens_per_s"]) > float(rows[0]["tokens_per_s"])
    assert out.count("Pareto") == 2
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_answers_in_json(capsys: pytest.CaptureFixture) -> None:
    cli.main([*WORDS, "--set", "clock.core_mhz=500,1000", "-j", "1", "--json"])

    designs = json.loads(capsys.readouterr().out)["designs"]
    speeds = [design["tokens_per_s"] for design in designs]
    assert speeds[1] == pytest.approx(2 * speeds[0], rel=1e-3)


def test_a_scheduler_needs_the_extra() -> None:
    try:
        import distributed  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(MissingDependencyError, match=r"edgellm\[cluster\]"):
            sweep.sweep(jobs("array.m=1"), scheduler="tcp://localhost:1")
