"""A comparison holds what the single commands say, and counts operations as by hand."""

import json
from pathlib import Path

import pytest

from edgellm import api, comparison
from edgellm.bundle import open_bundle
from edgellm.device import MatMul
from edgellm.errors import ConfigError
from edgellm.exporters.architectures import llama
from edgellm.runtime import energy
from edgellm.runtime.calls import call_of
from edgellm.runtime.loader import load_plan

K, N = 64, 64


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same random weights in int8 and in 3 bits."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "config.json").write_text(json.dumps(llama.TINY))
    chosen = {"int8": None, "w3a8": api.Quantization(name="w3a8", group_size=32)}
    return [
        api.export_random(folder / "config.json", folder / name, quantization=one).path
        for name, one in chosen.items()
    ]


def test_rows_are_what_the_single_commands_say(bundles: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox")

    found = comparison.compare(bundles, comparison.Subject(text=text))

    assert found.measure == "nats/token"
    assert "45 nm" in found.energy_basis
    for row, path in zip(found.rows, bundles, strict=True):
        manifest = open_bundle(path).manifest
        assert row.score == api.evaluate(path, text).nats_per_token
        assert row.quantization == manifest.quantization
        assert row.bytes == sum(entry.size for entry in manifest.files.values())
        assert row.rate > 0
    assert found.rows[1].weights_nj < found.rows[0].weights_nj


def test_operations_are_counted_as_by_hand(bundles: list[Path]) -> None:
    plans = [load_plan(open_bundle(path)) for path in bundles]
    found = []
    for plan in plans:
        (step,) = [one for one in plan.steps if "layers.0/self_attn/o_proj/" in one.name
                   and one.op_type.endswith("Linear")]  # fmt: skip
        work = call_of(plan, step, {"tokens": 1}).work
        assert isinstance(work, MatMul)
        found.append(energy.product_energy(work))

    tables = K / 4 * 16 * 0.03
    look_ups = N * K / 4 * 3 * (0.37 + 0.1)
    groups = N * 2 * (3 * 0.2 + 2 * 3.1 + 0.1)
    assert found == pytest.approx([N * K * (0.2 + 0.1), tables + look_ups + groups])


def test_nothing_to_score_on_is_refused(bundles: list[Path]) -> None:
    with pytest.raises(ConfigError, match="give a text, images with labels, or"):
        comparison.compare(bundles, comparison.Subject())
