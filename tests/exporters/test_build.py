import json
import logging

import numpy as np
import onnx
import pytest

from edgellm.bundle import open_bundle
from edgellm.errors import CheckpointError, ConfigError, ExportError
from edgellm.exporters.architectures import bitnet, llama
from edgellm.exporters.build import export, export_random, float_model
from edgellm.exporters.export_options import ExportOptions


@pytest.fixture
def checkpoint(tmp_path, write_checkpoint):
    return write_checkpoint(tmp_path / "in" / "tiny", llama.TINY)


@pytest.fixture
def random_config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(bitnet.TINY))
    return path


def test_the_manifest_has_the_facts(tmp_path, checkpoint):
    config = {"bos_token_id": 1, "eos_token_id": [2, 3]}
    (checkpoint / "generation_config.json").write_text(json.dumps(config))
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\nHello\n")
    manifest = export(
        checkpoint, tmp_path / "out", ExportOptions(context=48, revision="r1")
    ).manifest

    assert (manifest.model_type, manifest.quantization) == ("llama", "int8 W8A8")
    assert (manifest.bos_token_id, manifest.eos_token_ids) == (1, (2, 3))
    assert (manifest.context_length, manifest.head_dim) == (48, 8)
    assert (manifest.source, manifest.revision, manifest.licence) == ("tiny", "r1", "mit")
    layer = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 172 + 2 * 64
    assert manifest.num_parameters == 288 * 64 + 2 * layer + 64
    assert 8 < manifest.bits_per_weight < 9
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: edgellm\n")
    assert 'license: mit\nbase_model: "tiny"\n' in card


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path, checkpoint):
    one, two = (export(checkpoint, tmp_path / name) for name in ("one", "two"))

    assert one.manifest == two.manifest


def test_graph_inputs_and_outputs_are_the_contract(tmp_path, checkpoint):
    bundle = export(checkpoint, tmp_path / "out")
    graph = onnx.load(str(bundle.graph_path), load_external_data=False).graph
    kinds = ("key", "key_absmax", "value", "value_absmax")

    assert [port.name for port in graph.input] == [
        "input_ids", "position_ids", "logit_rows",
        *(f"past_key_values.{layer}.{kind}" for layer in (0, 1) for kind in kinds),
    ]  # fmt: skip
    assert [port.name for port in graph.output] == [
        "logits", *(f"present.{layer}.{kind}" for layer in (0, 1) for kind in kinds),
    ]  # fmt: skip
    assert "/model/layers.0/self_attn/q_proj/Int8Linear" in {node.name for node in graph.node}


def test_a_tied_head_shares_the_table(tmp_path, checkpoint):
    bundle = export(checkpoint, tmp_path / "out")
    graph = onnx.load(str(bundle.graph_path), load_external_data=False).graph
    users = [node.op_type for node in graph.node if "model.embed_tokens.weight" in node.input]

    assert users == ["Embedding", "LogitsHead"]


def test_golden_cases_are_listed(tmp_path, checkpoint):
    def golden(path):
        assert open_bundle(path).manifest.model_type == "llama"
        (path / "golden").mkdir()
        (path / "golden" / "case.json").write_text("{}")

    assert "golden/case.json" in export(checkpoint, tmp_path / "out", golden=golden).manifest.files


def test_progress_ends_at_all_parameters(tmp_path, checkpoint):
    calls = []
    bundle = export(checkpoint, tmp_path / "out", progress=lambda *call: calls.append(call))
    total = bundle.manifest.num_parameters

    # the tied head uses the table again, which is no parameter more
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_an_existing_output_is_kept_without_force(tmp_path, checkpoint):
    first = export(checkpoint, tmp_path / "out")
    with pytest.raises(ExportError, match="--force"):
        export(checkpoint, tmp_path / "out", ExportOptions(context=32))
    assert open_bundle(tmp_path / "out").manifest == first.manifest

    forced = export(checkpoint, tmp_path / "out", ExportOptions(context=32, force=True))
    assert forced.manifest.context_length == 32


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ExportError])
def test_a_broken_export_leaves_nothing(tmp_path, checkpoint, failure):
    def stop(*_):
        raise failure

    with pytest.raises(failure):
        export(checkpoint, tmp_path / "out", golden=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_missing_tokenizer_says_how_to_get_one(tmp_path, checkpoint):
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing; make it with"):
        export(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_damaged_tokenizer_is_refused(tmp_path, checkpoint):
    (checkpoint / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not JSON"):
        export(checkpoint, tmp_path / "out")


def test_special_tokens_outside_the_vocabulary_are_left_out(tmp_path, write_checkpoint, caplog):
    config = {**llama.TINY, "eos_token_id": [2, 288]}
    with caplog.at_level(logging.WARNING):
        bundle = export(write_checkpoint(tmp_path / "in", config), tmp_path / "out")

    assert bundle.manifest.eos_token_ids == (2,)
    assert (
        "eos_token_id is [2, 288]; what is not below the 288 of the vocabulary is left out"
        in caplog.text
    )


@pytest.mark.parametrize("context", [0, -1, 65])
def test_a_context_beyond_the_model_is_refused(tmp_path, checkpoint, context):
    with pytest.raises(ConfigError, match=f"context is {context}; this model allows 1 to 64"):
        export(checkpoint, tmp_path / "out", ExportOptions(context=context))


def test_unknown_layouts_are_refused():
    with pytest.raises(ConfigError, match="layout 'x' is unknown"):
        ExportOptions(layout="x")


def test_random_bundles_follow_the_seed(tmp_path, random_config, interpret):
    bundles = [
        export_random(random_config, tmp_path / name, ExportOptions(seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    a, b, c = ((bundle.path / "weights.bin").read_bytes() for bundle in bundles)

    assert a == b
    assert a != c
    logits = interpret(bundles[0].path).logits(np.arange(10))
    assert 0.01 < logits.std() < 100


def test_a_random_vocabulary_holds_all_bytes(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**bitnet.TINY, "vocab_size": 255}))
    with pytest.raises(CheckpointError, match="random weights need 256 or more"):
        export_random(tmp_path / "config.json", tmp_path / "out")


def test_the_float_model_passes_the_checker(tmp_path, checkpoint):
    onnx.checker.check_model(str(float_model(checkpoint, tmp_path / "float")), full_check=True)
