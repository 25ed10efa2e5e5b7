"""Export with fewer bits: every executor agrees, an interrupted run goes on, bad options fail."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgellm import api
from edgellm.bundle import open_bundle
from edgellm.errors import ConfigError, ExportError
from edgellm.exporters import low_bit_export
from edgellm.exporters.architectures import bitnet, llama
from edgellm.exporters.low_bit_export import WORK_SUFFIX
from edgellm.exporters.quantized_results import Results
from edgellm.exporters.quantizers import row_classes
from edgellm.exporters.quantizers.low_bit import LowBitLinear, Scheme
from edgellm.exporters.quantizers.row_classes import JoinedLinear
from edgellm.runtime.loader import load_plan

TEXT = "The quick brown fox jumps over the lazy dog. " * 20
QUANTIZATIONS = [
    api.Quantization(name="shiftadd", bits=2, group_size=16),
    api.Quantization(name="w3a8", group_size=0),
    api.Quantization(name="codebook", bits=3, group_size=64, outliers=0.01),
    api.Quantization(name="trellis", bits=2.5),
]
ONE_LAYER = llama.TINY | {"num_hidden_layers": 1}
"""Enough where it does not matter what one layer makes of another's errors."""


@pytest.fixture
def checkpoint(tmp_path: Path, write_checkpoint: Callable[..., Path]) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", llama.TINY)


@pytest.fixture
def one_layer(tmp_path: Path, write_checkpoint: Callable[..., Path]) -> Path:
    return write_checkpoint(tmp_path / "one-layer", ONE_LAYER)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=lambda one: one.name)
def test_executors_agree_on_a_low_bit_bundle(
    tmp_path: Path, one_layer: Path, text: Path, quantization: api.Quantization
) -> None:
    bundle = api.export(one_layer, tmp_path / "out", calibration=text, quantization=quantization)

    assert api.verify(bundle.path).passed
    assert bundle.manifest.bits_per_weight < 16
    assert not (tmp_path / f"out{WORK_SUFFIX}").exists()


