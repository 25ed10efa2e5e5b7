"""Bundles of encoders: all executors, any batch and number of threads, give the same integers."""

import json
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm import api, ops, registry
from edgellm.bundle import Bundle, open_bundle
from edgellm.errors import ConfigError, ContextLengthError, PlanError
from edgellm.exporters import architectures
from edgellm.runtime import encoder_contract, encoder_engine
from edgellm.runtime import executors as executors_package
from edgellm.runtime.encoder_engine import EncoderEngine
from edgellm.runtime.encoder_golden import read_cases
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Step
from edgellm.runtime.plan_checks import check_step

NAMES = ("vit", "deit", "bert", "vit-ivit", "deit-ivit", "bert-ivit")
"""Architecture, and arithmetic if it is not the sound one."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A random encoder of each architecture and arithmetic, with golden cases."""
    folder = tmp_path_factory.mktemp("encoders")
    for name in NAMES:
        architecture, _, arithmetic = name.partition("-")
        config = folder / f"{name}.json"
        config.write_text(json.dumps(registry.load(architectures, architecture).TINY))
        api.export_random(config, folder / name, arithmetic=arithmetic or "sound")
    return {name: open_bundle(folder / name) for name in NAMES}


@pytest.fixture(params=NAMES)
def bundle(request: pytest.FixtureRequest, bundles: dict[str, Bundle]) -> Bundle:
    return bundles[request.param]


def batch(bundle: Bundle) -> list[np.ndarray]:
    """Five images, or sentences of different lengths."""
    facts = bundle.manifest
    rng = np.random.default_rng(4)
    if facts.task == encoder_contract.CLASSIFICATION:
        shape = (5, facts.image_height, facts.image_width, facts.num_channels)
        return list(rng.integers(0, 256, shape, np.uint8))
    return [rng.integers(0, 288, length) for length in (3, 48, 1, 20, 9)]


def run(engine: EncoderEngine, items: list[np.ndarray]) -> np.ndarray:
    if engine.manifest.task == encoder_contract.CLASSIFICATION:
        return engine.run_images(np.stack(items))
    return engine.run_texts(items)


@pytest.mark.parametrize("name", ["numba", "onnxruntime"])
def test_every_value_equals_the_reference(bundle: Bundle, name: str) -> None:
    plan = load_plan(bundle)
    (case,) = read_cases(bundle)
    modules = {key: registry.load(executors_package, key) for key in (name, "reference")}
    traces = {
        key: module.Executor(bundle, plan, threads=2).run(case.feeds, trace=True)
        for key, module in modules.items()
    }
    for step in plan.steps:  # in order, so that the first to differ is named
        for value in step.outputs:
            expected = traces["reference"][value]
            np.testing.assert_array_equal(traces[name][value], expected, value, strict=True)


