"""Texts of a model with recurrent states: whatever way leads to a text, its logits are the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgellm
from edgellm.bundle import GRAPH, WEIGHTS
from edgellm.errors import BundleError, PlanError
from edgellm.exporters.architectures.hgrn_bit import TINY
from edgellm.exporters.build import export_random
from edgellm.graph_names import PAST
from edgellm.runtime.engine import Engine
from edgellm.runtime.loader import load_plan
from edgellm.runtime.observations import observe
from edgellm.runtime.profile import products_of
from edgellm.runtime.session import Session

TEXT = [int(number) for number in np.random.default_rng(1).integers(0, 288, 30)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recurrent")
    (folder / "config.json").write_text(json.dumps(TINY))
    return export_random(folder / "config.json", folder / "bundle").path


@pytest.fixture(scope="module")
def engine(bundle: Path):
    plan = load_plan(edgellm.bundle.open_bundle(bundle))
    made = Engine(plan, context_length=64, threads=1, chunk=8)
    yield made
    made.close()


@pytest.fixture
def session(engine: Engine) -> Session:
    return Session(engine, "this bundle")


def fresh(engine: Engine, ids: list[int]) -> np.ndarray:
    """Return the logits of a text that is computed at once."""
    return engine.forward(np.array(ids), engine.new_cache())[0]


def test_rewinding_and_going_on(session: Session, engine: Engine) -> None:
    session.extend(TEXT)
    for length in (29, 20, 20, 8, 3, 0):
        session.rewind(length)
        found = session.extend([7, length])
        np.testing.assert_array_equal(found, fresh(engine, [*TEXT[:length], 7, length]))
        session.rewind(length)


def test_the_last_logits_again(session: Session) -> None:
    first = session.extend(TEXT)
    np.testing.assert_array_equal(session.extend(), first)


def test_token_by_token_and_aligned(session: Session, engine: Engine) -> None:
    for token in TEXT[:20]:
        session.extend([token])
    changed = [*TEXT[:11], 5, 6]
    np.testing.assert_array_equal(session.align(changed), fresh(engine, changed))


def test_a_fork_goes_its_own_way(session: Session, engine: Engine) -> None:
    session.extend(TEXT)
    twin = session.fork()
    session.extend([1])
    twin.rewind(17)
    np.testing.assert_array_equal(twin.extend([2]), fresh(engine, [*TEXT[:17], 2]))


def test_drafts_are_left_out(session: Session, engine: Engine) -> None:
    assert not session.takes_drafts
    np.testing.assert_array_equal(session.extend(TEXT, draft=[1, 2]), fresh(engine, TEXT))
    np.testing.assert_array_equal(session.extend([1]), fresh(engine, [*TEXT, 1]))


def test_saved_and_loaded(session: Session, engine: Engine, tmp_path: Path) -> None:
    session.extend(TEXT)
    session.append([4])  # not computed yet
    session.save(tmp_path / "text")
    other = Session(engine, "this bundle")
    other.load(tmp_path / "text")

    assert other.ids == (*TEXT, 4)
    np.testing.assert_array_equal(other.extend(), fresh(engine, [*TEXT, 4]))
    other.rewind(9)
    np.testing.assert_array_equal(other.extend([3]), fresh(engine, [*TEXT[:9], 3]))


def test_a_file_that_does_not_say_its_length_is_refused(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its states could be of any text."""
    session.extend(TEXT)
    monkeypatch.setattr("edgellm.runtime.session.CACHED", "something_else")
    session.save(tmp_path / "text")
    monkeypatch.undo()
    with pytest.raises(BundleError, match="how many tokens"):
        session.load(tmp_path / "text")


def test_rows_that_are_asked_for_more_often_than_there_is_room(engine: Engine) -> None:
    ids = np.array(TEXT[:5])
    rows = [4, 0, *[2] * 20]
    once = engine.forward(ids, engine.new_cache(), range(5))
    np.testing.assert_array_equal(engine.forward(ids, engine.new_cache(), rows), once[rows])


def test_no_rows(engine: Engine) -> None:
    """Of a long prompt only the last chunk is scored."""
    cache = engine.new_cache()
    assert engine.forward(np.array(TEXT), cache, []).shape == (0, 288)
    np.testing.assert_array_equal(
        engine.forward(np.array([3]), cache)[0], fresh(engine, [*TEXT, 3])
    )


def test_speculation_changes_nothing(bundle: Path) -> None:
    with edgellm.load(bundle, threads=1) as model:
        texts = [
            [token.token_id for token in model.stream("ab ab ab", max_tokens=20, speculate=kind)]
            for kind in ("none", "ngram")
        ]
    assert texts[0] == texts[1]


def test_products_of_the_head_are_those_of_one_token(engine: Engine) -> None:
    """Its linear is like any other, but runs on the rows that are scored."""
    found = {step.name: products_of(engine.plan, step, range(1, 9)) for step in engine.steps}

    assert found["/lm_head/BitLinear"] == 64 * 288
    assert found["/model/layers.0/attn/i_proj/BitLinear"] == 8 * 64 * 64


def test_what_is_told_of_a_bundle(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No heads and no cache that grows: two layers of 64 int64."""
    from edgellm.cli import main

    assert main(["inspect", str(bundle)]) == 0
    told = capsys.readouterr().out
    assert "2 layers, recurrent states of 64" in told
    assert "1.0 kB at any length" in told
    with edgellm.load(bundle, threads=1) as model:
        (states,) = [item for item in observe(model) if "states" in item.name]
    assert states.value == 2 * 64 * 8


def rename(model: Any, op_type: str, port: str, index: int, name: str) -> None:
    """Let the first node of a type have another input or output."""
    found = next(node for node in model.graph.node if node.op_type == op_type)
    getattr(found, port)[index] = name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("TakeRows", "input", 2, "position_ids"), "its rows are the input logit_rows"),
        (("GatedRecurrence", "output", 1, "elsewhere"), "its last output is the state after it"),
        (("GatedRecurrence", "input", 3, f"{PAST}1.recurrent_state"), "its last output"),
        (("GatedRecurrence", "input", 2, "model.norm.weight"), "complement"),
    ],
)
def test_a_graph_that_breaks_the_rules_is_refused(
    bundle: Path, tmp_path: Path, change: tuple[str, str, int, str], message: str
) -> None:
    """States that would be read or written where they are not; rows that nobody checked."""
    opened = edgellm.bundle.open_bundle(bundle)
    for file in (GRAPH, WEIGHTS):
        shutil.copyfile(bundle / file, tmp_path / file)
    damaged = replace(opened, path=tmp_path)
    model = onnx.load(damaged.graph_path, load_external_data=False)
    rename(model, *change)
    damaged.graph_path.write_bytes(model.SerializeToString())

    with pytest.raises(PlanError, match=message):
        load_plan(damaged)


def test_a_manifest_of_another_model_is_refused(bundle: Path) -> None:
    """The graph has states of 64 channels, and no keys."""
    opened = edgellm.bundle.open_bundle(bundle)
    for state_size in (0, 65):
        manifest = replace(opened.manifest, state_size=state_size)
        with pytest.raises(PlanError, match="past_key_values"):
            load_plan(replace(opened, manifest=manifest))
