from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import BundleError, ConfigError, ContextLengthError
from edgellm.runtime.session import Session
from edgellm.runtime.session_file import read_arrays, write_arrays


def logits_of(engine, ids: list[int]) -> list[int]:
    return list(engine.logits(np.array(ids)))


def test_extending_in_pieces_gives_the_logits_of_the_whole(engine, session: Session) -> None:
    session.extend([5, 6])
    last = session.extend([7])

    assert list(last) == logits_of(engine, [5, 6, 7])
    assert session.ids == (5, 6, 7)
    assert engine.computed == [2, 1]


def test_appended_ids_are_computed_with_the_next_extend(engine, session: Session) -> None:
    session.extend([5])
    session.append([6])
    assert engine.computed == [1]

    assert list(session.extend()) == logits_of(engine, [5, 6])
    assert engine.computed == [1, 1]


def test_extending_by_nothing_gives_the_last_logits_again(engine, session: Session) -> None:
    first = session.extend([5, 6])

    assert list(session.extend()) == list(first)
    assert session.ids == (5, 6)


def test_score_gives_a_row_for_each_new_id(engine, session: Session) -> None:
    session.extend([5])
    session.append([6])

    rows = session.score([7, 8])

    assert [list(row) for row in rows] == [
        logits_of(engine, [5, 6, 7]),
        logits_of(engine, [5, 6, 7, 8]),
    ]


def test_rewinding_and_continuing_equals_starting_over(engine, session: Session) -> None:
    session.extend([5, 6, 7, 8])
    session.rewind(2)

    assert list(session.extend([9])) == logits_of(engine, [5, 6, 9])


def test_a_fork_is_independent(engine, session: Session) -> None:
    session.extend([5, 6])
    twin = session.fork()
    twin.extend([7])

    assert session.ids == (5, 6)
    assert list(session.extend([8])) == logits_of(engine, [5, 6, 8])
    assert twin.ids == (5, 6, 7)


ids = st.lists(st.integers(2, 5), min_size=1, max_size=12)


@given(first=ids, second=ids)
def test_align_computes_only_what_differs(
    first: list[int], second: list[int], engine_class
) -> None:
    engine = engine_class()
    session = Session(engine, "bundle-a")
    session.extend(first)
    common = session.common_prefix(second)

    logits = session.align(second)

    assert list(logits) == logits_of(engine, second)
    assert session.ids == tuple(second)
    assert first[:common] == second[:common]
    assert engine.computed == [len(first), max(len(second) - common, 1)]


def test_ctrl_c_leaves_the_session_as_it_was(engine, session: Session) -> None:
    session.extend([5, 6])
    engine.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        session.extend([7, 8, 9, 10])
    engine.interrupt = False

    assert session.ids == (5, 6)
    assert list(session.extend([7])) == logits_of(engine, [5, 6, 7])


def test_a_saved_session_goes_on_where_it_was(engine, session: Session, tmp_path: Path) -> None:
    session.extend([5, 6])
    session.append([7])
    session.save(tmp_path / "talk.safetensors", notes="mine")

    other = Session(engine, "bundle-a")
    assert other.load(tmp_path / "talk.safetensors") == "mine"

    assert other.ids == (5, 6, 7)
    engine.computed.clear()
    assert list(other.extend([8])) == logits_of(engine, [5, 6, 7, 8])
    assert engine.computed == [2]
    assert [path.name for path in tmp_path.iterdir()] == ["talk.safetensors"]


def test_a_session_of_another_bundle_is_refused(engine, session: Session, tmp_path: Path) -> None:
    session.extend([5])
    session.save(tmp_path / "talk.safetensors")

    other = Session(engine, "bundle-b")
    other.extend([9])
    with pytest.raises(BundleError, match="another bundle"):
        other.load(tmp_path / "talk.safetensors")
    assert other.ids == (9,)


def test_a_saved_session_longer_than_the_context_is_refused(
    session: Session, tmp_path: Path, engine_class
) -> None:
    session.extend([5] * 20)
    session.save(tmp_path / "talk.safetensors")

    with pytest.raises(ContextLengthError, match="20 tokens, the context holds 10"):
        Session(engine_class(context_length=10), "bundle-a").load(tmp_path / "talk.safetensors")


def rewrite(path: Path, arrays: dict, metadata: dict) -> None:
    old_arrays, old_metadata = read_arrays(path)
    kept = {name: array for name, array in (old_arrays | arrays).items() if array is not None}
    write_arrays(path, kept, old_metadata | metadata)


