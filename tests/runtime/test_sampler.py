import ast
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgellm.errors import ConfigError
from edgellm.runtime import sampler as module
from edgellm.runtime.sampler import (
    ONE,
    Sampler,
    SamplingOptions,
    SamplingParams,
    exp2_weights,
    penalize,
    random_bits,
    steps,
)

# Real logits of -32 to 32, few enough different ones that ties happen.
logit_rows = arrays(np.int32, st.integers(1, 40), elements=st.integers(-32, 32)).map(
    lambda row: row << 16
)
any_logits = arrays(np.int32, st.integers(1, 40), elements=st.integers(-(2**31), 2**31 - 1))
temperatures = st.floats(0.05, 10)


def reference_probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits / 65536 / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


@given(logits=any_logits)
def test_greedy_takes_the_best_logit_and_on_ties_the_lowest_id(logits: np.ndarray) -> None:
    best = [index for index, value in enumerate(logits) if value == logits.max()]

    assert Sampler(SamplingParams()).choose(logits, 7, []) == best[0]


@given(logits=logit_rows, temperature=temperatures)
def test_weights_are_the_softmax_within_the_tables_resolution(
    logits: np.ndarray, temperature: float
) -> None:
    temperature = steps(temperature) / ONE
    ids, weights = Sampler(SamplingParams(temperature=temperature)).candidates(logits)
    expected = reference_probabilities(logits, temperature)

    # The table is off by a factor of 2^(1/512) at most, both in the weight and in the total; 2^-16
    # halvings of rounding and a dropped tail of 40 * 2^-31 are 1 % of that. A weight is a whole
    # number of 2^-30.
    relative = 2 * (2 ** (1 / 512) - 1) * 1.02
    difference = np.abs(weights / weights.sum() - expected[ids])
    assert (difference <= relative * expected[ids] + 2.0**-30).all()


@given(logits=any_logits, temperature=st.floats(0, 100, exclude_min=True))
def test_candidates_are_integers_best_first_and_ties_by_id(
    logits: np.ndarray, temperature: float
) -> None:
    with np.errstate(all="raise"):
        ids, weights = Sampler(SamplingParams(temperature=temperature)).candidates(logits)

    assert ids.dtype == weights.dtype == np.int64
    assert weights.min() > 0
    keys = [(-int(logits[index]), int(index)) for index in ids]
    assert keys == sorted(keys)
    assert int(logits[ids[0]]) == logits.max()


def test_the_module_has_no_float_arrays() -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}

    assert not [name for name in names if name.startswith("float")]
    assert names.isdisjoint({"exp", "exp2", "log", "log2", "sqrt", "power", "true_divide", "mean"})


@given(logits=any_logits, top_k=st.integers(1, 50))
def test_top_k_keeps_the_k_best(logits: np.ndarray, top_k: int) -> None:
    everything, _ = Sampler(SamplingParams(temperature=100.0)).candidates(logits)
    ids, _ = Sampler(SamplingParams(temperature=100.0, top_k=top_k)).candidates(logits)

    assert list(ids) == list(everything[:top_k])


@given(logits=logit_rows, top_p=st.floats(0, 1))
def test_top_p_keeps_the_fewest_that_reach_the_probability(
    logits: np.ndarray, top_p: float
) -> None:
    _, everything = Sampler(SamplingParams(temperature=1.0)).candidates(logits)
    ids, weights = Sampler(SamplingParams(temperature=1.0, top_p=top_p)).candidates(logits)
    total = int(everything.sum())

    assert len(ids) >= 1
    assert int(weights.sum()) * ONE >= steps(top_p) * total
    assert len(ids) == 1 or int(weights[:-1].sum()) * ONE < steps(top_p) * total


@given(logits=logit_rows, min_p=st.floats(0, 1))
def test_min_p_keeps_exactly_those_with_that_share_of_the_best(
    logits: np.ndarray, min_p: float
) -> None:
    all_ids, everything = Sampler(SamplingParams(temperature=1.0)).candidates(logits)
    ids, _ = Sampler(SamplingParams(temperature=1.0, min_p=min_p)).candidates(logits)
    threshold = steps(min_p) * int(everything[0])

    assert list(ids) == [
        index for index, w in zip(all_ids, everything, strict=True) if int(w) * ONE >= threshold
    ]


def test_draws_follow_the_weights() -> None:
    logits = np.array([0, 65536, 131072, -(2**30)], dtype=np.int32)
    sampler = Sampler(SamplingParams(temperature=1.0, seed=3))
    draws = 20_000

    counts = Counter(sampler.choose(logits, position, []) for position in range(draws))

    expected = reference_probabilities(logits, 1.0)
    for index, probability in enumerate(expected):
        # Five standard deviations of a binomial count.
        bound = 5 * math.sqrt(draws * probability * (1 - probability)) + 1
        assert abs(counts[index] - draws * probability) < bound


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 2**40), logits=logit_rows)
def test_a_draw_depends_on_seed_and_position_only(
    seed: int, position: int, logits: np.ndarray
) -> None:
    params = SamplingParams(temperature=1.0, seed=seed)
    sampler = Sampler(params)
    sampler.choose(logits, position + 1, [])

    assert sampler.choose(logits, position, []) == Sampler(params).choose(logits, position, [])


