"""Vision and sentence encoders: the integer graph against the float32 model, on TINY configs."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from edgellm import ops, registry
from edgellm.bundle import open_bundle
from edgellm.errors import CheckpointError, ConfigError, UnsupportedModelError
from edgellm.exporters import architectures, tokenizer_files
from edgellm.exporters.encoder_build import DEFAULT_OPTIONS, EncoderOptions, export, float_model
from edgellm.exporters.encoder_calibration import Calibration
from edgellm.exporters.encoder_source import EncoderSource
from edgellm.exporters.lowering.encoder_interface import ImageEmbedding, PatchShape
from edgellm.exporters.lowering.encoder_inventory import EncoderInventory
from edgellm.exporters.lowering.patch_weights import PixelScale, fold_pixels
from edgellm.exporters.source import JsonFields, load_model
from edgellm.runtime.encoder_engine import text_feeds
from edgellm.runtime.executors.reference import Executor
from edgellm.runtime.float_parts import run_each
from edgellm.runtime.loader import load_plan

CONFIGS = {name: registry.load(architectures, name).TINY for name in ("vit", "deit", "bert")}
CONFIGS["vit_relu_bias"] = {**CONFIGS["vit"], "hidden_act": "relu", "qkv_bias": True}
CONFIGS["deit_plain"] = {**CONFIGS["deit"], "architectures": ["DeiTForImageClassification"]}
CONFIGS["bert_tanh"] = {**CONFIGS["bert"], "hidden_act": "gelu_new"}

MIN_COSINE = 0.995
"""As in test_parity: some 8 quantisations a layer, each 0.8 % of a row's RMS, over two layers."""

MIN_COSINE_IVIT = 0.97
"""Static scales that only few inputs were seen for, and ShiftGELU, off by 0.02 of about 0.5."""

each_config = pytest.mark.parametrize("name", CONFIGS)


