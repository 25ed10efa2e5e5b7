import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgellm.bundle import open_bundle
from edgellm.errors import BundleError, EdgeLLMError, UnknownNameError
from edgellm.runtime.executors.reference import Executor
from edgellm.runtime.golden import feeds, read_cases
from edgellm.runtime.loader import load_plan
from edgellm.runtime.session_file import read_arrays, write_arrays
from edgellm.runtime.verify import check_bundle, first_difference

EXECUTORS = ("reference", "onnxruntime", "numba")


@pytest.fixture
def copy(random_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(random_bundle, tmp_path / "bundle"))


def seal(bundle: Path) -> None:
    """Make the manifest agree with the files, as one who tampers with a bundle would."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        content = (bundle / name).read_bytes()
        entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def packed_range(path: Path) -> slice:
    """Where the first packed ternary weight is in weights.bin."""
    plan = load_plan(open_bundle(path))
    name = next(step.inputs[1] for step in plan.steps if step.op_type == "BitLinear")
    packed = plan.constants[name].tobytes()
    begin = (path / "weights.bin").read_bytes().index(packed)
    return slice(begin, begin + len(packed))


def test_a_sound_bundle_passes_on_every_executor(random_bundle: Path) -> None:
    steps = []
    report = check_bundle(random_bundle, progress=steps.append)

    assert report.passed
    assert report.first_failure == ""
    names = {check.name for check in report.checks}
    assert {f"{name}, case-0" for name in EXECUTORS} <= names
    assert {"checksums", "ternary codes"} <= names
    assert len(steps) == 1 + 3 * len(read_cases(open_bundle(random_bundle)))


def test_bodies_that_onnxruntime_refuses_are_an_error_of_the_bundle(copy: Path) -> None:
    model = onnx.load(copy / "model.onnx", load_external_data=False)
    del model.functions[:]
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    seal(copy)

    with pytest.raises(BundleError, match=r"model\.onnx: onnxruntime refuses it: "):
        check_bundle(copy, executors=["onnxruntime"])


def fill_memory(model: onnx.ModelProto) -> None:
    shape = onnx.helper.make_node("Constant", [], ["shape"], value_ints=[1 << 40])
    zeros = onnx.helper.make_node("ConstantOfShape", ["shape"], ["zeros"])
    model.functions[0].node.extend([shape, zeros])


def call_another_function(model: onnx.ModelProto) -> None:
    model.functions[0].name = "Mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fill_memory, "the body of Attention is not the one of this edgellm, and is not run"),
        (call_another_function, "operator ai.edgellm.Mine is unknown"),
        (lambda model: model.training_info.add(), "holds sparse weights or training"),
        (lambda model: model.graph.sparse_initializer.add(), "holds sparse weights or training"),
    ],
)
def test_bodies_of_strangers_are_not_run(
    copy: Path, change: Callable[[onnx.ModelProto], object], message: str
) -> None:
    model = onnx.load(copy / "model.onnx", load_external_data=False)
    change(model)
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    seal(copy)

    with pytest.raises(EdgeLLMError, match=message):
        check_bundle(copy, executors=["onnxruntime"])


def test_a_changed_file_fails_its_checksum(copy: Path) -> None:
    content = bytearray((copy / "weights.bin").read_bytes())
    content[100] ^= 1
    (copy / "weights.bin").write_bytes(content)

    report = check_bundle(copy)

    assert not report.passed
    assert [check.name for check in report.checks] == ["checksums"]
    assert "weights.bin: sha256 is" in report.first_failure


def test_a_code_three_is_found(copy: Path) -> None:
    content = bytearray((copy / "weights.bin").read_bytes())
    content[packed_range(copy).start + 5] = 0b1100
    (copy / "weights.bin").write_bytes(content)
    seal(copy)

    report = check_bundle(copy, executors=["numba"])

    assert "byte 5 is 12, which no weights give in ternary-2bit/v1" in report.first_failure


def test_changed_weights_with_a_matching_manifest_fail_the_golden_cases(copy: Path) -> None:
    content = bytearray((copy / "weights.bin").read_bytes())
    where = packed_range(copy)
    content[where] = bytes(len(content[where]))  # every code 0: all weights -1
    (copy / "weights.bin").write_bytes(content)
    seal(copy)

    report = check_bundle(copy, executors=["numba"])

    assert "the reference itself differs from the export, first in /model/layers.0" in (
        report.first_failure
    )


def test_changed_golden_logits_fail(copy: Path) -> None:
    path = copy / "golden" / "case-0.safetensors"
    arrays, _ = read_arrays(path)
    arrays["logits"][-1, 3] += 1
    write_arrays(path, arrays, {})
    seal(copy)

    report = check_bundle(copy, executors=["reference"])

    assert not report.passed
    assert report.first_failure.startswith("reference, case-0:")


def test_a_changed_greedy_token_fails(copy: Path) -> None:
    path = copy / "golden" / "cases.json"
    content = json.loads(path.read_text())
    content["cases"][0]["greedy"][1] ^= 1
    path.write_text(json.dumps(content))
    seal(copy)

    report = check_bundle(copy, executors=["numba", "onnxruntime"])

    assert [check.passed for check in report.checks if check.name.endswith("case-0")] == [False] * 2


@pytest.mark.parametrize("name", ["cases.json", "case-0.safetensors"])
def test_golden_cases_that_are_vast_are_not_read(copy: Path, name: str) -> None:
    os.truncate(copy / "golden" / name, 1 << 40)  # a sparse file takes no room on the disk
    change_size(copy, f"golden/{name}", 1 << 40)

    with pytest.raises(BundleError, match=f"{name}: larger than"):
        read_cases(open_bundle(copy))


def change_size(bundle: Path, name: str, size: int) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name]["size"] = size
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_without_golden_cases_fails(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"] = {
        name: entry for name, entry in manifest["files"].items() if "golden" not in name
    }
    (copy / "manifest.json").write_text(json.dumps(manifest))

    assert "has none" in check_bundle(copy).first_failure


def test_an_unknown_executor_is_refused(random_bundle: Path) -> None:
    with pytest.raises(UnknownNameError, match="no 'cuda' in executors"):
        check_bundle(random_bundle, executors=["cuda"])


def test_the_first_differing_operator_is_named(random_bundle: Path) -> None:
    bundle = open_bundle(random_bundle)
    plan = load_plan(bundle)
    expected = Executor(bundle, plan).run(feeds(plan, [5, 6, 7], rows=[2]), trace=True)
    step = plan.steps[4]
    actual = {name: array.copy() for name, array in expected.items()}
    for later in plan.steps[4:8]:
        actual[later.outputs[0]].reshape(-1)[3] += 1

    sentence = first_difference(plan, expected, actual)

    assert first_difference(plan, expected, expected) == ""
    assert sentence.startswith(f"{step.name} ({step.op_type}), output {step.outputs[0]}: 1 of ")
    index = np.unravel_index(3, expected[step.outputs[0]].shape)
    assert f"at {tuple(map(int, index))}, is" in sentence


def edit(entry: dict, **changes: object) -> dict:
    return {key: value for key, value in (entry | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "../case-0"}, "has no listed file"),
        ({"name": None}, "has no listed file"),
        ({"prompt": []}, "empty or longer"),
        ({"prompt": [1] * 65}, "empty or longer"),
        ({"prompt": [1, 288]}, "prompt is no list of ids from 0 to 287"),
        ({"prompt": "abc"}, "prompt is no list"),
        ({"prompt": [1]}, "do not fit the case"),
        ({"greedy": [-1]}, "greedy is no list"),
        ({"layers": [1]}, "layers"),
    ],
)
def test_hostile_cases_are_refused(copy: Path, changes: dict, reason: str) -> None:
    path = copy / "golden" / "cases.json"
    content = json.loads(path.read_text())
    content["cases"][0] = edit(content["cases"][0], **changes)
    path.write_text(json.dumps(content))
    seal(copy)

    with pytest.raises(BundleError, match=reason):
        read_cases(open_bundle(copy))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other", "cases": []}'])
def test_a_file_that_is_no_list_of_cases_is_refused(copy: Path, text: str) -> None:
    (copy / "golden" / "cases.json").write_text(text)
    seal(copy)

    with pytest.raises(BundleError, match=r"cases\.json"):
        read_cases(open_bundle(copy))
