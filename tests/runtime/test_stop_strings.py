import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import ConfigError
from edgellm.runtime.stop_strings import StopStrings

short = st.text("ab", min_size=1, max_size=4)


@given(pieces=st.lists(st.text("abc", max_size=3), max_size=20), stops=st.lists(short, max_size=3))
def test_pieces_are_cut_like_the_whole_text(pieces: list[str], stops: list[str]) -> None:
    filter_ = StopStrings(stops)
    shown = ""
    for piece in pieces:
        shown += filter_.feed(piece)
        if filter_.found:
            break
    # What is cut is the text up to the piece that completed a stop string.
    text = "".join(pieces)
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if ends:
        first = min(ends)
        seen = next(
            "".join(pieces[: n + 1])
            for n in range(len(pieces))
            if len("".join(pieces[: n + 1])) >= first
        )
        assert filter_.found
        assert shown == seen[: min(seen.find(stop) for stop in stops if stop in seen)]
    else:
        assert not filter_.found
        assert shown + filter_.flush() == text


def test_the_beginning_of_a_stop_string_is_held_back() -> None:
    filter_ = StopStrings(["END"])

    assert filter_.feed("the E") == "the "
    assert filter_.feed("N") == ""
    assert filter_.feed("Dless") == ""
    assert filter_.found


def test_what_turns_out_to_be_no_stop_string_is_shown() -> None:
    filter_ = StopStrings(["END"])

    assert filter_.feed("EN") + filter_.feed("EN") == "EN"
    assert filter_.flush() == "EN"
    assert not filter_.found


@pytest.mark.parametrize("stop", ["text", [""], [3], None, 3])
def test_stop_must_be_a_list_of_texts(stop: object) -> None:
    with pytest.raises(ConfigError, match="stop is"):
        StopStrings(stop)
