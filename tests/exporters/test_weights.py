"""What a checkpoint may not hold: each fault names the tensor, and no bundle is made."""

import logging

import numpy as np
import pytest

from edgellm.errors import CheckpointError, UnsupportedModelError
from edgellm.exporters.architectures import bitnet, llama
from edgellm.exporters.build import export
from edgellm.exporters.checkpoint import Checkpoint
from edgellm.exporters.source import from_checkpoint

DOWN = "model.layers.1.mlp.down_proj.weight"
UP = "model.layers.1.mlp.up_proj.weight"


def without(name):
    return lambda tensors: tensors.pop(name)


def with_value(name, change):
    def apply(tensors):
        tensors[name] = change(tensors[name])

    return apply


def poke(value):
    def change(tensor):
        tensor = tensor.copy()
        tensor[-1, -1] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("config", "damage", "message"),
    [
        (llama.TINY, without(DOWN), f"tensor {DOWN} is missing"),
        (llama.TINY, with_value(DOWN, lambda t: t[:, :-1].copy()), r"has shape \(64, 171\)"),
        (llama.TINY, with_value(DOWN, poke(np.nan)), f"{DOWN} holds NaN"),
        (llama.TINY, with_value(DOWN, np.zeros_like), f"{DOWN}: all weights are 0"),
        (llama.TINY, with_value(DOWN, lambda t: t.astype(np.int8)), f"{DOWN} is I8; supported"),
        (llama.TINY, with_value("model.norm.weight", lambda t: t[:5].copy()), r"shape \(5,\)"),
        (bitnet.TINY, without(UP + "_scale"), f"{UP}_scale is missing"),
        (bitnet.TINY, with_value(UP + "_scale", np.zeros_like), r"is 0\.0; a scale is greater"),
        (bitnet.TINY, with_value(UP, poke(0xFF)), "is 3; allowed are 0, 1 and 2"),
        (bitnet.TINY, with_value(UP, lambda t: t * 0 + 0x55), f"{UP}: all weights are 0"),
        (bitnet.TINY, with_value(UP, lambda t: t[1:].copy()), r"has shape \(42, 64\)"),
    ],
)
def test_damaged_weights_are_refused(
    tmp_path, write_checkpoint, tensors_of, config, damage, message
):
    tensors = tensors_of(config)
    damage(tensors)
    checkpoint = write_checkpoint(tmp_path / "in", config, tensors)

    with pytest.raises(CheckpointError, match=message):
        export(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_unknown_tensors_are_a_warning(tmp_path, write_checkpoint, tensors_of, caplog):
    extra = {"model.extra": np.ones(3, np.float32), "lm_head.weight": np.ones(3, np.float32)}
    inv_freq = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)}
    tensors = {**tensors_of(llama.TINY), **extra, **inv_freq}
    checkpoint = write_checkpoint(tmp_path, llama.TINY, tensors)
    with caplog.at_level(logging.WARNING):
        from_checkpoint(Checkpoint(checkpoint))

    assert [record.getMessage() for record in caplog.records] == [
        "1 tensors are not used, among them model.extra"
    ]


def test_a_master_is_ternarised_by_its_mean(tmp_path, write_checkpoint, tensors_of):
    """Codes times a scale, written as floats, come back as those codes and the mean of |W|."""
    quantization = {**bitnet.TINY["quantization_config"], "quantization_mode": "online"}
    config = {**bitnet.TINY, "quantization_config": quantization}
    rng = np.random.default_rng(0)
    tensors = {n: t for n, t in tensors_of(config).items() if not n.endswith("_scale")}
    for name, tensor in tensors.items():
        if tensor.dtype == np.uint8:
            shape = (4 * tensor.shape[0], tensor.shape[1])
            tensors[name] = rng.integers(-1, 2, shape).astype(np.float32) * np.float32(0.25)
    checkpoint = write_checkpoint(tmp_path, config, tensors)
    matrix = from_checkpoint(Checkpoint(checkpoint)).weights.linear(
        UP.removesuffix(".weight"), (172, 64)
    )

    codes = np.concatenate(list(matrix.blocks()))
    assert (codes == tensors[UP] * 4).all()
    assert matrix.scale == pytest.approx(np.abs(tensors[UP]).mean(), rel=1e-6)


def test_modules_not_to_convert_stay_float(tmp_path, write_checkpoint, tensors_of):
    quantization = {**bitnet.TINY["quantization_config"], "modules_to_not_convert": ["up_proj"]}
    config = {**bitnet.TINY, "quantization_config": quantization}
    tensors = tensors_of(config)
    for layer in (0, 1):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        del tensors[name + "_scale"]
        tensors[name] = np.ones((172, 64), np.float32)
    checkpoint = write_checkpoint(tmp_path / "in", config, tensors)

    with pytest.raises(UnsupportedModelError, match="'relu2' needs ternary linears"):
        export(checkpoint, tmp_path / "out")


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "gptq"}, "quant_method 'gptq' is not supported"),
        ({"quant_method": "bitnet", "use_rms_norm": True}, "use_rms_norm true"),
        ({"quant_method": "bitnet", "linear_class": "other"}, "linear_class 'other'"),
        ({"quant_method": "bitnet", "quantization_mode": "later"}, "quantization_mode 'later'"),
    ],
)
def test_other_quantisations_are_named(tmp_path, write_checkpoint, quantization, message):
    checkpoint = write_checkpoint(tmp_path, llama.TINY)
    config = {**llama.TINY, "quantization_config": quantization}
    write_checkpoint(tmp_path, config, {"a": np.zeros(1, np.float32)})

    with pytest.raises(UnsupportedModelError, match=message):
        from_checkpoint(Checkpoint(checkpoint))
