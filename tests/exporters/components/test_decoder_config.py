from dataclasses import fields

import pytest

from edgellm.config import JsonFields
from edgellm.errors import CheckpointError, UnsupportedModelError
from edgellm.exporters.architectures import bitnet, llama, mistral, qwen2, qwen3
from edgellm.exporters.components.decoder_config import DecoderConfig
from edgellm.exporters.source import load_architecture


def read(module, **changes) -> DecoderConfig:
    values = {
        name: value for name, value in {**module.TINY, **changes}.items() if value != "absent"
    }
    return module.Config.read(JsonFields(values, "config.json"))


def test_the_shared_part_stays_small():
    assert len(fields(DecoderConfig)) <= 15


@pytest.mark.parametrize(
    ("module", "changes", "windows"),
    [
        (llama, {"sliding_window": 8}, (0, 0)),
        (mistral, {}, (8, 8)),
        (mistral, {"sliding_window": None}, (0, 0)),
        (mistral, {"sliding_window": "absent"}, (4096, 4096)),
        (qwen2, {}, (0, 8)),
        (qwen2, {"use_sliding_window": False}, (0, 0)),
        (qwen3, {"sliding_window": 8}, (0, 0)),
        (
            qwen3,
            {
                "use_sliding_window": True,
                "sliding_window": 9,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (9, 0),
        ),
    ],
)
def test_windows_are_those_of_transformers(module, changes, windows):
    assert read(module, **changes).windows == windows


def test_defaults_are_those_of_transformers():
    assert read(qwen3, head_dim="absent").head_dim == 128
    assert read(llama).head_dim == 8
    assert read(bitnet).hidden_act == "relu2"
    assert read(bitnet).rope.rope_theta == 500_000.0
    assert read(mistral).rms_norm_eps == 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0; allowed are integers from 1"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"vocab_size": "absent"}, "vocab_size is missing"),
        ({"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
        ({"head_dim": 7}, "head_dim is 7; allowed are even numbers"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny'"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": "linear"}, "an object is needed"),
    ],
)
def test_wrong_fields_are_named(changes, message):
    with pytest.raises(CheckpointError, match=message):
        read(llama, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; allowed are silu, relu2"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope type 'yarn'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "per layer type"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"attention_bias": True}, "attention_bias true"),
        ({"mlp_bias": True}, "mlp_bias true"),
        ({"num_experts": 8}, "num_experts 8"),
    ],
)
def test_unsupported_features_are_named(changes, message):
    with pytest.raises(UnsupportedModelError, match=message):
        read(llama, **changes)


def test_an_unknown_layer_type_is_named():
    with pytest.raises(UnsupportedModelError, match="layer type 'linear_attention'"):
        read(qwen2, layer_types=["full_attention", "linear_attention"])


def test_an_unknown_model_type_lists_the_nearest():
    config = JsonFields({"model_type": "lama"}, "config.json")
    with pytest.raises(UnsupportedModelError, match=r"supported; nearest: llama; known are bert, "):
        load_architecture(config)
    config = JsonFields({"model_type": "gpt2"}, "config.json")
    with pytest.raises(UnsupportedModelError, match=r"'gpt2' is not supported; known are bert, "):
        load_architecture(config)
