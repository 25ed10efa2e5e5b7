"""Where the time of a call goes: every kind of step, timed in its place among the others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm import ops
from edgellm.cache_layout import ATTENTIONS
from edgellm.graph_names import LOGIT_COUNT
from edgellm.runtime import cpu
from edgellm.runtime.choices import Kind, kind_of
from edgellm.runtime.engine import Engine
from edgellm.runtime.kernels import simd
from edgellm.runtime.kv_cache import KvCache
from edgellm.runtime.limits import dot_peak, read_bandwidth
from edgellm.runtime.plan import Plan, Step

TOKEN_ID = 0
"""What is fed; speed does not depend on the id."""
CLOCK_NS = 10
"""No step is taken to be quicker than this: the clock cannot tell."""
MARKS = 20
"""Times noted one after the other, for what noting one takes."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class OpFigures:
    """The steps of one kind in one call.

    Attributes:
        operator: its type and fixed sizes.
        variant: of the kernel that ran.
        calls: steps of this kind.
        seconds: they took together, on one thread.
        share: of the whole call.
        bytes_read: weights and cached keys and values that they read.
        products: multiply-accumulates of codes, 0 where the operator is no matrix product.
        limit_share: the time that the memory needs for bytes_read, or the dot products' peak for
            products if that is longer, as a share of seconds; None without products.
    """

    operator: str
    variant: str
    calls: int
    seconds: float
    share: float
    bytes_read: int
    products: int
    bytes_per_s: float
    products_per_s: float
    limit_share: float | None


@dataclass(frozen=True, kw_only=True)
class CallFigures:
    """One call, of one token (decode) or more (prefill), on one thread."""

    tokens: int
    context: int
    seconds: float
    operators: tuple[OpFigures, ...]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Calls by operator, and the limits measured beside them, of one thread."""

    decode: CallFigures
    prefill: CallFigures
    bytes_per_s: float
    products_per_s: float | None


def profile(engine: Engine, context: int, repetitions: int = 5) -> Profile:
    """Measure a decoded token, and a chunk of prefill, by operator, on one thread.

    Args:
        engine: what runs.
        context: tokens of the prefill, at most a chunk, and tokens before the one that is decoded.
        repetitions: how often each is measured; medians count.

    Raises:
        ContextLengthError: the context and a token do not fit in the engine's.
    """
    cache = engine.new_cache()
    tokens = min(context, engine.chunk)
    prefill = time_steps(engine, np.full(tokens, TOKEN_ID), cache, repetitions)
    peak = dot_peak(simd.chosen(cpu.host()), 1)
    engine.forward(np.full(context, TOKEN_ID), cache, [])
    before = read_bandwidth(1)
    decode = time_steps(engine, np.full(1, TOKEN_ID), cache, repetitions)
    # On a shared machine it changes within a minute; with the larger one no share is too large.
    bandwidth = max(before, read_bandwidth(1))
    limits = (bandwidth, peak)
    return Profile(
        decode=_figures(engine, decode, (context, 1), limits),
        prefill=_figures(engine, prefill, (0, tokens), limits),
        bytes_per_s=bandwidth,
        products_per_s=peak,
    )


def time_steps(engine: Engine, ids: Ids, cache: KvCache, repetitions: int = 5) -> list[float]:
    """Return the seconds that each step of a call takes on one thread, in the engine's order.

    The steps run as in a call, each after the one before it, so that what they read is as far
    away as it is there; the cache stays as long as it is.

    Args:
        engine: what runs.
        ids: (n,) token ids, at most a chunk.
        cache: made by the engine.
        repetitions: of the call; medians count.

    Raises:
        ConfigError: a wrong id, or more tokens than a chunk.
        ContextLengthError: no room for the tokens.
    """
    with engine.prepared(ids, cache) as table:
        rounds = [time_rows(engine, table) for _ in range(1 + repetitions)]
        return np.median(rounds[1:], axis=0).tolist()  # the first one filled the caches


def time_rows(engine: Engine, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the seconds (n,) that each of some rows takes, run one after the other.

    The walk through the program notes the time between them, so that nothing else runs there.

    Args:
        engine: what runs.
        rows: (n, width) of a prepared call, or copies.
    """
    count = len(rows)
    marks = np.zeros(count + 1 + MARKS, np.int64)
    notes = np.zeros((len(marks), rows.shape[1]), np.int64)
    notes[:, 1] = marks.ctypes.data + marks.itemsize * np.arange(len(marks))
    timed = np.empty((2 * count, rows.shape[1]), np.int64)
    timed[0::2], timed[1::2] = notes[:count], rows
    engine.run_rows(np.concatenate([timed, notes[count:]]))
    taken = np.diff(marks)
    own = np.median(taken[count:])  # what noting the time takes
    return np.maximum(taken[:count] - own, CLOCK_NS) / 1e9


