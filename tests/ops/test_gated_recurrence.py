"""The recurrence of MatMul-free models: near the real one, and the same in any pieces."""

import numpy as np

from edgellm.ops.gated_recurrence import reference

ATTRIBUTES = {"frame": 18}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def inputs(tokens: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    forget, x = (rng.normal(0, 2, (tokens, columns)) for _ in range(2))
    complement = rng.integers(0, 2**20, columns, np.int32)
    fixed = [np.rint(value * 2**18).astype(np.int32) for value in (forget, x)]
    return *fixed, complement, np.zeros(columns, np.int64)


def test_states_are_near_those_of_real_numbers():
    """The sigmoid is off by at most e = 0.25 * 0.00145 + 2^-20 (see SiluGate's test) and silu by
    0.2239 * 0.00145. With g = 1 - f the error of a state obeys d' <= f*d + g*(error of silu) +
    |silu - h|*(error of g), so it stays below error(silu) + 2*max|silu| * error(g)/g, where the
    relative error of the sigmoid is 0.00145 at most, plus 2^-19 for its rounding."""
    forget, x, complement, past = inputs(200, 16)
    y, _ = reference(forget, x, complement, past, **ATTRIBUTES)
    change = complement * 2.0**-20 * sigmoid(-forget * 2.0**-18)
    target = x * 2.0**-18 * sigmoid(x * 2.0**-18)
    state, states = np.zeros(16), []
    for t in range(200):
        state = (1 - change[t]) * state + change[t] * target[t]
        states.append(state)

    relative = 0.00145 + 2.0**-19 / change.min()
    bound = 0.2239 * 0.00145 + 2 * np.abs(target).max() * relative + 2.0**-18
    assert np.abs(y * 2.0**-18 - states).max() <= bound


def test_any_pieces_of_a_text_give_the_same_states():
    forget, x, complement, past = inputs(37, 5)
    whole, last = reference(forget, x, complement, past, **ATTRIBUTES)
    parts = []
    for begin, end in ((0, 1), (1, 9), (9, 10), (10, 37)):
        part, past = reference(forget[begin:end], x[begin:end], complement, past, **ATTRIBUTES)
        parts.append(part)

    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(past, last)


def test_a_state_stays_between_what_it_was_and_what_comes_in():
    """No length of text leads out of the range."""
    rng = np.random.default_rng(4)
    forget = rng.integers(-(2**31) + 1, 2**31, (64, 8)).astype(np.int32)
    x = np.full((64, 8), 2**31 - 1, np.int32)
    _, last = reference(forget, x, np.full(8, 2**20, np.int32), np.zeros(8, np.int64), frame=18)

    assert (last >= 0).all()
    assert (last <= 2**41).all()