@pytest.mark.parametrize(
    ("arrays", "metadata", "reason"),
    [
        ({"input_ids": None}, {}, "input_ids is missing"),
        ({"input_ids": np.array([[5]])}, {}, "input_ids is missing or no list"),
        ({"input_ids": np.array([5, 6, 7, 999])}, {}, "token id 999 at position 3"),
        ({"input_ids": np.array([5, -1, 7])}, {}, "token id -1 at position 1"),
        ({"input_ids": np.array([5])}, {}, "a cache of 3 tokens for 1 ids"),
        ({}, {"format": "other"}, "is no edgellm-session/1 file"),
    ],
)
def test_a_tampered_file_is_refused(
    session: Session, tmp_path: Path, arrays: dict, metadata: dict, reason: str
) -> None:
    path = tmp_path / "talk.safetensors"
    session.extend([5, 6, 7])
    session.save(path)
    rewrite(path, arrays, metadata)

    with pytest.raises(BundleError, match=reason):
        session.load(path)
    assert session.ids == (5, 6, 7)


def test_any_truncation_of_a_file_is_refused(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "talk.safetensors"
    session.extend([5, 6, 7])
    session.save(path)
    content = path.read_bytes()

    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(BundleError, match="no usable safetensors file"):
            session.load(path)


def test_float_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "floats.safetensors"
    write_arrays(path, {"x": np.zeros(3, dtype=np.float32)}, {})

    with pytest.raises(BundleError, match="x is F32; allowed are"):
        read_arrays(path)


def test_a_file_that_cannot_be_written_is_an_error(session: Session, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        session.save(tmp_path / "no folder" / "talk.safetensors")


@pytest.mark.parametrize("wrong", [-1, 320, 2**40, "a", 1.0])
def test_ids_out_of_range_are_refused(session: Session, wrong: object) -> None:
    for method in (session.extend, session.append, session.score, session.align):
        with pytest.raises(ConfigError, match="at position 1 is not in the vocabulary"):
            method([5, wrong])
    assert session.ids == ()


def test_a_text_longer_than_the_context_is_refused(session: Session) -> None:
    session.extend([5] * 60)
    with pytest.raises(ContextLengthError, match="65 tokens, the context holds 64"):
        session.extend([5] * 5)
    with pytest.raises(ContextLengthError, match="64 tokens and needs room for 1 more"):
        session.align([6] * 64, room=1)
    assert session.ids == (5,) * 60
    assert session.room == 4


def test_an_empty_session_has_no_logits(session: Session) -> None:
    with pytest.raises(ConfigError, match="at least one token"):
        session.extend()
    with pytest.raises(ConfigError, match="no token ids"):
        session.score([])


def test_rewinding_beyond_the_text_is_refused(session: Session) -> None:
    session.extend([5, 6])
    for length in (-1, 3):
        with pytest.raises(ConfigError, match=f"cannot rewind to {length}"):
            session.rewind(length)


def test_what_was_drafted_right_is_not_computed_again(engine, session: Session) -> None:
    assert list(session.extend([5], draft=[6, 7, 8])) == logits_of(engine, [5])
    assert session.ids == (5,)
    assert engine.computed == [4]

    assert list(session.extend([6])) == logits_of(engine, [5, 6])
    session.append([7])
    assert list(session.extend()) == logits_of(engine, [5, 6, 7])
    assert engine.computed == [4]

    assert list(session.extend([9])) == logits_of(engine, [5, 6, 7, 9])
    assert engine.computed == [4, 1]


steps = st.one_of(
    st.tuples(st.just("extend"), st.lists(st.integers(5, 6), max_size=2)),
    st.tuples(st.just("draft"), st.lists(st.integers(5, 6), max_size=4)),
    st.tuples(st.just("append"), st.lists(st.integers(5, 6), max_size=2)),
    st.tuples(st.just("rewind"), st.integers(0, 3)),
    st.tuples(st.just("align"), st.lists(st.integers(5, 6), min_size=1, max_size=6)),
    st.tuples(st.just("score"), st.lists(st.integers(5, 6), min_size=1, max_size=2)),
    st.tuples(st.just("fork"), st.none()),
)


@given(actions=st.lists(steps, max_size=12))
def test_drafts_change_no_logits(actions: list[tuple], engine_class) -> None:
    engine = engine_class()
    session = Session(engine, "bundle-a")
    session.extend([5])
    for name, value in actions:
        if name == "rewind":
            session.rewind(max(len(session) - value, 1))
        elif name == "fork":
            session = session.fork()
        elif name == "draft":
            assert list(session.extend(draft=value)) == logits_of(engine, list(session.ids))
        else:
            getattr(session, name)(value)
        assert session.fork().extend().tolist() == logits_of(engine, list(session.ids))
    assert list(session.extend()) == logits_of(engine, list(session.ids))


def test_a_draft_must_fit(session: Session) -> None:
    session.extend([5] * 60)
    with pytest.raises(ContextLengthError, match="65 tokens, the context holds 64"):
        session.extend([5], draft=[5] * 4)
    with pytest.raises(ConfigError, match="token id 320"):
        session.extend([5], draft=[320])
    with pytest.raises(ConfigError, match="at least one token"):
        Session(session._engine, "bundle-a").extend(draft=[5])
    assert session.ids == (5,) * 60
