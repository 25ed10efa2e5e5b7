"""Find out which kernels and how many threads run a plan fastest on this machine; and remember it.

Every choice gives the same bits.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgellm.errors import ConfigError
from edgellm.runtime import cpu
from edgellm.runtime.choices import Choices, kind_of
from edgellm.runtime.engine import DEFAULT_CHUNK, Engine
from edgellm.runtime.kernel_timing import CONTEXT, Times, time_variants, variants_of
from edgellm.runtime.kernels import simd
from edgellm.runtime.kernels._compiler import Progress, compile_missing
from edgellm.runtime.plan import Plan
from edgellm.runtime.profile import TOKEN_ID
from edgellm.runtime.tuning import Tuning, recall, remember

SECONDS = 3.0
"""What all measurements may take, but each runs once at least; a round in progress is finished."""
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
class TuneResult:
    """All measurements, what they took, and the file that the choices are kept in."""

    variants: tuple[VariantTime, ...]
    threads: tuple[ThreadTime, ...]
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


def recall_or_tune(plan: Plan, context_length: int, progress: Progress) -> Tuning:
    """Return what is known about a plan, after finding it out where it is not; see ``tune``.

    Where the environment has chosen the kernels, nothing is left to find out.

    Args:
        plan: whose steps and weights.
        context_length: most tokens of a text.
        progress: of compiling what is to be timed.
    """
    known = recall(plan)
    if simd.forced() or is_tuned(plan, known):
        return known
    compile_variants(plan, progress)
    return tune(plan, context_length=context_length).tuning


def is_tuned(plan: Plan, tuning: Tuning) -> bool:
    """Tell whether nothing about a plan is left to find out."""
    open_kinds = {str(kind_of(plan, step)) for step in plan.steps if len(variants_of(step)) > 1}
    choices = tuning.choices
    return open_kinds <= choices.one.keys() & choices.many.keys() and tuning.threads is not None


def compile_variants(plan: Plan, progress: Progress) -> None:
    """Compile every kernel that the tuner may run."""
    compile_missing(
        [kernel for step in plan.steps for kernel in variants_of(step).values()], progress
    )


def tune(
    plan: Plan,
    *,
    context_length: int,
    seconds: float | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> TuneResult:
    """Time variants and numbers of threads, and remember the best.

    Args:
        plan: whose steps and weights.
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
    chunk = min(DEFAULT_CHUNK, context_length)
    context = min(context_length, CONTEXT + chunk)
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


def _time_engines(engines: Mapping[int, Engine], end: float) -> dict[int, float]:
    """Let the engines fill their contexts in turn until ``end``, but once at least.

    Returns:
        Seconds a token, medians.
    """
    token = np.full(1, TOKEN_ID)
    caches = {count: engine.new_cache() for count, engine in engines.items()}
    taken: dict[int, list[float]] = {count: [] for count in engines}
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