@pytest.mark.parametrize("least_rows", [1, 1 << 30])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neither_batch_nor_threads_matter(
    bundle: Bundle, threads: int, least_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads share the work of this tiny model, too: rows, or columns."""
    monkeypatch.setattr(encoder_engine, "SHARED_WORK", 0)
    monkeypatch.setattr(encoder_engine, "LEAST_ROWS", least_rows)
    plan, items = load_plan(bundle), batch(bundle)
    results = []
    for chunk, count in ((None, 1), (1, threads), (4 * bundle.manifest.context_length, threads)):
        engine = EncoderEngine(plan, bundle.manifest, threads=count, chunk=chunk)
        results.append(run(engine, items))
        alone = [run(engine, [item])[0] for item in items]
        np.testing.assert_array_equal(results[-1], alone)
        engine.close()
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_verify_passes_on_every_executor(bundle: Bundle) -> None:
    report = edgellm.verify(bundle.path, threads=2)

    assert report.passed
    names = " ".join(check.name for check in report.checks)
    assert all(name in names for name in registry.names(executors_package))


def test_a_sentence_encoder_in_the_shape_of_minilm_verifies(sentence_bundle: Path) -> None:
    """Of its directory: 12 heads of 32, mean over a text, length 1, texts cut where it says."""
    report = edgellm.verify(sentence_bundle, threads=2)
    (case,) = read_cases(open_bundle(sentence_bundle))
    facts = open_bundle(sentence_bundle).manifest

    assert report.passed
    assert {"numba, case-0", "onnxruntime, case-0", "reference, case-0"} <= {
        check.name for check in report.checks
    }
    assert (facts.context_length, facts.logits_frame) == (24, 30)
    assert (facts.num_attention_heads, facts.head_dim) == (12, 32)
    assert list(np.diff(case.feeds["sequence_ends"], prepend=0)) == [24, 24, 7]
    lengths = np.linalg.norm(case.output * 2.0**-30, axis=1)
    # 384 values, each off by half a unit of the frame: 2^-31 * sqrt(384) and the scale's rounding
    np.testing.assert_allclose(lengths, 1, atol=1e-6)


def test_a_wrong_output_is_found(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first operator that differs is named."""
    from edgellm.ops import layer_norm_quantize
    from edgellm.runtime.executors import onnxruntime

    honest = onnxruntime.Executor.run

    def altered(self, feeds, *, trace=False):
        values = honest(self, feeds, trace=trace)
        return {name: array + 1 if array.dtype == np.int32 else array
                for name, array in values.items()}  # fmt: skip

    monkeypatch.setattr(onnxruntime.Executor, "run", altered)
    report = api.check(bundle.path, executors=["onnxruntime"])

    assert not report.passed
    assert "values differ" in report.first_failure
    assert layer_norm_quantize.SCHEMA.name not in report.first_failure.split("output")[0]


def test_bad_input_is_refused(bundles: dict[str, Bundle]) -> None:
    vision, text = (
        EncoderEngine(load_plan(bundles[name]), bundles[name].manifest, threads=1)
        for name in ("vit", "bert")
    )
    with pytest.raises(ConfigError, match="this model takes"):
        vision.run_images(np.zeros((1, 29, 28, 1), np.uint8))
    with pytest.raises(ConfigError, match="images of bytes"):
        vision.run_images(np.zeros((1, 28, 28, 1), np.float32))
    with pytest.raises(ConfigError, match="no token"):
        text.run_texts([np.array([1]), np.array([], np.int64)])
    with pytest.raises(ConfigError, match="allowed are 0 to 287"):
        text.run_texts([np.array([288])])
    with pytest.raises(ContextLengthError, match="has 49 tokens"):
        text.run_texts([np.zeros(49, np.int64)])


def test_load_opens_a_bundle_by_its_task(bundles: dict[str, Bundle]) -> None:
    with edgellm.load(bundles["vit"].path, task="image-classification", threads=1) as model:
        pixels = np.zeros((28, 28), np.uint8)
        ((first, second),) = model.classify(pixels, top=2)
        assert {first.label, second.label} <= {"zero", "one", "two", "three", "four"}
        assert first.score >= second.score
    with edgellm.load(bundles["bert"].path, task="sentence-embedding", threads=1) as encoder:
        vectors = encoder.embed(["a dog", "a cat runs", "a dog"])
        assert vectors.shape == (3, 64)
        np.testing.assert_array_equal(vectors[0], vectors[2])
        assert encoder.encode("x" * 100)[1]
        assert len(encoder.encode("x" * 100)[0]) == 48
        with pytest.raises(ConfigError, match="text 1 is empty"):
            encoder.embed(["a", "  "])
    with pytest.raises(ConfigError, match="is for sentence-embedding"):
        edgellm.load(bundles["bert"].path, task="image-classification")


@pytest.mark.parametrize(
    ("op_type", "change", "reason"),
    [
        ("EncoderAttention", {"heads": 7}, "whole heads"),
        ("SequenceQuantize", {"group": 11}, "whole groups"),
        ("SelectRows", {"row": 17}, "has 17 rows"),
    ],
)
def test_hostile_sizes_are_refused(
    bundles: dict[str, Bundle], op_type: str, change: dict[str, int], reason: str
) -> None:
    """What would lead a kernel out of its arrays."""
    plan = load_plan(bundles["vit"])
    step = next(step for step in plan.steps if step.op_type == op_type)
    wrong = Step(step.name, op_type, step.inputs, step.outputs, {**step.attributes, **change})
    operator = ops.find(op_type)
    sizes = operator.SCHEMA.bind([plan.values[name].shape for name in step.inputs])
    with pytest.raises(PlanError, match=reason):
        check_step(wrong, operator, sizes, bundles["vit"].manifest.context_length, {})


def test_rows_that_are_not_all_tokens_are_refused(bundles: dict[str, Bundle]) -> None:
    plan = load_plan(bundles["vit"])
    step = next(step for step in plan.steps if step.op_type == "EncoderAttention")
    sizes = {"T": "images*16", "M": 60, "B": "images"}
    with pytest.raises(PlanError, match="all those that sequence_ends counts"):
        check_step(step, ops.find(step.op_type), sizes, 17, {})


def test_a_damaged_case_is_no_crash(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    """Checked before anything runs: a case whose sequences end beyond its rows."""
    from edgellm.errors import BundleError
    from edgellm.runtime.session_file import read_arrays, write_arrays

    source = bundles["bert"]
    path = source.path / "golden" / "case-0.safetensors"
    kept = path.read_bytes()
    arrays, _ = read_arrays(path)
    try:
        write_arrays(path, {**arrays, "sequence_ends": arrays["sequence_ends"] + 1000}, {})
        with pytest.raises(BundleError, match="do not fit the model"):
            read_cases(source)
    finally:
        path.write_bytes(kept)
