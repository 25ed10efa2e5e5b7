"""Give each linear of a model, or each block of its rows, a scheme, within a budget of bits.

Losses add up as long as they are small, so every step from one scheme of a linear to a larger one
has a price: the loss that it takes away for each bit. The best steps come first, until the budget
is spent; each linear then loses as much by its last bit as any other (BAQ's equal-loss rule, arXiv
2506.05664). Rows are ranked over the whole model, as MixLLM does (arXiv 2412.14590). Evolution
(EvoPress, arXiv 2410.14649) repairs what does not add up: it trades bits between linears and keeps
what lowers the loss of the whole model.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgellm.errors import ConfigError
from edgellm.exporters.quantizers.low_bit import Scheme

ROUNDS = 24
OFFSPRING = 6
MOST_TRADES = 3
"""Linears that get more bits at once; some others pay for them."""
SEED = 1


@dataclass(frozen=True)
class Option:
    """A scheme for a linear or a block of its rows.

    Attributes:
        scheme: how it would be quantised.
        bits: which its weight then takes, with scales.
        loss: what the model is expected to lose by it.
    """

    scheme: Scheme
    bits: int
    loss: float


Options = Mapping[str, Sequence[Option]]
"""What each linear, or block of rows, may become, by its name."""
Choice = dict[str, Option]
Bits = Callable[[Choice], int]
"""Returns all bits that a choice takes."""


def useful(options: Sequence[Option]) -> list[Option]:
    """Return the options on the lower hull of loss over bits, the smallest first.

    From one to the next the loss falls, and for each bit by less and less.
    """
    hull: list[Option] = []
    for option in sorted(options, key=lambda one: (one.bits, one.loss)):
        if hull and option.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-2], option):
            hull.pop()
        hull.append(option)
    return hull


def total_bits(choice: Choice) -> int:
    """Return the bits of all options."""
    return sum(option.bits for option in choice.values())


def allocate(options: Options, most: int, bits: Bits = total_bits) -> Choice:
    """Choose for each name, spending at most ``most`` bits, where they help the most.

    Args:
        options: by name.
        most: bits in all.
        bits: counts them; it may find more than the options say, such as what joins rows.

    Raises:
        ConfigError: the smallest options of all need more.
    """
    hulls = {path: useful(of_path) for path, of_path in options.items()}
    smallest = {path: hull[0] for path, hull in hulls.items()}
    if bits(smallest) > most:
        raise ConfigError(
            f"the budget is {most} bits for these linears; the smallest options take "
            f"{bits(smallest)}"
        )
    kept = 0
    while True:
        choice = _spend(hulls, smallest, most - kept)
        over = bits(choice) - most
        if over <= 0:
            return choice
        kept += over


def _spend(hulls: Options, smallest: Choice, most: int) -> Choice:
    """Return the smallest options, made larger where that helps the most within ``most`` bits."""
    choice, spent = dict(smallest), total_bits(smallest)
    steps = [_step(path, hull, 1) for path, hull in hulls.items() if len(hull) > 1]
    heapq.heapify(steps)
    while steps:
        _, path, place = heapq.heappop(steps)
        hull = hulls[path]
        added = hull[place].bits - hull[place - 1].bits
        if spent + added > most:
            continue
        choice[path] = hull[place]
        spent += added
        if place + 1 < len(hull):
            heapq.heappush(steps, _step(path, hull, place + 1))
    return choice


def refine(
    choice: Choice,
    options: Options,
    most: int,
    loss: Callable[[Choice], float],
    bits: Bits = total_bits,
) -> tuple[Choice, float]:
    """Trade bits between linears as long as the loss of the whole model falls.

    Args:
        choice: to begin with.
        options: of all linears.
        most: bits in all.
        loss: of the model with such linears.
        bits: counts those of a choice.

    Returns:
        the best choice, and its loss.
    """
    rng = np.random.default_rng(SEED)
    hulls = {path: useful(of_path) for path, of_path in options.items()}
    best, least = choice, loss(choice)
    for _ in range(ROUNDS):
        parent = best
        for _ in range(OFFSPRING):
            child = _mutate(parent, hulls, rng, lambda one: bits(one) <= most)
            if child == parent:
                continue
            found = loss(child)
            if found < least:
                best, least = child, found
    return best, least


def _mutate(
    choice: Choice, hulls: Options, rng: np.random.Generator, fits: Callable[[Choice], bool]
) -> Choice:
    """Return a neighbour: a few linears get more bits, and others pay for them."""
    child, paths = dict(choice), list(choice)
    raised = set()
    for path in rng.permutation(paths)[: rng.integers(1, MOST_TRADES + 1)]:
        child[path] = _neighbour(hulls[path], child[path], 1)
        raised.add(path)
    for path in rng.permutation(paths):
        if fits(child):
            return child
        if path not in raised:
            child[path] = _neighbour(hulls[path], child[path], -1)
    return child if fits(child) else choice


def _neighbour(hull: Sequence[Option], option: Option, step: int) -> Option:
    place = hull.index(option) + step
    return hull[min(max(place, 0), len(hull) - 1)]


def _gain(small: Option, large: Option) -> float:
    """Return the loss that each further bit takes away."""
    return (small.loss - large.loss) / max(1, large.bits - small.bits)


def _step(path: str, hull: Sequence[Option], place: int) -> tuple[float, str, int]:
    return -_gain(hull[place - 1], hull[place]), path, place
