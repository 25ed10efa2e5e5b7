"""Every architecture file: the integer graph against the float32 model, on its TINY config."""

import numpy as np
import onnx
import onnxruntime
import pytest

from edgellm import ops, registry
from edgellm.exporters import architectures
from edgellm.exporters.build import export, float_model
from edgellm.exporters.components.language_model import LanguageModel

MODULES = {name: registry.load(architectures, name) for name in registry.names(architectures)}
CONFIGS = {name: m.TINY for name, m in MODULES.items() if issubclass(m.Model, LanguageModel)}
TERNARY = {"quant_method": "bitnet", "linear_class": "bitlinear"}
CONFIGS["llama_ternary"] = {**CONFIGS["llama"], "quantization_config": TERNARY}
CONFIGS["qwen2_ternary"] = {**CONFIGS["qwen2"], "quantization_config": TERNARY}

IDS = np.random.default_rng(1).integers(0, 288, 24)

MIN_COSINE = 0.995
"""Each of about 8 quantisations of a layer adds noise of 1/127 of a row's peak, uniform: 0.8 % of
its RMS at a peak of 3.5. Over two layers that is 0.8 % * sqrt(16) = 3.2 %, at most twice that where
relu2 cubes it: a cosine of 1 - 0.064^2 / 2 = 0.998. A swapped norm or gate gives below 0.9."""

each_config = pytest.mark.parametrize("name", CONFIGS)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def float_logits(checkpoint, directory) -> np.ndarray:
    session = onnxruntime.InferenceSession(float_model(checkpoint, directory))
    return session.run(None, {"input_ids": IDS})[0]


@each_config
def test_integers_give_the_logits_of_the_float_model(name, tmp_path, write_checkpoint, interpret):
    checkpoint = write_checkpoint(tmp_path / "in", CONFIGS[name])
    expected = float_logits(checkpoint, tmp_path / "float")
    bundle = export(checkpoint, tmp_path / "out")

    assert cosine(interpret(bundle.path).logits(IDS), expected).min() >= MIN_COSINE


@each_config
def test_the_graph_is_valid_and_holds_no_float(name, tmp_path, write_checkpoint):
    bundle = export(write_checkpoint(tmp_path / "in", CONFIGS[name]), tmp_path / "out")
    onnx.checker.check_model(str(bundle.graph_path), full_check=True)
    graph = onnx.load(str(bundle.graph_path), load_external_data=False).graph

    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.type.tensor_type.elem_type for value in values}
    types |= {weight.data_type for weight in graph.initializer}
    integers = ("INT8", "UINT8", "INT16", "INT32", "INT64")
    assert types <= {getattr(onnx.TensorProto, name) for name in integers}
    named = {value.name for value in values} | {weight.name for weight in graph.initializer}
    assert {name for node in graph.node for name in [*node.input, *node.output]} <= named
    assert {node.domain for node in graph.node} == {ops.DOMAIN}


@each_config
def test_large_weights_are_external_and_aligned(name, tmp_path, write_checkpoint):
    bundle = export(write_checkpoint(tmp_path / "in", CONFIGS[name]), tmp_path / "out")
    graph = onnx.load(str(bundle.graph_path), load_external_data=False).graph

    for weight in graph.initializer:
        places = {item.key: item.value for item in weight.external_data}
        if places:
            assert places["location"] == "weights.bin"
            assert int(places["offset"]) % 64 == 0
        else:
            assert len(weight.raw_data) < 1024


def test_the_window_hides_what_is_older(tmp_path, write_checkpoint):
    """Mistral's TINY sees 8 positions a layer: the last of 24 cannot depend on the first."""
    model = float_model(write_checkpoint(tmp_path / "in", CONFIGS["mistral"]), tmp_path / "float")
    session = onnxruntime.InferenceSession(model)
    changed = IDS.copy()
    changed[0] = (IDS[0] + 1) % 288
    first, second = (session.run(None, {"input_ids": ids})[0] for ids in (IDS, changed))

    assert (first[15:] == second[15:]).all()
    assert (first[0] != second[0]).any()


def test_a_bitlinear_scale_divides(tmp_path, write_checkpoint, tensors_of):
    """The same codes with scale 8 (bitlinear) and 1/8 (autobitlinear) are the same model."""
    logits = []
    for kind in ("bitlinear", "autobitlinear"):
        quantization = {"quant_method": "bitnet", "linear_class": kind}
        config = {**CONFIGS["bitnet"], "quantization_config": quantization}
        scale = tensors_of(config)["model.layers.0.mlp.up_proj.weight_scale"]
        assert scale == (8 if kind == "bitlinear" else 0.125)
        checkpoint = write_checkpoint(tmp_path / kind, config)
        logits.append(float_logits(checkpoint, tmp_path / f"{kind}-float"))

    assert (logits[0] == logits[1]).all()
