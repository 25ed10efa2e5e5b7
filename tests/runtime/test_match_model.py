from hypothesis import given
from hypothesis import strategies as st

from edgellm.runtime.match_model import LONGEST_KEY, MAX_MATCH, MatchModel

texts = st.lists(st.integers(0, 3), max_size=60)


def latest_follower(text: list[int]) -> int | None:
    """The position behind the latest earlier occurrence of the longest ending, of 3 at most."""
    for size in range(LONGEST_KEY, 0, -1):
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - size : end] == text[len(text) - size :]:
                return end
    return None


@given(texts)
def test_what_followed_the_last_occurrence_is_predicted(text: list[int]) -> None:
    place = latest_follower(text)
    predicted = MatchModel(text).predict(5)

    if place is None:
        assert predicted == []
        return
    longer = list(text)
    for token_id in predicted:
        assert token_id == longer[place]
        longer.append(token_id)
        place += 1
    assert len(predicted) == 5


@given(texts, st.integers(0, 60))
def test_text_that_comes_token_by_token_is_indexed_as_a_prompt_is(
    text: list[int], size: int
) -> None:
    model = MatchModel(text[:size])
    for token_id in text[size:]:
        model.append(token_id)
    # Two tokens that never occurred: the pointer is looked up anew, for the same keys.
    for token_id in (8, 9):
        model.append(token_id)

    known = MatchModel([*text, 8, 9])
    for token_id in (*text[:3], 8):
        known.append(token_id)
        model.append(token_id)
        assert model.predict(4) == known.predict(4)


def test_the_pointer_stays_with_the_passage_that_it_follows() -> None:
    model = MatchModel([1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5])
    assert model.predict(2) == [6, 7]
    model.append(6)
    assert model.predict(3) == [7, 1, 2]


def test_a_text_that_repeats_one_token_goes_on_so() -> None:
    assert MatchModel([5, 7, 7]).predict(6) == [7] * 6


def test_hit_rates_follow_what_came_true() -> None:
    model = MatchModel([1, 2] * 8)
    before = model.hit_rates()
    for _ in range(40):
        model.append(1)
        model.append(2)
    assert model.hit_rates() == [model.hit_rates()[0]]
    assert model.hit_rates()[0] > 0.98 > before[0]

    model = MatchModel([7, *range(10, 20), 7])
    begin = model.hit_rates()[0]
    for token_id in range(30, 50):
        model.append(token_id)
        model.append(7)
    assert model.hit_rates()[0] < begin / 4


def test_rates_are_of_the_next_tokens_of_the_match() -> None:
    assert MatchModel([1, 2, 3]).hit_rates() == []
    short = MatchModel([1, 2, 3, 1]).hit_rates()
    longer = MatchModel([1, 2, 3, 4, 5, 1, 2, 3, 4]).hit_rates()

    assert len(short) == MAX_MATCH
    assert longer == short[3:]
