"""The offsets of the keys in an exported bundle, from the checkpoint to the logits."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from tokenizers import Tokenizer, models

import edgellm
from edgellm import api
from edgellm.bundle import open_bundle
from edgellm.errors import CheckpointError, ConfigError
from edgellm.exporters.architectures import bitnet, llama, qwen2
from edgellm.exporters.build import Calibration, export, float_model
from edgellm.runtime.calibration import key_offsets
from edgellm.runtime.executors.reference import Executor
from edgellm.runtime.golden import feeds
from edgellm.runtime.loader import load_plan

IDS = np.random.default_rng(1).integers(0, 256, 40)
PATHS = [f"model.layers.{layer}.self_attn" for layer in (0, 1)]
SHARED_BIAS = 40.0
"""Keys of the TINY configs have a spread of about 1."""


@pytest.fixture
def biased(tmp_path: Path, write_checkpoint: Callable, tensors_of: Callable) -> Path:
    """A checkpoint whose keys have a large common part in their slowest channels."""
    tensors = tensors_of(qwen2.TINY)
    slow = np.arange(2)[:, None] * 16 + [6, 7, 14, 15]  # 2 heads of 16: two pairs of channels each
    for path in PATHS:
        tensors[f"{path}.k_proj.bias"][slow] += SHARED_BIAS
    return write_checkpoint(tmp_path / "biased", qwen2.TINY, tensors)


def graph_of(bundle: Path) -> onnx.GraphProto:
    return onnx.load(str(bundle / "model.onnx")).graph


def offsets_of(bundle: Path) -> dict[str, np.ndarray]:
    return {
        item.name: numpy_helper.to_array(item)
        for item in graph_of(bundle).initializer
        if item.name.endswith("key_offset")
    }


def worst_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min()


def test_keys_with_a_common_part_gain_accuracy(
    tmp_path: Path, biased: Path, interpret: Callable
) -> None:
    session = onnxruntime.InferenceSession(float_model(biased, tmp_path / "float"))
    expected = session.run(None, {"input_ids": IDS})[0]
    plain = export(biased, tmp_path / "plain").path
    calibrated = edgellm.export(biased, tmp_path / "calibrated").path

    before, after = (
        1 - worst_cosine(interpret(bundle).logits(IDS), expected) for bundle in (plain, calibrated)
    )

    # The absmax shrinks by about 40 / 3, the key's share of the error with it; half is left to the
    # error of everything else.
    assert after < before / 2


def test_the_offset_is_the_common_part_before_the_rotation(tmp_path: Path, biased: Path) -> None:
    found = offsets_of(edgellm.export(biased, tmp_path / "out").path)

    assert list(found) == [f"{path}.key_offset" for path in PATHS]
    # Pair 7 of 8 turns by 10000^(-7/8) = 3.2e-4 a position: by 0.02 over the context of 64.
    slowest = np.stack(list(found.values())).reshape(2, 2, 16)[:, :, [7, 15]] / 2**18
    np.testing.assert_allclose(slowest, -SHARED_BIAS, atol=3)
    # Pair 0 turns by 1 radian a position: ten times around, so its part averages to less than
    # 2 / 64 of what is there.
    fastest = np.stack(list(found.values())).reshape(2, 2, 16)[:, :, [0, 8]] / 2**18
    assert np.abs(fastest).max() < 0.2


def test_offsets_are_the_mean_that_floats_give(tmp_path: Path, biased: Path) -> None:
    """Turned back, averaged over the tokens, turned to all positions, averaged over these."""
    text = "abcdefghijklmnopqrstuvwxyz"
    turn = np.exp(1j * np.outer(np.arange(64), 10_000.0 ** (-np.arange(8) / 8)))
    wanted = {}

    def measure(bundle: Path) -> dict[str, np.ndarray]:
        plan = load_plan(open_bundle(bundle))
        ids = Tokenizer.from_file(str(bundle / "tokenizer.json")).encode(text).ids
        call = feeds(plan, ids, rows=[])
        values = Executor(open_bundle(bundle), plan).run(call, trace=True)
        for layer, path in enumerate(PATHS):
            keys = values[f"/model/layers.{layer}/self_attn/key/RotaryEmbedding"]
            pairs = keys.reshape(26, 2, 2, 8)[:, :, 0] + 1j * keys.reshape(26, 2, 2, 8)[:, :, 1]
            common = (pairs / turn[:26, None]).mean(axis=0) * turn.mean(axis=0)
            wanted[f"{path}.key_offset"] = -np.stack([common.real, common.imag], axis=1).ravel()
        return key_offsets(bundle, text)

    bundle = export(biased, tmp_path / "out", calibration=Calibration("given", measure))

    assert list(wanted) == [f"{path}.key_offset" for path in PATHS]
    for name, offset in offsets_of(bundle.path).items():
        # Codes are off by up to absmax / 254, here 45 / 254 = 0.18; turned, by sqrt(2) of that.
        np.testing.assert_allclose(offset, wanted[name], atol=0.26 * 2**18)


def test_any_offset_leaves_the_model_as_it_is(
    tmp_path: Path, write_checkpoint: Callable, interpret: Callable
) -> None:
    """Offsets of half the spread of the keys cost some precision of their codes, and no more."""
    checkpoint = write_checkpoint(tmp_path / "in", llama.TINY)
    generator = np.random.default_rng(2)
    offsets = {
        f"{path}.key_offset": generator.integers(-(2**17), 2**17, 32).astype(np.int32)
        for path in PATHS
    }
    logits = []
    for name, values in (("zero", {}), ("some", offsets)):
        calibration = Calibration("given", lambda _, values=values: values)
        bundle = export(checkpoint, tmp_path / name, calibration=calibration)
        assert bundle.manifest.calibration == "given"
        logits.append(interpret(bundle.path).logits(IDS))

    assert (logits[0] != logits[1]).any()
    # As in test_parity: int8 codes of the keys of two layers cost less than all that is quantised.
    assert worst_cosine(*logits) > 0.998


def test_the_same_text_gives_the_same_bytes(tmp_path: Path, biased: Path) -> None:
    one, two = (edgellm.export(biased, tmp_path / name).manifest for name in ("one", "two"))

    assert one == two
    assert one.calibration == "built-in"


def test_another_text_gives_other_offsets(tmp_path: Path, biased: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("aaa<|endoftext|>bbb")
    built_in = edgellm.export(biased, tmp_path / "built_in")
    own = edgellm.export(biased, tmp_path / "own", calibration=text)

    assert own.manifest.calibration == "text.txt"
    assert own.manifest.files["model.onnx"] != built_in.manifest.files["model.onnx"]
    assert own.manifest.files["weights.bin"] == built_in.manifest.files["weights.bin"]


def test_one_position_is_enough(tmp_path: Path, biased: Path) -> None:
    bundle = edgellm.export(biased, tmp_path / "out", context=1)

    assert all(offset.any() for offset in offsets_of(bundle.path).values())


def test_a_text_without_a_token_is_refused(tmp_path: Path, biased: Path) -> None:
    Tokenizer(models.BPE(vocab={"z": 0}, merges=[])).save(str(biased / "tokenizer.json"))
    text = tmp_path / "text.txt"
    text.write_text("abc")

    with pytest.raises(ConfigError, match="no token of this model"):
        edgellm.export(biased, tmp_path / "out", calibration=text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"type": "BPE", "vocab": {"a": 0}, "merges": ["x y"]}, "no usable tokenizer"),
        ({"type": "BPE", "vocab": {"a": 99_999}, "merges": []}, "has token id 99999"),
    ],
)
def test_a_tokenizer_of_no_use_is_named_where_it_lies(
    tmp_path: Path, biased: Path, model: dict[str, object], reason: str
) -> None:
    path = biased / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "model": model}))

    with pytest.raises(CheckpointError, match=f"{re.escape(str(path))}: {reason}"):
        edgellm.export(biased, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_random_weights_have_no_offsets(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(bitnet.TINY))
    bundle = api.export_random(tmp_path / "config.json", tmp_path / "out")

    assert bundle.manifest.calibration == ""
    assert "AddBias" not in {node.op_type for node in graph_of(bundle.path).node}