def test_an_interrupted_export_goes_on(
    tmp_path: Path, checkpoint: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized: list[tuple[int, ...]] = []
    whole = low_bit_export.low_bit.quantize

    def counted(weight: np.ndarray, *others: object) -> LowBitLinear:
        if len(quantized) == 5:
            raise KeyboardInterrupt
        quantized.append(weight.shape)
        return whole(weight, *others)

    monkeypatch.setattr(low_bit_export.low_bit, "quantize", counted)
    with pytest.raises(KeyboardInterrupt):
        api.export(checkpoint, tmp_path / "out", calibration=text, quantization=QUANTIZATIONS[1])
    monkeypatch.setattr(low_bit_export.low_bit, "quantize", whole)
    kept = sorted(path.name for path in (tmp_path / f"out{WORK_SUFFIX}").glob("*.npz"))
    resumed = api.export(
        checkpoint, tmp_path / "out", calibration=text, quantization=QUANTIZATIONS[1]
    )
    fresh = api.export(
        checkpoint, tmp_path / "fresh", calibration=text, quantization=QUANTIZATIONS[1]
    )

    assert len(kept) == 5
    weights = [open_bundle(bundle.path).weights_path.read_bytes() for bundle in (resumed, fresh)]
    assert weights[0] == weights[1]


def test_results_of_something_else_are_dropped(tmp_path: Path) -> None:
    linear = LowBitLinear(
        "GroupLinear", {"planes": np.zeros(3, np.uint8)}, {"shift": 2}, np.ones(2)
    )
    Results(tmp_path / "work", "a").save("one", linear)

    stored = Results(tmp_path / "work", "a").load("one")

    assert isinstance(stored, LowBitLinear)
    assert (stored.op_type, dict(stored.attributes)) == ("GroupLinear", {"shift": 2})
    assert Results(tmp_path / "work", "b").load("one") is None


def test_classes_of_rows_are_stored(tmp_path: Path) -> None:
    first, second = (
        LowBitLinear(op_type, {"planes": np.full(3, rows, np.uint8)}, {"shift": 2}, np.ones(rows))
        for op_type, rows in (("GroupLinear", 2), ("ShiftAddLinear", 1))
    )
    classes = np.array([0, 1, 0], np.uint8)
    recipe = row_classes.join(
        [Scheme("group", 2, 0), Scheme("shiftadd", 1, 8), Scheme("group", 2, 0)]
    )
    results = Results(tmp_path / "work", "a")
    results.save("one", JoinedLinear((first, second), classes))
    results.save_recipes({"one": recipe, "two": Scheme("group", 3, 64)})

    stored = results.load("one")

    assert isinstance(stored, JoinedLinear)
    assert stored.classes.tolist() == classes.tolist()
    assert [part.op_type for part in stored.parts] == ["GroupLinear", "ShiftAddLinear"]
    assert [part.tensors["planes"].tolist() for part in stored.parts] == [[2] * 3, [1] * 3]
    assert results.recipes() == {"one": recipe, "two": Scheme("group", 3, 64)}


@pytest.mark.parametrize("quantization", [None, QUANTIZATIONS[1]], ids=["int8", "w3a8"])
def test_a_folder_of_the_user_is_left_alone(
    tmp_path: Path, one_layer: Path, text: Path, quantization: api.Quantization | None
) -> None:
    own = tmp_path / f"out{WORK_SUFFIX}" / "letter.txt"
    own.parent.mkdir()
    own.write_text("mine")

    if quantization is None:
        api.export(one_layer, tmp_path / "out", calibration=text)
    else:
        with pytest.raises(ExportError, match="was not made by an export"):
            api.export(one_layer, tmp_path / "out", calibration=text, quantization=quantization)

    assert own.read_text() == "mine"


def test_a_ternary_checkpoint_is_refused(
    tmp_path: Path, write_checkpoint: Callable[..., Path], text: Path
) -> None:
    ternary = write_checkpoint(tmp_path / "ternary", bitnet.TINY)

    with pytest.raises(ConfigError, match="ternary: it needs no --quant"):
        api.export(ternary, tmp_path / "out", calibration=text, quantization=QUANTIZATIONS[0])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (api.Quantization(name="int3"), "quant 'int3' is unknown"),
        (api.Quantization(name="w4a8", bits=3), "bits is 3, but w4a8 has 4"),
        (api.Quantization(name="shiftadd", bits=7), "bits is 7; shiftadd allows 1 to 4"),
        (api.Quantization(name="codebook", group_size=32), "codebook allows multiples of 64"),
        (api.Quantization(name="w4a8", outliers=0.01), "group keeps no outliers apart"),
        (api.Quantization(name="auto"), "quant 'auto' needs a budget"),
        (api.Quantization(name="auto", budget=float("nan")), "budget is nan; allowed are"),
        (api.Quantization(name="auto", budget=1.0), "the smallest of the schemes takes"),
        (api.Quantization(name="w4a8", budget=3.0), "a budget chooses the bits"),
        (api.Quantization(name="shiftadd", bits=3, budget=3.0), "a budget chooses the bits"),
    ],
)
def test_bad_options_are_refused(
    tmp_path: Path, checkpoint: Path, quantization: api.Quantization, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        api.export(checkpoint, tmp_path / "out", quantization=quantization)


def test_a_budget_that_is_too_small_is_refused_before_anything_is_measured(
    tmp_path: Path, checkpoint: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(low_bit_export, "Sensitivity", pytest.fail)
    quantization = api.Quantization(name="auto", budget=1.0)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(ConfigError, match=r"takes 1\.1\d\d with its scales"):
        api.export(checkpoint, tmp_path / "out", calibration=text, quantization=quantization)
    with pytest.raises(ConfigError, match=r"takes 1\.1\d\d with its scales"):
        api.plan_export(checkpoint, quantization, calibration=text)

    assert sorted(tmp_path.rglob("*")) == before


def test_progress_grows_up_to_its_total(tmp_path: Path, checkpoint: Path, text: Path) -> None:
    seen: list[tuple[int, int]] = []

    api.export(
        checkpoint,
        tmp_path / "out",
        calibration=text,
        quantization=QUANTIZATIONS[1],
        progress=lambda done, total: seen.append((done, total)),
    )

    done = [now for now, _ in seen]
    assert done == sorted(done)
    assert {total for _, total in seen} == {done[-1]}


def test_a_budget_is_kept_and_every_executor_agrees(
    tmp_path: Path, one_layer: Path, text: Path
) -> None:
    quantization = api.Quantization(name="auto", group_size=32, budget=3.5)

    bundle = api.export(one_layer, tmp_path / "out", calibration=text, quantization=quantization)

    linears = api.inspect(bundle.path).linears
    weights = [linear.rows * linear.columns for linear in linears]
    codes = sum(count * linear.bits for count, linear in zip(weights, linears, strict=True))
    assert api.verify(bundle.path).passed
    assert bundle.manifest.quantization.startswith("mixed: ")
    assert len({linear.bits for linear in linears}) > 1
    # The scales of 64 columns take 24 / 64 bits a weight, those of 172 or in groups of 32 others.
    assert 2.5 < codes / sum(weights) < 3.5


def test_rows_that_matter_more_get_more_bits(
    tmp_path: Path,
    write_checkpoint: Callable[..., Path],
    tensors_of: Callable[..., dict[str, np.ndarray]],
    text: Path,
) -> None:
    tensors = tensors_of(ONE_LAYER)
    tensors["model.layers.0.mlp.up_proj.weight"][::2] *= 20
    loud = write_checkpoint(tmp_path / "loud", ONE_LAYER, tensors)
    quantization = api.Quantization(name="group", group_size=32, budget=3.5, refine=False)

    bundle = api.export(loud, tmp_path / "out", calibration=text, quantization=quantization)

    inspection = api.inspect(bundle.path)
    plan = load_plan(open_bundle(bundle.path))
    path = "/model/layers.0/mlp/up_proj"
    parts = [one for one in inspection.linears if one.name.startswith(path)]
    best = max(parts, key=lambda part: part.bits)
    classes, rows = np.zeros(172, np.int64), np.arange(172)
    for number in reversed(range(1, len(parts))):
        packed = plan.constants[f"model.layers.0.mlp.up_proj.places_{number - 1}"]
        is_last = np.unpackbits(packed, bitorder="little")[: len(rows)] == 1
        classes[rows[is_last]] = number
        rows = rows[~is_last]
    assert api.verify(bundle.path).passed
    assert [part.rows for part in parts] == np.bincount(classes).tolist()
    assert best.bits > min(part.bits for part in parts)
    assert set(np.flatnonzero(classes == parts.index(best))) < set(range(0, 172, 2))


@pytest.mark.parametrize("refine", [True, False])
def test_an_interrupted_export_keeps_its_choice(
    tmp_path: Path,
    one_layer: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    refine: bool,
) -> None:
    quantization = api.Quantization(name="group", group_size=32, budget=3.0, refine=refine)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(low_bit_export.Results, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            api.export(one_layer, tmp_path / "out", calibration=text, quantization=quantization)
    monkeypatch.setattr(low_bit_export, "choose_schemes", stop)

    assert api.export(
        one_layer, tmp_path / "out", calibration=text, quantization=quantization
    ).manifest.quantization.startswith("mixed: ")


def test_a_dry_run_says_what_is_chosen_and_writes_nothing(
    tmp_path: Path, one_layer: Path, text: Path
) -> None:
    quantization = api.Quantization(name="auto", group_size=32, budget=3.5, refine=False)
    before = sorted(tmp_path.rglob("*"))

    plan = api.plan_export(one_layer, quantization, calibration=text)

    assert sorted(tmp_path.rglob("*")) == before
    assert plan.bits_per_weight <= 3.5
    assert sum(one.linears for one in plan.schemes) >= len(plan.linears) == 7
    alone_each = sum(one.loss for one in plan.linears)
    assert alone_each / 2 < plan.loss < 2 * alone_each
    assert plan.tokens_per_second > 0
    # The mix loses less than any scheme of all that takes as many bits.
    alone = [one.loss for one in plan.schemes if one.bits_per_weight <= plan.bits_per_weight]
    assert alone
    assert alone_each < min(alone)
    bundle = api.export(one_layer, tmp_path / "out", calibration=text, quantization=quantization)
    for linear in api.inspect(bundle.path).linears:
        path = re.sub(r"(_proj)\.\d+$", r"\1", linear.name.replace("/", ".")[1:])
        (of_path,) = [one.scheme for one in plan.linears if one.path == path]
        if linear.op_type == "TrellisLinear":
            # Bytes of a row are rounded up, by an eighth of a bit of 64 columns, then to a tenth.
            (bits,) = re.findall(r"trellis, ([\d.]+) bits", of_path)
            assert -0.06 < linear.bits - float(bits) < 0.125 + 0.06
        else:
            kind = f"W{linear.bits}A8" if linear.op_type == "GroupLinear" else f"{linear.bits} bits"
            assert kind in of_path
