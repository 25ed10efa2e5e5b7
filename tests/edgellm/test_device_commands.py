"""The commands about simulated devices, as scripts see them."""

import json
from pathlib import Path

import pytest

from edgellm import cli


@pytest.fixture
def main(capsys: pytest.CaptureFixture):
    """Run the command line in this process: (status, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        status = cli.main(list(map(str, words)))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_devices_are_listed_with_their_sources(main) -> None:
    status, out, _ = main("devices")
    fields = json.loads(main("devices", "--json")[1])["devices"]
    _, detail, _ = main("devices", "reference")

    assert status == 0
    assert "reference (model)" in out
    assert [item["name"] for item in fields] == sorted(item["name"] for item in fields)
    assert "energy.table_pj.mac" in detail
    assert "Horowitz" in detail


def test_a_shape_is_simulated(main) -> None:
    words = ("simulate", "--shape", "bitnet-3b", "--precision", "w2a8", "--device", "reference")
    status, out, _ = main(*words, "--prompt", 8, "--new", 2)
    fields = json.loads(main(*words, "--prompt", 8, "--new", 2, "--json")[1])

    assert status == 0
    assert f"{fields['tokens_per_s']:.4g} tokens/s" in out
    assert fields["refused"] == {}
    assert fields["last"]["operators"][1]["calls"] == 26


def test_a_bundle_is_simulated_traced_and_drawn(main, random_bundle: Path, tmp_path: Path) -> None:
    trace, plot = tmp_path / "trace.json", tmp_path / "plot.png"
    words = ("simulate", random_bundle, "--device", "reference", "--prompt", 8, "--new", 2)
    status, out, _ = main(*words, "--engine", "events", "--trace", trace, "--plot", plot)

    assert status == 0
    assert "bound by" in out
    assert {item["ph"] for item in json.loads(trace.read_text())["traceEvents"]} == {"X", "M"}
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_device_that_costs_nothing_is_shown(main, random_bundle: Path, tmp_path: Path) -> None:
    files = ("--trace", tmp_path / "trace.json", "--plot", tmp_path / "plot.png")
    words = ("simulate", random_bundle, "--device", "null", "--prompt", 8, "--new", 2)
    status, out, _ = main(*words, *files)

    assert status == 0
    assert "null: nothing is computed" in main(*words, "--json")[1]
    assert "energy a token" in out


def test_programs_may_be_longer_than_the_context(main, random_bundle: Path) -> None:
    """FlightLLM's programs are of 128 tokens and more; the tiny model's context is 64."""
    words = ("simulate", random_bundle, "--device", "flightllm-u280", "--new", 2)

    status, out, _ = main(*words, "--prompt", 8)
    refused, _, error = main(*words, "--prompt", 100)

    assert (status, refused) == (0, 2)
    assert "one pass of 1 tokens after 15:" in out
    assert "its context is" in error


def test_changes_of_the_description_count(main) -> None:
    words = ("simulate", "--shape", "bitnet-3b", "--device", "reference", "--new", 1, "--json")
    slow = json.loads(main(*words)[1])
    fast = json.loads(main(*words, "--set", "clock.core_mhz=2000")[1])

    assert fast["tokens_per_s"] == pytest.approx(2 * slow["tokens_per_s"], rel=1e-3)


def test_an_answer_is_compared(main, random_bundle: Path) -> None:
    words = ("--functional", "--prompt", 4, "--new", 1)
    status, out, _ = main("simulate", random_bundle, "--device", "reference", *words)
    wrong, _, message = main("simulate", random_bundle, "--device", "null", *words)

    assert status == 0
    assert "equal, integer for integer" in out
    assert wrong == 4
    assert "null differs: " in message


def test_inspect_says_where_operators_run(main, random_bundle: Path) -> None:
    status, out, _ = main("inspect", random_bundle, "--device", "null")
    fields = json.loads(main("inspect", random_bundle, "--device", "null", "--json")[1])

    assert status == 0
    assert out.splitlines()[-1].split() == ["LogitsHead", "1", "null"]
    assert {item["place"] for item in fields["placement"]} == {"null"}
    assert "placement" not in json.loads(main("inspect", random_bundle, "--json")[1])


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--device", "reference"), 2, "give a bundle, or a shape"),
        (("--device", "nothing", "--shape", "bitnet-3b"), 2, "no device 'nothing'"),
        (("--device", "reference", "--shape", "bitnet-3b", "--set", "x=1"), 2, "SECTION.KEY"),
        (("--device", "null", "--shape", "bitnet-3b"), 1, "takes nothing"),
        (("--device", "reference", "--shape", "bitnet-3b", "--functional"), 2, "needs a bundle"),
        (("--device", "reference", "--shape", "bitnet-3b", "--new", "-1"), 2, "new is -1"),
    ],
)
def test_wrong_usage_is_one_line(main, words: tuple[str, ...], status: int, message: str) -> None:
    ended, out, err = main("simulate", *words)

    assert (ended, out) == (status, "")
    assert message in err
    assert len(err.splitlines()) == 1
