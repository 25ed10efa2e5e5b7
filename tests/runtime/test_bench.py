from pathlib import Path

import pytest

from edgellm.bundle import open_bundle
from edgellm.dtypes import TERNARY_2BIT
from edgellm.errors import ConfigError
from edgellm.runtime import kernels, layouts, limits, tuning
from edgellm.runtime.bench import BenchRequest, _ternary_weights, bench
from edgellm.runtime.kernels import simd
from edgellm.runtime.loader import load_plan
from edgellm.ternary_layouts import TERNARY_LAYOUTS
from edgellm.ternary_planes import TERNARY_PLANES


def test_every_length_is_measured_with_every_number_of_threads(
    random_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BANDWIDTH_BYTES", 1 << 20)
    request = BenchRequest(
        prompt_lengths=(4, 8), generation_lengths=(3,), threads=(1, 2), repetitions=3
    )

    result = bench(random_bundle, request)

    assert [row.threads for row in result.rows] == [1, 2]
    for row in result.rows:
        assert [rate.tokens for rate in row.prefill] == [4, 8]
        assert [rate.tokens for rate in row.decode] == [3]
        for rate in (*row.prefill, *row.decode):
            assert 0 < rate.min <= rate.median <= rate.max
        assert row.load_time_s > 0
        assert row.time_to_first_token_s > 0
    observations = {item.name: item.value for item in result.observations}
    read = observations["weights read by greedy decoding"]
    assert 0 < read < result.bytes_per_token  # squared ReLU leaves zeros
    for row, speed in zip(result.rows, result.read_bandwidth, strict=True):
        share = read * row.decode[0].median / speed.bytes_per_s
        assert speed.decode_share == pytest.approx(share)
    assert result.kernel_variants["RotaryEmbedding"] == "portable"
    assert result.kernel_variants["LogitsHead"] == kernels.find("LogitsHead").variant
    assert result.peak_memory_bytes > 1 << 20
    for row in result.rows:
        assert len(row.waiting) == row.threads
        assert all(0 <= share < 1 for share in row.waiting)
    assert observations["weights read a token"] == result.bytes_per_token
    assert result.profile is None


def test_the_operators_are_measured_where_that_is_wanted(
    random_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BANDWIDTH_BYTES", 1 << 20)
    request = BenchRequest(
        prompt_lengths=(64,), generation_lengths=(3,), threads=(1,), repetitions=1, by_operator=True
    )

    result = bench(random_bundle, request)

    assert result.profile is not None
    assert result.profile.decode.context == 63  # and a token more: the context of this bundle


@pytest.mark.parametrize(
    ("variant", "packed", "advised"),
    [
        ("avx2", (TERNARY_2BIT, TERNARY_PLANES), "lookup"),
        ("avx2", (TERNARY_PLANES, TERNARY_PLANES), "lookup"),
        ("avx512_vbmi", (TERNARY_2BIT, TERNARY_2BIT), "5trit"),
        ("avx512_vnni", (TERNARY_PLANES, TERNARY_2BIT), "2bit"),
        ("portable", (TERNARY_2BIT, TERNARY_2BIT), "2bit"),
    ],
)
def test_which_layout_suits_is_said_and_which_is_run(
    random_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variant: str,
    packed: tuple[str, str],
    advised: str,
) -> None:
    stored, run = packed
    monkeypatch.setattr(simd, "chosen", lambda _: variant)
    monkeypatch.setattr(tuning, "tuning_path", lambda: tmp_path / "none.json")
    plan = layouts.convert(load_plan(open_bundle(random_bundle)), stored)

    found = _ternary_weights(plan, layouts.for_this_machine(plan))

    assert found is not None
    assert found.stored[0] == stored
    assert found.run[0] == run
    assert found.export_layout == advised
    assert found.suited == (TERNARY_LAYOUTS[stored].alias == advised)


@pytest.mark.parametrize(
    "options",
    [
        {"prompt_lengths": ()},
        {"prompt_lengths": (0,)},
        {"generation_lengths": (-1,)},
        {"repetitions": 0},
    ],
)
def test_counts_must_be_positive(options: dict) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        BenchRequest(**options)


def test_lengths_must_fit_in_the_context(random_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="needs 65 tokens, the context holds 64"):
        bench(random_bundle, BenchRequest(generation_lengths=(64,), prompt_lengths=(1,)))
