"""Time every variant of the kernels on the steps of a call, in turn, in their order.

What the steps read is the plan's own weights, from as far away as in a call, and activations that
the steps before them made.
"""

import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgellm.runtime import cpu, kernels
from edgellm.runtime.choices import kind_of
from edgellm.runtime.engine import Engine
from edgellm.runtime.kernels import Kernel, _objects, simd
from edgellm.runtime.profile import TOKEN_ID, time_rows

CONTEXT = 512
"""Tokens before those of the call. The kernel of attention that is fastest behind a few of them may
take twice as long as another behind many."""
COMPUTED = 32
"""Of them; the rest are these again."""
SAMPLES = 4
"""Steps of a kind that are timed where there is no time for all."""
SLOW = 3.0
"""A variant this much slower than another over all the steps is not timed again."""
FEWEST_ROUNDS, MOST_ROUNDS = 3, 9

Seconds = npt.NDArray[np.float64]
Times = Mapping[str, Mapping[str, float]]
"""Seconds of a step by the name of its kind and by variant, the usual variant first."""


def variants_of(op_type: str) -> dict[str, Kernel]:
    """Return an operator's kernels that this processor runs, by variant, the usual one first."""
    found = [kernels.find(op_type, name) for name in simd.available(cpu.host())]
    return {kernel.variant: kernel for kernel in found}


def time_variants(engine: Engine, tokens: int, seconds: float) -> Times:
    """Return what a step of each kind takes with each variant, in a call of so many tokens.

    Kinds that have one variant are left out.

    Args:
        engine: with the plan, and room for ``CONTEXT`` and the tokens in its context.
        tokens: at most the engine's chunk.
        seconds: when to stop; each variant is timed once at least.
    """
    end = time.perf_counter() + seconds
    cache = engine.new_cache()
    before = min(CONTEXT, engine.context_length - tokens)
    if before > 0:
        engine.forward(np.full(min(COMPUTED, before), TOKEN_ID), cache, [])
        cache.repeat(before)
    with engine.prepared(np.full(tokens, TOKEN_ID), cache) as table:
        race = _Race(engine, table)
        times = race.first_times()
        fast = _fast(times)
        if len(fast) > 1:
            most = race.affordable_samples(times, len(fast), end)
            for name, by_variant in race.medians(fast, most, end).items():
                times[name].update(by_variant)
    return {name: by_variant for name, by_variant in times.items() if len(by_variant) > 1}


def _fast(times: Times) -> list[str]:
    """Return the variants that come into question."""
    totals = {
        variant: sum(_seconds(own, variant) for own in times.values())
        for variant in simd.available(cpu.host())
    }
    return [name for name, total in totals.items() if total <= SLOW * min(totals.values())]


def _seconds(own: Mapping[str, float], variant: str) -> float:
    """Return the seconds of a kind where a variant is chosen, of which it may have none."""
    while variant not in own and variant != simd.PORTABLE:
        variant = simd.find(variant).base or simd.PORTABLE
    return own[variant]


class _Race:
    """The steps of one prepared call, with the kernels of any variant."""

    def __init__(self, engine: Engine, table: npt.NDArray[np.int64]) -> None:
        self._engine = engine
        self._table = table
        self._names = [str(kind_of(engine.plan, step)) for step in engine.steps]
        self._counts = Counter(self._names)

    def first_times(self) -> dict[str, dict[str, float]]:
        """Return the seconds of the first step of each kind, by kind and variant."""
        indices = self._sample(1)
        variants = simd.available(cpu.host())
        self._run(indices, variants[0])  # reads the weights from disk
        taken = {variant: [self._run(indices, variant)] for variant in variants}
        return self._by_kind(indices, taken)

    def affordable_samples(self, times: Times, variants: int, end: float) -> int:
        """Return how many steps of a kind to time: all, if a few rounds of that take no longer."""
        whole = sum(
            count * next(iter(times[name].values())) for name, count in self._counts.items()
        )
        rest = end - time.perf_counter()
        return len(self._names) if whole * variants * FEWEST_ROUNDS <= rest else SAMPLES

    def medians(
        self, variants: Sequence[str], most: int, end: float
    ) -> dict[str, dict[str, float]]:
        """Return median seconds by kind and variant, of rounds until ``end``, but one at least."""
        indices = self._sample(most)
        taken: dict[str, list[Seconds]] = {variant: [] for variant in variants}
        order = list(variants)
        for _ in range(MOST_ROUNDS):
            for variant in order:
                taken[variant].append(self._run(indices, variant))
            order.reverse()  # the first one may find less in the caches
            if time.perf_counter() > end:
                break
        return self._by_kind(indices, taken)

    def _sample(self, most: int) -> list[int]:
        """Return the indices of the first steps of each kind, in the order of a call."""
        seen = Counter[str]()
        indices = []
        for index, name in enumerate(self._names):
            seen[name] += 1
            if seen[name] <= most:
                indices.append(index)
        return indices

    def _run(self, indices: Sequence[int], variant: str) -> Seconds:
        """Time steps with a variant, or with the portable kernel where there is none of it."""
        rows = self._table[np.array(indices)]
        for row, index in zip(rows, indices, strict=True):
            kernel = kernels.find(self._engine.steps[index].op_type, variant)
            row[0] = _objects.kernel_address(kernel)
        return time_rows(self._engine, rows)

    def _by_kind(
        self, indices: Sequence[int], taken: Mapping[str, Sequence[Seconds]]
    ) -> dict[str, dict[str, float]]:
        """Return the seconds of a step by kind and variant: medians of rounds, means of steps."""
        times: dict[str, dict[str, float]] = {}
        for variant, rounds in taken.items():
            medians = np.median(rounds, axis=0).tolist()
            groups: dict[str, list[float]] = {}
            for index, seconds in zip(indices, medians, strict=True):
                if variant in variants_of(self._engine.steps[index].op_type):
                    groups.setdefault(self._names[index], []).append(seconds)
            for name, own in groups.items():
                times.setdefault(name, {})[variant] = statistics.mean(own)
        return times
