"""MatMul-free models against a second implementation, written from the paper's repository."""

import numpy as np
import onnxruntime
import pytest

from edgellm.config import JsonFields
from edgellm.errors import CheckpointError, UnsupportedModelError
from edgellm.exporters.architectures.hgrn_bit import TINY
from edgellm.exporters.build import export, float_model
from edgellm.exporters.lowering.interface import Recurrence
from edgellm.exporters.source import load_architecture

IDS = np.random.default_rng(2).integers(0, 288, 40)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rms_norm(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight


def bit_linear(tensors, path, x):
    """FusedBitLinear: a norm, fake-quantised activations and weights."""
    x = rms_norm(x, tensors[f"{path}.norm.weight"])
    scale = 127 / np.maximum(np.abs(x).max(-1, keepdims=True), 1e-5)
    x = np.clip(np.rint(x * scale), -128, 127) / scale
    weight = tensors[f"{path}.weight"]
    step = max(np.abs(weight).mean(), 1e-5)
    return x @ (np.clip(np.rint(weight / step), -1, 1) * step).T


def mix(tensors, path, x, lower_bound):
    """HGRNBitAttention."""
    f = sigmoid(bit_linear(tensors, f"{path}.f_proj", x))
    f = lower_bound + (1 - lower_bound) * f
    i = bit_linear(tensors, f"{path}.i_proj", x)
    i = i * sigmoid(i) * (1 - f)
    states = np.zeros_like(i)
    state = np.zeros(i.shape[1])
    for t in range(len(x)):
        state = f[t] * state + i[t]
        states[t] = state
    g = rms_norm(bit_linear(tensors, f"{path}.g_proj", x), tensors[f"{path}.g_norm.weight"])
    return bit_linear(tensors, f"{path}.o_proj", g * states * sigmoid(states))


def logits(tensors, ids):
    """HGRNBitForCausalLM in float64."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    powers = np.exp(tensors["model.lower_bounds"])
    shares = powers / powers.sum(0)
    bounds = np.cumsum(shares, 0) - shares[0]
    x = tensors["model.embeddings.weight"][ids]
    for layer in range(TINY["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        h = rms_norm(x, tensors[f"{path}.attn_norm.weight"])
        x = x + mix(tensors, f"{path}.attn", h, bounds[layer])
        h = rms_norm(x, tensors[f"{path}.mlp_norm.weight"])
        gate, up = np.split(bit_linear(tensors, f"{path}.mlp.gate_proj", h), 2, axis=1)
        x = x + bit_linear(tensors, f"{path}.mlp.down_proj", gate * sigmoid(gate) * up)
    return bit_linear(tensors, "lm_head", rms_norm(x, tensors["model.norm.weight"]))


@pytest.fixture
def tensors(tensors_of):
    """Random weights with lower bounds that differ from layer to layer and channel to channel."""
    found = tensors_of(TINY)
    shape = found["model.lower_bounds"].shape
    found["model.lower_bounds"] = np.random.default_rng(5).normal(0, 1, shape).astype(np.float32)
    # Rows that int8 holds exactly: what is left to differ is the arithmetic.
    table = found["model.embeddings.weight"]
    step = np.abs(table).max(axis=1, keepdims=True) / 127
    found["model.embeddings.weight"] = np.rint(table / step) * step
    return found


def relative_error(found, expected):
    return np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)


def test_the_float_model_is_the_second_implementation(tmp_path, write_checkpoint, tensors):
    """Float32 against float64: where an activation lies on a half, its code turns over, which is
    1/127 of the peak of one of 64 columns: 3.5 / 127 / 8 = 0.34 % of the norm of the row, and each
    of the 13 quantisations of a token may have one such: 0.34 % * sqrt(13) = 1.2 %."""
    checkpoint = write_checkpoint(tmp_path / "in", TINY, tensors)
    session = onnxruntime.InferenceSession(float_model(checkpoint, tmp_path / "float"))
    found = session.run(None, {"input_ids": IDS})[0]

    errors = relative_error(found, logits(tensors, IDS))
    assert errors.max() <= 0.012
    assert np.median(errors) <= 1e-4  # most tokens have none


def test_the_integers_are_near_the_second_implementation(
    tmp_path, write_checkpoint, interpret, tensors
):
    """A sigmoid that is off by up to 0.15 % (test_silu_gate) lets a few codes turn over; from there
    on the roundings of the two differ. One quantisation adds 0.8 % of noise at a peak of 3.5 RMS
    (test_parity): the 13 of a token 0.8 % * sqrt(13) = 2.9 %, and twice that for the worst."""
    bundle = export(write_checkpoint(tmp_path / "in", TINY, tensors), tmp_path / "out")

    errors = relative_error(interpret(bundle.path).logits(IDS), logits(tensors, IDS))
    assert errors.max() <= 0.058
    assert np.median(errors) <= 0.029
    assert errors.min() <= 1e-3  # a token none of whose codes turned over


def test_lower_bounds_rise_from_zero_with_the_layer():
    """The shares of the softmax over the layers add up, less that of the first."""
    parameter = np.random.default_rng(5).normal(0, 1, (3, 8)).astype(np.float32)
    shares = np.exp(parameter.astype(np.float64))
    bounds = np.cumsum(shares / shares.sum(0), 0) - (shares / shares.sum(0))[0]
    for layer in range(3):
        found = 1 - Recurrence(layer, 3, 8, "bounds").complement(parameter)
        np.testing.assert_allclose(found, bounds[layer], atol=1e-15)  # a sum of three float64


def test_the_real_sizes_are_those_of_the_370m_checkpoint():
    """Its config.json has no intermediate_size: 2/3 of 4 * 1024 in steps of 256 is 2816."""
    config = {"model_type": "hgrn_bit", "vocab_size": 32000, "hidden_size": 1024}
    config = {**config, "num_hidden_layers": 24, "num_heads": 1, "hidden_ratio": 4}
    sizes = load_architecture(JsonFields(config, "config.json")).config

    assert (sizes.intermediate_size, sizes.state_size) == (2816, 1024)
    assert sizes.max_position_embeddings == 2048


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"use_short_conv": True}, UnsupportedModelError),
        ({"tie_word_embeddings": True}, UnsupportedModelError),
        ({"hidden_act": "gelu"}, UnsupportedModelError),
        ({"num_heads": 3}, CheckpointError),
        ({"expand_ratio": 0}, CheckpointError),
    ],
)
def test_what_is_not_supported_is_refused(change, error):
    with pytest.raises(error, match=next(iter(change))):
        load_architecture(JsonFields({**TINY, **change}, "config.json"))