def write(path: Path, config) -> Path:
    """A random checkpoint with what belongs to it."""
    inventory = EncoderInventory()
    load_model(JsonFields(config, "config.json")).build(inventory)
    rng = np.random.default_rng(0)
    tensors = {}
    for parameter in inventory.parameters:
        name, shape = parameter.name, parameter.shape
        wide = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        if name.endswith("bias"):
            wide = rng.uniform(-0.5, 0.5, shape)
        elif len(shape) == 1:
            wide = rng.uniform(0.5, 1.5, shape)
        tensors[name] = wide.astype(np.float32)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    if config["model_type"] == "bert":
        tokenizer_files.write_byte_tokenizer(path)
    else:
        sides = config["image_size"]
        height, width = sides if isinstance(sides, list) else (sides, sides)
        means = [0.3, 0.4, 0.5][: config["num_channels"]]
        processor = {"size": {"height": height, "width": width}, "image_mean": means,
                     "image_std": [0.2] * len(means)}  # fmt: skip
        (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return path


def some_pixels(plan) -> np.ndarray:
    shape = plan.values["pixel_values"].shape[1:]
    return np.random.default_rng(1).integers(0, 256, (3, *shape), np.uint8)


def ivit_options(range_choice: str = "mse") -> EncoderOptions:
    """I-ViT's arithmetic, calibrated on noise as the models here see it."""

    def read(model: EncoderSource) -> list[np.ndarray]:
        rng = np.random.default_rng(5)
        if model.processor is None:
            return [rng.integers(0, 288, length) for length in (1, 7, 20, 48)]
        config = model.model.config
        shape = (6, config.image_height, config.image_width, config.num_channels)
        return list(rng.integers(0, 256, shape, np.uint8))

    calibration = Calibration("noise", range_choice, read, run_each)
    return EncoderOptions(arithmetic="ivit", calibration=calibration)


def both(
    checkpoint: Path, folder: Path, options: EncoderOptions = DEFAULT_OPTIONS
) -> tuple[np.ndarray, np.ndarray]:
    """The output of the bundle and of the float model, for three images or sentences."""
    bundle = export(checkpoint, folder / "bundle", options)
    plan, facts = load_plan(bundle), bundle.manifest
    session = onnxruntime.InferenceSession(float_model(checkpoint, folder / "float"))
    executor = Executor(bundle, plan)
    if facts.task == "image-classification":
        pixels = some_pixels(plan)
        ends = np.arange(1, 4) * facts.context_length
        got = executor.run({"pixel_values": pixels, "sequence_ends": ends})["logits"]
        wanted = session.run(None, {"pixel_values": pixels})[0]
    else:
        texts = [np.random.default_rng(n).integers(0, 288, n) for n in (1, 7, 48)]
        got = executor.run(text_feeds(texts))["embeddings"]
        wanted = np.concatenate([session.run(None, {"input_ids": t[None]})[0] for t in texts])
    return got * 2.0**-facts.logits_frame, wanted


def cosines(got, wanted):
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
    return (got * wanted).sum(axis=1) / lengths


@each_config
def test_integers_give_the_output_of_the_float_model(name, tmp_path):
    got, wanted = both(write(tmp_path / "in", CONFIGS[name]), tmp_path)
    assert cosines(got, wanted).min() >= MIN_COSINE


@each_config
def test_ivit_gives_nearly_the_output_of_the_float_model(name, tmp_path):
    got, wanted = both(write(tmp_path / "in", CONFIGS[name]), tmp_path, ivit_options())
    assert cosines(got, wanted).min() >= MIN_COSINE_IVIT


@pytest.mark.parametrize("range_choice", ["minmax", "percentile"])
def test_each_choice_of_ranges_works(range_choice, tmp_path):
    checkpoint = write(tmp_path / "in", CONFIGS["vit"])
    got, wanted = both(checkpoint, tmp_path, ivit_options(range_choice))
    assert cosines(got, wanted).min() >= MIN_COSINE_IVIT


def test_a_norm_weight_of_zero_keeps_its_bias(tmp_path):
    """The published norm divides the bias by the weight: those channels take another way."""
    checkpoint = write(tmp_path / "in", CONFIGS["vit"])
    tensors = load_file(checkpoint / "model.safetensors")
    for name in ("layer.0.layernorm_before", "layer.1.layernorm_after"):
        tensors[f"vit.encoder.{name}.weight"][::3] = 0
        tensors[f"vit.encoder.{name}.weight"][1] = -1e-6
        tensors[f"vit.encoder.{name}.bias"][:] = 2
    save_file(tensors, checkpoint / "model.safetensors")

    got, wanted = both(checkpoint, tmp_path, ivit_options())

    assert cosines(got, wanted).min() >= MIN_COSINE_IVIT


def test_an_ivit_bundle_says_so_and_holds_its_scales(tmp_path):
    bundle = export(write(tmp_path / "in", CONFIGS["vit"]), tmp_path / "out", ivit_options())
    content = json.loads((bundle.path / "activation_scales.json").read_text())

    assert (bundle.manifest.arithmetic, bundle.manifest.calibration) == ("ivit", "noise")
    assert (content["calibration"], content["range"]) == ("noise", "mse")
    requantized = {
        step.outputs[0]
        for step in load_plan(bundle).steps
        if step.op_type.startswith("DyadicRequantize")
    }
    scores = [site for site in content["scales"] if site.endswith(".scores")]
    assert len(scores) == 2  # of each layer
    assert len(content["scales"]) == len(requantized) + len(scores)


def test_ivit_needs_a_calibration(tmp_path):
    with pytest.raises(ConfigError, match="needs inputs to calibrate on"):
        export(
            write(tmp_path / "in", CONFIGS["vit"]), tmp_path / "out",
            EncoderOptions(arithmetic="ivit"),
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [DEFAULT_OPTIONS, ivit_options()], ids=["sound", "ivit"])
@each_config
def test_the_graph_is_valid_and_holds_no_float(name, options, tmp_path):
    bundle = export(write(tmp_path / "in", CONFIGS[name]), tmp_path / "out", options)
    onnx.checker.check_model(str(bundle.graph_path), full_check=True)
    graph = onnx.load(str(bundle.graph_path), load_external_data=False).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.type.tensor_type.elem_type for value in values}
    types |= {weight.data_type for weight in graph.initializer}
    integers = ("INT8", "UINT8", "INT16", "INT32", "INT64")
    assert types <= {getattr(onnx.TensorProto, name) for name in integers}
    assert {node.domain for node in graph.node} == {ops.DOMAIN}
    assert open_bundle(bundle.path).manifest.arithmetic == options.arithmetic