def _figures(
    engine: Engine,
    times: Sequence[float],
    call: tuple[int, int],
    limits: tuple[float, float | None],
) -> CallFigures:
    """Add up the times of a call's steps by kind, the longest first.

    Args:
        engine: what ran.
        times: seconds, a step each.
        call: tokens before the call, and in it.
        limits: bytes and products a second.
    """
    context, tokens = call
    bandwidth, peak = limits
    groups: dict[Kind, list[int]] = {}
    for index, step in enumerate(engine.steps):
        groups.setdefault(kind_of(engine.plan, step), []).append(index)
    operators = []
    for kind, members in groups.items():
        step = engine.steps[members[0]]
        seconds = sum(times[index] for index in members)
        read = len(members) * bytes_of(engine.plan, step, context + tokens)
        products = len(members) * products_of(engine.plan, step, _keys_seen(step, context, tokens))
        least = max(read / bandwidth, products / peak if peak else 0.0)
        operators.append(
            OpFigures(
                operator=str(kind),
                variant=engine.choices.kernel(engine.plan, step, many=tokens > 1).variant,
                calls=len(members),
                seconds=seconds,
                share=seconds / sum(times),
                bytes_read=read,
                products=products,
                bytes_per_s=read / seconds,
                products_per_s=products / seconds,
                limit_share=least / seconds if products else None,
            )
        )
    operators.sort(key=lambda item: -item.seconds)
    return CallFigures(
        tokens=tokens, context=context, seconds=sum(times), operators=tuple(operators)
    )


def bytes_of(plan: Plan, step: Step, length: int) -> int:
    """Return the bytes of weights, and of cached keys and values, that a step reads at most once.

    Args:
        plan: whose step it is.
        step: the step.
        length: tokens in the cache after the call.
    """
    total = plan.weight_bytes(step)
    if step.op_type in ATTENTIONS:
        for name in step.inputs[1:]:
            value = plan.values[name]
            elements = length * math.prod(map(int, value.shape[1:]))
            total += elements * np.dtype(value.dtype).itemsize
    return total


def _keys_seen(step: Step, context: int, tokens: int) -> list[int]:
    """Return how many keys each token of a call sees."""
    window = step.attributes.get("window", 0) or context + tokens
    return [min(context + token + 1, window) for token in range(tokens)]


def products_of(plan: Plan, step: Step, keys_seen: Sequence[int]) -> int:
    """Return the multiply-accumulates of a step: with weights, or with keys and values.

    Args:
        plan: whose step it is.
        step: the step.
        keys_seen: for each token of the call, how many keys it sees.
    """
    schema = ops.find(step.op_type).SCHEMA
    first, columns = plan.values[step.inputs[0]].shape, plan.values[step.outputs[0]].shape[-1]
    match schema.outputs[0].name:
        case "acc" if first[0] != LOGIT_COUNT:
            return len(keys_seen) * int(first[-1]) * int(columns)
        case "acc" | "logits":  # of the last token
            return int(first[-1]) * int(columns)
    return 2 * int(columns) * sum(keys_seen) if step.op_type in ATTENTIONS else 0
