"""Tuning lowers what few bits lose, never raises it, and refuses what it cannot do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgellm import api
from edgellm.bundle import open_bundle
from edgellm.errors import ConfigError
from edgellm.exporters import build, low_bit_export
from edgellm.exporters.architectures import llama
from edgellm.exporters.calibrated import Calibrated
from edgellm.exporters.float_parts import FloatParts
from edgellm.exporters.quantizers.low_bit import Scheme
from edgellm.exporters.quantizers.row_classes import QuantizedWeight
from edgellm.exporters.sensitivity import divergence
from edgellm.exporters.tuning import Tuning
from edgellm.exporters.tuning_inputs import crossed, split, without
from edgellm.graph_names import LOGITS
from edgellm.runtime.float_parts import run_each

LINEARS = [
    f"model.layers.{layer}.{name}"
    for layer in range(2)
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
]
TEXT = "The quick brown fox jumps over the lazy dog. " * 20


def test_tuned_codes_lose_less_on_texts_held_out_and_learnt_from(
    tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", llama.TINY)
    parts = FloatParts(build.float_model(checkpoint, tmp_path / "float"), run_each)
    inputs = list(np.random.default_rng(0).integers(0, 256, (32, 40)))
    originals = {path: parts.weight(one) for path, one in parts.find(LINEARS).items()}
    exact = np.concatenate([one[LOGITS] for one in parts.run(None, [LOGITS], inputs, [])])
    quantized: dict[str, QuantizedWeight] = {}
    recipes = dict.fromkeys(LINEARS, Scheme("group", 2, 0))
    held, learnt = split(inputs)
    Calibrated(parts, learnt, recipes).run(quantized.__setitem__)

    def loss(weights: dict[str, QuantizedWeight]) -> float:
        for path, linear in parts.find(LINEARS).items():
            parts.replace(linear, weights[path].real(linear.shape[1]))
        reached = parts.run(None, [LOGITS], inputs, [])
        return divergence(exact, np.concatenate([one[LOGITS] for one in reached]))

    seen: list[tuple[int, int]] = []
    tuning = Tuning(parts, originals, quantized, held)
    tuned = tuning.run(learnt, 80, lambda *at: seen.append(at))

    assert tuned.after < tuned.before
    assert loss(tuned.weights) < 0.97 * loss(quantized)
    assert seen == [(count, 80) for count in range(1, 81)]


def test_a_tuned_export_is_verified_and_the_same_each_time(
    tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    quantization = api.Quantization(name="group", group_size=64, budget=3.0, refine=False, tune=6)
    checkpoint = write_checkpoint(tmp_path / "checkpoint", llama.TINY | {"num_hidden_layers": 1})
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    seen: list[tuple[int, int]] = []

    first, second = (
        api.export(
            checkpoint,
            tmp_path / name,
            calibration=text,
            quantization=quantization,
            progress=lambda done, total: seen.append((done, total)),
        )
        for name in ("first", "second")
    )

    weights = [open_bundle(bundle.path).weights_path.read_bytes() for bundle in (first, second)]
    assert api.verify(first.path).passed
    assert weights[0] == weights[1]
    assert {total for _, total in seen} == {max(done for done, _ in seen)}


def test_what_cannot_be_tuned_is_refused(
    tmp_path: Path, write_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", llama.TINY)
    text = tmp_path / "text.txt"
    text.write_text("too short")

    def export(tune: int, name: str = "w4a8") -> None:
        quantization = api.Quantization(name=name, tune=tune)
        api.export(checkpoint, tmp_path / "out", calibration=text, quantization=quantization)

    config = tmp_path / "checkpoint" / "config.json"
    tuned = api.Quantization(name="w4a8", tune=5)
    with pytest.raises(ConfigError, match="tuning needs a checkpoint"):
        api.export_random(config, tmp_path / "out", quantization=tuned)
    with pytest.raises(ConfigError, match="steps of tuning are -1; allowed are 0 to"):
        export(-1)
    with pytest.raises(ConfigError, match="codes of trellis overlap"):
        export(5, "trellis")
    with pytest.raises(ConfigError, match="tuning takes inputs to learn from"):
        export(5)
    monkeypatch.setattr(low_bit_export, "MOST_TO_MEASURE", 1000)
    with pytest.raises(ConfigError, match="tuning is for up to 1000 weights"):
        export(5)
    assert not (tmp_path / "out").exists()


def test_inputs_held_out_are_not_learnt_from() -> None:
    rng = np.random.default_rng(2)
    stacks = [rng.integers(0, 99, (5, 7)), rng.integers(0, 99, (14, 9))]

    held, learnt = split(stacks)
    again = without(stacks, held)

    assert [len(stack) for stack in held] == [1, 2]
    assert sum(map(len, learnt)) == 16
    for one, other in zip(again, learnt, strict=True):
        np.testing.assert_array_equal(one, other)
    texts = [np.arange(40)]
    assert [len(text) for part in split(texts) for text in part] == [5, 35]


def test_sentences_are_crossed() -> None:
    sentences = [np.array([[101, 1, 2, 3, 102], [101, 4, 5, 6, 102]])]

    found = [row for stack in crossed(sentences, 50, 200) for row in stack.tolist()]

    assert found
    assert {(row[0], row[-1]) for row in found} == {(101, 102)}
    assert any({1, 2, 3} & set(row) and {4, 5, 6} & set(row) for row in found)
    assert any(set(row) - {1, 2, 3, 4, 5, 6, 101, 102} for row in found)
    assert {len(row) for row in found} == {4, 5}