def test_a_permuted_vocabulary_gives_the_permuted_choice() -> None:
    generator = np.random.default_rng(5)
    logits = generator.choice(2**20, 100, replace=False).astype(np.int32)  # no ties
    order = generator.permutation(100)
    sampler = Sampler(SamplingParams(temperature=2.0, seed=9, top_p=0.9))

    for position in range(50):
        assert order[sampler.choose(logits[order], position, [])] == sampler.choose(
            logits, position, []
        )


# Known answers of the Random123 distribution, kat_vectors, philox4x32 with 10 rounds.
def test_random_bits_are_philox() -> None:
    assert random_bits(0, 0) == 0x9B00DBD8_BC57AC4C_E169C58D_6627E8D5


@given(
    logits=any_logits,
    penalty=st.floats(0.01, 100),
    seen=st.lists(st.integers(0, 39), max_size=20),
)
def test_the_penalty_divides_positive_and_multiplies_negative_logits(
    logits: np.ndarray, penalty: float, seen: list[int]
) -> None:
    seen = [index % len(logits) for index in seen]
    result = penalize(logits, np.array(seen, dtype=np.int64), steps(penalty))

    exact = steps(penalty)
    for index, (old, new) in enumerate(zip(map(int, logits), map(int, result), strict=True)):
        if index not in seen:
            assert new == old
        elif old > 0:
            assert new == min((2 * old * ONE + exact) // (2 * exact), 2**31 - 1)
        else:
            assert new == max((2 * old * exact + ONE) // (2 * ONE), -(2**31) + 1)


@given(
    logits=st.lists(st.integers(-40, 40), min_size=1, max_size=90),
    seen=st.lists(st.integers(0, 89), max_size=40),
    penalty=st.sampled_from([0.5, 1.0, 1.3, 100.0]),
    temperature=st.sampled_from([0.0, 0.8]),
    top_k=st.integers(0, 5),
)
def test_the_needed_logits_are_enough(
    logits: list[int], seen: list[int], penalty: float, temperature: float, top_k: int
) -> None:
    """With all others at -2^31 the same token comes out; small logits have many ties."""
    sampler = Sampler(
        SamplingParams(temperature=temperature, top_k=top_k, repetition_penalty=penalty)
    )
    text = [item % len(logits) for item in seen]
    whole = np.array(logits, np.int32) * 9000
    needed = sampler.needed(text)
    pruned = whole.copy()
    if 0 < needed < len(whole):
        pruned[whole < np.sort(whole)[-needed]] = np.iinfo(np.int32).min

    for position in range(5):
        expected = sampler.choose(whole, position, text)
        assert sampler.choose(pruned, position, text) == expected


def test_few_logits_are_needed_where_few_can_win() -> None:
    assert Sampler(SamplingParams()).needed([1, 2]) == 1
    assert Sampler(SamplingParams(temperature=1, top_k=40)).needed([]) == 40
    assert Sampler(SamplingParams(temperature=1, top_p=0.9)).needed([]) == 0
    assert Sampler(SamplingParams(repetition_penalty=0.9)).needed([]) == 0
    assert Sampler(SamplingParams(repetition_penalty=1.1)).needed([3, 3, 4]) >= 3


def test_the_penalty_keeps_a_token_from_being_repeated() -> None:
    logits = np.array([100_000, 90_000, -5], dtype=np.int32)

    assert Sampler(SamplingParams()).choose(logits, 3, [0, 0]) == 0
    assert Sampler(SamplingParams(repetition_penalty=1.5)).choose(logits, 3, [0, 0]) == 1


@pytest.mark.parametrize("temperature", [2**-16, 1e-9, 0.001])
def test_a_tiny_temperature_is_greedy_among_unequal_logits(temperature: float) -> None:
    logits = np.array([5 << 16, 6 << 16, -(2**31)], dtype=np.int32)

    assert Sampler(SamplingParams(temperature=temperature)).choose(logits, 0, []) == 1


def test_weights_fall_to_zero_and_never_overflow() -> None:
    distance = np.array([0, 1, 2**31, 2**32 - 1], dtype=np.int64)
    with np.errstate(all="raise"):
        # At the highest temperature a step of a logit counts least: 0.0144 * 2^-16 halvings.
        weights = exp2_weights(distance, (round(math.log2(math.e) / 100 * 2**37), 37))

    assert weights[0] == weights.max() <= 2**30
    assert list(weights[2:]) == [0, 0]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 1.1},
        {"min_p": -1},
        {"repetition_penalty": 0},
        {"seed": -1},
        {"seed": 2**64},
        {"top_k": True},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))} is .*; allowed are"):
        SamplingParams(**options)


def test_numbers_of_numpy_become_those_of_python() -> None:
    given = SamplingParams(
        temperature=np.float32(0.5), top_p=np.float64(0.9), top_k=np.int64(40), seed=np.uint64(7)
    )

    assert given == SamplingParams(temperature=0.5, top_p=0.9, top_k=40, seed=7)
    assert [type(value) for value in (given.temperature, given.top_p)] == [float, float]
    assert [type(value) for value in (given.top_k, given.seed)] == [int, int]


def test_the_keyword_arguments_are_the_fields() -> None:
    assert SamplingOptions.__annotations__.keys() == SamplingParams.__dataclass_fields__.keys()
