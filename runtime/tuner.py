"""Find out which kernels and how many threads run a plan fastest on this machine; and remember it.

Every choice gives the same bits.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgellm.dtypes import TERNARY_2BIT
from edgellm.errors import ConfigError
from edgellm.runtime import cpu, layouts
from edgellm.runtime.choices import Choices, kind_of
from edgellm.runtime.engine import Engine
from edgellm.runtime.kernel_timing import CONTEXT, Times, time_variants, variants_of
from edgellm.runtime.kernels import simd
from edgellm.runtime.kernels._compiler import Progress, compile_missing
from edgellm.runtime.plan import Plan
from edgellm.runtime.process_memory import available_memory_bytes
from edgellm.runtime.profile import TOKEN_ID
from edgellm.runtime.tuning import (
    Tuning,
    recall,
    recall_look_ups,
    remember,
    remember_look_ups,
)
from edgellm.ternary_layouts import GATED_OPERATORS, LAYOUT_OF, TERNARY_LAYOUTS
from edgellm.ternary_planes import TERNARY_PLANES

Key = TypeVar("Key", bound=int)

SECONDS = 3.0
"""What all measurements may take, but each runs once at least; a round in progress is finished."""
MANY = 64
"""Tokens of the calls that stand for prompts: half of a usual one, which takes a second longer."""
GAIN = 0.97
"""The usual choice stays unless another takes at most this part of its time: clocks waver."""
MOST_ROUNDS = 9
TOKENS_A_ROUND = 2


@dataclass(frozen=True, kw_only=True)
class VariantTime:
    """What a step of a kind takes with a variant, in a call of one token or of ``tokens``."""

    operator: str
    tokens: int
    variant: str
    seconds: float
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class ThreadTime:
    """What a decoded token takes with so many threads."""

    threads: int
    seconds: float
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class LayoutTime:
    """What a decoded token takes on one thread, with ternary weights for look-ups or not."""

    look_ups: bool
    seconds: float
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """All measurements, what they took, and the file that the choices are kept in."""

    variants: tuple[VariantTime, ...]
    threads: tuple[ThreadTime, ...]
    layouts: tuple[LayoutTime, ...]
    seconds: float
    path: str

    @property
    def tuning(self) -> Tuning:
        """What was chosen."""
        one, many = (
            {item.operator: item.variant for item in self.variants
             if item.chosen and (item.tokens > 1) == several}
            for several in (False, True)
        )  # fmt: skip
        (threads,) = (count.threads for count in self.threads if count.chosen)
        return Tuning(Choices(one=one, many=many), threads)


def tune_if_unknown(plan: Plan, context_length: int, progress: Progress) -> None:
    """Find out and remember what is not yet known about a plan; see ``tune``.

    Where the environment has chosen the kernels, nothing is left to find out.

    Args:
        plan: as the bundle has it.
        context_length: most tokens of a text.
        progress: of compiling what is to be timed.
    """
    if simd.forced() or is_tuned(plan):
        return
    compile_variants(plan, progress)
    tune(plan, context_length=context_length)


def as_tuned(stored: Plan) -> tuple[Plan, Tuning]:
    """Return a plan of a bundle as it runs here, and what is known about it."""
    plan = layouts.for_this_machine(stored, recall_look_ups(stored))
    return plan, recall(plan)


def is_tuned(stored: Plan) -> bool:
    """Tell whether nothing about a plan, as the bundle has it, is left to find out."""
    if recall_look_ups(stored) is None and can_look_up(stored):
        return False
    plan, tuning = as_tuned(stored)
    open_kinds = {
        str(kind_of(plan, step)) for step in plan.steps if len(variants_of(step.op_type)) > 1
    }
    choices = tuning.choices
    return open_kinds <= choices.one.keys() & choices.many.keys() and tuning.threads is not None


def compile_variants(plan: Plan, progress: Progress) -> None:
    """Compile every kernel that the tuner may run on a plan, as the bundle has it."""
    op_types = {step.op_type for step in plan.steps}
    if can_look_up(plan):
        other = {TERNARY_LAYOUTS[name] for name in (TERNARY_2BIT, TERNARY_PLANES)}
        unused = GATED_OPERATORS if op_types.isdisjoint(GATED_OPERATORS) else ()
        of_other = {op_type for op_type, layout in LAYOUT_OF.items() if layout in other}
        op_types |= of_other.difference(unused)
    compile_missing(
        [kernel for name in sorted(op_types) for kernel in variants_of(name).values()], progress
    )


def can_look_up(plan: Plan) -> bool:
    """Tell whether weights of a plan can be looked up or multiplied here, whichever is faster.

    They have one layout or the other; for the other there has to be memory.
    """
    size = layouts.converted_bytes(plan, TERNARY_PLANES)
    size += layouts.converted_bytes(plan, TERNARY_2BIT, (TERNARY_PLANES,))
    return layouts.looks_up(simd.chosen(cpu.host())) and 0 < size <= available_memory_bytes()


def tune(
    plan: Plan,
    *,
    context_length: int,
    seconds: float | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> TuneResult:
    """Time variants and numbers of threads, and remember the best.

    Args:
        plan: as the bundle has it.
        context_length: most tokens of a text.
        seconds: what the measurements may take, default SECONDS; compiling comes on top of it.
        progress: called with a line before each measurement.

    Raises:
        ConfigError: the environment has chosen the kernels already.
    """
    if simd.forced():
        raise ConfigError(
            f"{simd.ENVIRONMENT} is {simd.forced()!r}, which goes before what the tuner finds; "
            "unset it to tune"
        )
    compile_variants(plan, lambda _done, _total: None)
    seconds = SECONDS if seconds is None else seconds
    begin = time.perf_counter()
    chunk = min(MANY, context_length)
    context = min(context_length, CONTEXT + chunk)
    by_layout = {}
    if can_look_up(plan):
        progress("layouts of ternary weights")
        by_layout = _time_layouts(plan, seconds / 4)
        remember_look_ups(plan, min(by_layout, key=lambda look_ups: by_layout[look_ups]))
    plan = layouts.for_this_machine(plan, recall_look_ups(plan))
    engine = Engine(plan, context_length=context, threads=1, chunk=chunk)
    progress("kernels for one token")
    one = time_variants(engine, 1, seconds / 4)
    progress(f"kernels for {chunk} tokens")
    many = time_variants(engine, chunk, seconds / 4) if chunk > 1 else {}
    engine.close()
    choices = Choices(one=_fastest(one), many=_fastest(many))
    progress("threads")
    remaining = seconds - (time.perf_counter() - begin)
    by_threads = _time_threads(plan, choices, context, remaining)
    # Of counts that are as good for one token, the largest: prefill uses all of them.
    best = min(by_threads.values())
    threads = max(count for count, taken in by_threads.items() if taken * GAIN <= best)
    return TuneResult(
        variants=(*_listed(one, choices.one, 1), *_listed(many, choices.many, chunk)),
        threads=tuple(
            ThreadTime(threads=count, seconds=taken, chosen=count == threads)
            for count, taken in by_threads.items()
        ),
        layouts=tuple(
            LayoutTime(look_ups=look_ups, seconds=taken, chosen=taken == min(by_layout.values()))
            for look_ups, taken in by_layout.items()
        ),
        seconds=time.perf_counter() - begin,
        path=str(remember(plan, Tuning(choices, threads))),
    )


def _fastest(times: Times) -> dict[str, str]:
    """Return the variant of each kind: the usual one, which is the first, unless one is faster."""
    chosen = {}
    for name, by_variant in times.items():
        usual = next(iter(by_variant))
        best = min(by_variant, key=lambda variant: by_variant[variant])
        chosen[name] = best if by_variant[best] < GAIN * by_variant[usual] else usual
    return chosen


def _listed(times: Times, chosen: Mapping[str, str], tokens: int) -> list[VariantTime]:
    return [
        VariantTime(
            operator=name,
            tokens=tokens,
            variant=variant,
            seconds=taken,
            chosen=variant == chosen[name],
        )
        for name, by_variant in times.items()
        for variant, taken in by_variant.items()
    ]


def _counts(cores: int) -> list[int]:
    """Return the numbers of threads to try: all of a few, powers of two of many."""
    if cores <= 8:
        return list(range(1, cores + 1))
    return [*(1 << bit for bit in range(cores.bit_length()) if 1 << bit < cores), cores]


def _time_layouts(plan: Plan, seconds: float) -> dict[bool, float]:
    """Return the seconds of a decoded token with weights for look-ups (True) and without."""
    engines = {
        look_ups: Engine(
            layouts.arranged(plan, look_ups=look_ups),
            context_length=TOKENS_A_ROUND,
            threads=1,
            chunk=1,
        )
        for look_ups in (False, True)
    }
    try:
        return _time_engines(engines, time.perf_counter() + seconds)
    finally:
        for engine in engines.values():
            engine.close()


def _time_threads(
    plan: Plan, choices: Choices, context_length: int, seconds: float
) -> dict[int, float]:
    """Return the seconds of a decoded token by number of threads."""
    context_length = min(context_length, TOKENS_A_ROUND)
    engines = {
        count: Engine(plan, context_length=context_length, threads=count, chunk=1, choices=choices)
        for count in _counts(cpu.host().physical_cores)
    }
    try:
        return _time_engines(engines, time.perf_counter() + seconds)
    finally:
        for engine in engines.values():
            engine.close()


def _time_engines(engines: Mapping[Key, Engine], end: float) -> dict[Key, float]:
    """Let the engines fill their contexts in turn until ``end``, but once at least.

    Returns:
        Seconds a token, medians.
    """
    token = np.full(1, TOKEN_ID)
    caches = {count: engine.new_cache() for count, engine in engines.items()}
    taken: dict[Key, list[float]] = {count: [] for count in engines}
    for _ in range(1 + MOST_ROUNDS):
        for count, engine in engines.items():
            caches[count].truncate(0)
            begin = time.perf_counter()
            for _ in range(engine.context_length):
                engine.forward(token, caches[count])
            taken[count].append(time.perf_counter() - begin)
        if time.perf_counter() > end:
            break
    return {
        # The first round fills the caches, unless it was the only one.
        count: statistics.median(seconds[1:] or seconds) / engines[count].context_length
        for count, seconds in taken.items()
    }
