import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import edgellm
from edgellm import api
from edgellm.config import JsonFields
from edgellm.errors import ConfigError, UnsupportedModelError, VerificationError
from edgellm.exporters import tokenizer_files
from edgellm.exporters.architectures import llama
from edgellm.exporters.lowering.inventory import Inventory
from edgellm.exporters.source import load_architecture

TEXT = "Once upon a time<|endoftext|>there was a fox"


@pytest.fixture(scope="module")
def uniform_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with one embedding for all tokens: every token has the same logit."""
    folder = tmp_path_factory.mktemp("uniform")
    (folder / "config.json").write_text(json.dumps(llama.TINY))
    tokenizer_files.write_byte_tokenizer(folder)
    inventory = Inventory()
    load_architecture(JsonFields.read(folder / "config.json")).build(inventory)
    generator = np.random.default_rng(0)
    tensors = {
        parameter.name: generator.normal(0, 0.1, parameter.shape).astype(np.float32)
        for parameter in inventory.parameters
    }
    table = tensors["model.embed_tokens.weight"]
    table[:] = table[0]
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_bundle_and_checkpoint_are_scored_on_the_same_tokens(
    uniform_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    calls = []
    bundle = edgellm.export(
        uniform_checkpoint, tmp_path / "bundle", progress=lambda *call: calls.append(call)
    )
    options = api.EvaluateOptions(threads=1, context=12)
    float_options = api.EvaluateOptions(threads=1, context=12, float_checkpoint=True)

    integer = edgellm.evaluate(bundle.path, tmp_path / "text.txt", options=options)
    real = edgellm.evaluate(uniform_checkpoint, tmp_path / "text.txt", options=float_options)

    assert calls[-1][0] == calls[-1][1] == bundle.manifest.num_parameters
    assert bundle.manifest.source == uniform_checkpoint.name
    assert (integer.tokens, integer.bytes) == (real.tokens, real.bytes) == (22, 22)
    # log of the vocabulary's size. The integers are equal, so only float64 sums round; float32
    # matrix products may round each logit differently, by 2^-24 of sums of 64 terms below 10.
    assert integer.nats_per_token == pytest.approx(math.log(288), rel=1e-12)
    assert real.nats_per_token == pytest.approx(math.log(288), abs=64 * 10 * 2**-24)


def test_a_float_context_beyond_the_model_is_refused(
    uniform_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    options = api.EvaluateOptions(float_checkpoint=True, context=65)

    with pytest.raises(ConfigError, match="context is 65; this checkpoint allows up to 64"):
        edgellm.evaluate(uniform_checkpoint, tmp_path / "text.txt", options=options)


def test_verify_returns_a_report(random_bundle: Path) -> None:
    report = edgellm.verify(random_bundle, executors=["numba"], threads=1)

    assert report.passed


def test_verify_raises_what_differs(random_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(random_bundle, tmp_path / "bundle"))
    text = (bundle / "README.md").read_text()
    (bundle / "README.md").write_text(text[:-1] + "!")

    with pytest.raises(VerificationError, match=r"README\.md: sha256 is") as caught:
        edgellm.verify(bundle, threads=1)
    assert caught.value.exit_code == 4


def test_load_is_a_context_manager(random_bundle: Path) -> None:
    with edgellm.load(random_bundle, threads=1) as model:
        assert isinstance(model, edgellm.Model)
        assert model.info.model_type == "bitnet"
    with pytest.raises(ConfigError, match="closed"):
        model.generate("a")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        edgellm.nonsense  # noqa: B018
    assert set(edgellm.__all__) < set(dir(edgellm))


def test_an_unsupported_model_is_refused_before_its_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "vocab_size": 9}))
    (tmp_path / "tokenizer.json").write_text("no JSON")

    with pytest.raises(UnsupportedModelError, match="'gpt2' is not supported"):
        edgellm.export(tmp_path, tmp_path / "bundle")