def test_folded_pixels_are_the_convolution_of_normalised_ones():
    rng = np.random.default_rng(2)
    kernel, bias = rng.standard_normal((5, 3, 2, 4)), rng.standard_normal(5)

    class Weights:
        def tensor(self, _name, _shape):
            return kernel.astype(np.float32)

        def vector(self, _name, _size):
            return bias.astype(np.float32)

    tokens = ImageEmbedding("p", "q", (), PatchShape(1, 1, 2, 4, 3), 5)
    scale = PixelScale(1 / 255, (0.1, 0.5, 0.9), (0.2, 0.3, 0.4))
    weight, added = fold_pixels(Weights(), tokens, scale)
    pixels = rng.integers(0, 256, (2, 4, 3))
    normal = (pixels / 255 - np.array(scale.mean)) / np.array(scale.std)
    wanted = np.einsum("nchw,hwc->n", kernel, normal) + bias
    # float32 weights: 24 products of about 4, off by 2^-24 each
    assert np.abs(weight @ (pixels.ravel() - 128.0) + added - wanted).max() <= 1e-4


def test_sentence_modules_choose_pooling_and_length(tmp_path):
    checkpoint = write(tmp_path / "in", CONFIGS["bert"])
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": "1_Pooling"}
               for kind in kinds]  # fmt: skip
    (checkpoint / "modules.json").write_text(json.dumps(modules))
    (checkpoint / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    (checkpoint / "1_Pooling").mkdir()
    (checkpoint / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    bundle = export(checkpoint, tmp_path / "out")

    operators = [step.op_type for step in load_plan(bundle).steps]
    assert operators[-2:] == ["SelectRows", "L2Normalize"]
    assert (bundle.manifest.context_length, bundle.manifest.logits_frame) == (20, 30)


def test_a_pooler_that_is_not_used_is_told(tmp_path, caplog):
    checkpoint = write(tmp_path / "in", CONFIGS["bert"])
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["pooler.dense.weight"] = np.ones((64, 64), np.float32)
    tensors["pooler.dense.bias"] = np.ones(64, np.float32)
    save_file(tensors, checkpoint / "model.safetensors")

    export(checkpoint, tmp_path / "out")

    (record,) = caplog.records
    assert "pooler is not used: the vector of a text is the mean of all rows" in record.message


@pytest.mark.parametrize(
    ("name", "change", "error", "reason"),
    [
        ("vit", {"patch_size": 64}, CheckpointError, "no patch of 64 x 64 fits"),
        ("vit", {"hidden_act": "swish"}, UnsupportedModelError, "hidden_act 'swish'"),
        ("vit", {"id2label": {"1": "a"}}, CheckpointError, "id2label"),
        ("vit", {"image_size": [28, 28, 28]}, CheckpointError, "one or two integers"),
        ("vit", {"hidden_size": 40}, CheckpointError, "has shape"),
        ("bert", {"position_embedding_type": "relative_key"}, UnsupportedModelError, "relative"),
        ("bert", {"is_decoder": True}, UnsupportedModelError, "is_decoder"),
    ],
)
def test_what_cannot_be_exported_is_named(name, change, error, reason, tmp_path):
    checkpoint = write(tmp_path / "in", CONFIGS[name])
    config = {**CONFIGS[name], **change}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=reason):
        export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
