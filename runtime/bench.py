"""Measure a bundle on this machine: prefill and decode rates, start-up, memory, bandwidth."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgellm.bundle import WEIGHTS, open_bundle
from edgellm.dtypes import TERNARY_2BIT
from edgellm.errors import ConfigError
from edgellm.runtime import cpu, layouts
from edgellm.runtime.engine import Engine
from edgellm.runtime.kernels import simd
from edgellm.runtime.limits import BANDWIDTH_METHOD, read_bandwidth
from edgellm.runtime.loader import load_plan
from edgellm.runtime.model import Model
from edgellm.runtime.observations import GREEDY_BYTES, Observation, observe
from edgellm.runtime.plan import Plan
from edgellm.runtime.process_memory import peak_memory_bytes
from edgellm.runtime.profile import Profile, profile
from edgellm.runtime.tuning import recall_look_ups
from edgellm.ternary_planes import TERNARY_PLANES

TOKEN_ID = 0
"""What is fed; speed does not depend on the id."""


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What to measure: every length with every number of threads, several times."""

    prompt_lengths: tuple[int, ...] = (128,)
    generation_lengths: tuple[int, ...] = (64,)
    threads: tuple[int, ...] = ()
    repetitions: int = 5
    context: int | None = None
    by_operator: bool = False

    def __post_init__(self) -> None:
        """Check that all counts are positive."""
        lengths = (*self.prompt_lengths, *self.generation_lengths, self.repetitions)
        if not self.prompt_lengths or not self.generation_lengths or min(lengths) < 1:
            raise ConfigError(f"bench needs lengths and repetitions of at least 1, got {lengths}")


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Tokens per second, over the repetitions."""

    tokens: int
    median: float
    min: float
    max: float


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """The figures for one number of threads.

    ``waiting`` is for each thread the share of the decoding that it waited for the others.
    """

    threads: int
    load_time_s: float
    time_to_first_token_s: float
    prefill: tuple[Rate, ...]
    decode: tuple[Rate, ...]
    waiting: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Bandwidth:
    """What so many threads read from memory, and the share of it that decoding uses.

    ``decode_share`` is the bytes of weights that greedy decoding really reads a token * median
    decode rate (of the first length) / bytes_per_s.
    """

    threads: int
    bytes_per_s: float
    decode_share: float


@dataclass(frozen=True, kw_only=True)
class TernaryWeights:
    """The layouts of ternary weights.

    Attributes:
        stored: in the bundle.
        run: as they were run.
        export_layout: which to export with for this machine.
        suited: whether that is what the bundle has.
    """

    stored: tuple[str, ...]
    run: tuple[str, ...]
    export_layout: str
    suited: bool


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """A benchmark and what is needed to repeat it.

    ``kernel_variants`` holds for each operator type which of its kernels decode: for a vector unit,
    or "portable"; several where the tuner chose by shape. ``ternary_weights`` is there where some
    are ternary, ``profile`` where it was wanted.
    """

    bundle: str
    weights_sha256: str
    model_type: str
    num_parameters: int
    bits_per_weight: float
    repetitions: int
    bytes_per_token: int
    peak_memory_bytes: int
    read_bandwidth_method: str
    cpu_model: str
    cpu_name: str
    cpu_features: tuple[str, ...]
    kernel_variants: dict[str, str]
    ternary_weights: TernaryWeights | None
    rows: tuple[BenchRow, ...]
    read_bandwidth: tuple[Bandwidth, ...]
    observations: tuple[Observation, ...]
    profile: Profile | None


def bench(
    path: str | os.PathLike[str],
    request: BenchRequest,
    progress: Callable[[str], object] = lambda _: None,
) -> BenchResult:
    """Measure a bundle.

    Args:
        path: the bundle.
        request: what to measure.
        progress: called with a line before each measurement.

    Raises:
        ConfigError: a prompt and a generation together do not fit in the context.
    """
    host = cpu.host()
    rows = []
    for threads in request.threads or (host.physical_cores,):
        progress(f"{threads} threads: loading")
        begin = time.perf_counter()
        with Model(path, threads=threads, context=request.context) as model:
            load_time = time.perf_counter() - begin
            _check_lengths(request, model.engine.context_length)
            rows.append(_measure(model, request, load_time, progress))
            manifest, bytes_per_token = model.info, model.engine.bytes_per_token
            variants = _variants(model.engine)
            ternary = _ternary_weights(load_plan(open_bundle(path)), model.engine.plan)
    peak = peak_memory_bytes()  # before the bandwidth's array
    progress("observations")
    with Model(path, threads=1, context=request.context) as model:
        observations = observe(model)
        by_operator = _profile(model, request, progress) if request.by_operator else None
    progress("read bandwidth of the memory")
    (bytes_read,) = (item.value for item in observations if item.name == GREEDY_BYTES)
    bandwidths = tuple(_bandwidth(row, bytes_read) for row in rows)
    return BenchResult(
        bundle=str(path),
        weights_sha256=manifest.files[WEIGHTS].sha256,
        model_type=manifest.model_type,
        num_parameters=manifest.num_parameters,
        bits_per_weight=manifest.bits_per_weight,
        repetitions=request.repetitions,
        bytes_per_token=bytes_per_token,
        peak_memory_bytes=peak,
        read_bandwidth_method=BANDWIDTH_METHOD,
        cpu_model=host.model,
        cpu_name=host.name,
        cpu_features=tuple(name[1:] for name in host.features if name.startswith("+")),
        kernel_variants=variants,
        ternary_weights=ternary,
        rows=tuple(rows),
        read_bandwidth=bandwidths,
        observations=observations,
        profile=by_operator,
    )


def _variants(engine: Engine) -> dict[str, str]:
    names: dict[str, set[str]] = {}
    for step in engine.steps:
        variant = engine.choices.kernel(engine.plan, step, many=False).variant
        names.setdefault(step.op_type, set()).add(variant)
    return {op_type: ", ".join(sorted(names[op_type])) for op_type in sorted(names)}


def _ternary_weights(stored: Plan, plan: Plan) -> TernaryWeights | None:
    """Describe the weights of a plan, which a bundle has as ``stored``."""
    kept = layouts.names(stored)
    if not kept:
        return None
    # What has no whole blocks is not exported for look-ups.
    fits = TERNARY_PLANES in kept or layouts.converted_bytes(stored, TERNARY_PLANES) > 0
    look_ups = recall_look_ups(stored) if fits else False
    best = layouts.best_layout(simd.chosen(cpu.host()), look_ups)
    # Beside another layout, two bits are of what has no whole blocks of it.
    chosen = next((name for name in kept if name != TERNARY_2BIT), TERNARY_2BIT)
    return TernaryWeights(
        stored=kept,
        run=layouts.names(plan),
        export_layout=best.alias,
        suited=best.name == chosen,
    )


def _profile(model: Model, request: BenchRequest, progress: Callable[[str], object]) -> Profile:
    progress("1 thread: a call by operator")
    context = min(request.prompt_lengths[0], model.engine.context_length - 1)
    return profile(model.engine, context, request.repetitions)


def _check_lengths(request: BenchRequest, context: int) -> None:
    longest = max(*request.prompt_lengths, *(n + 1 for n in request.generation_lengths))
    if longest > context:
        raise ConfigError(
            f"the longest measurement needs {longest} tokens, the context holds {context}; "
            "choose smaller -p and -n"
        )


def _measure(
    model: Model, request: BenchRequest, load_time: float, progress: Callable[[str], object]
) -> BenchRow:
    threads = model.engine.threads
    times = {}
    for length in request.prompt_lengths:
        progress(f"{threads} threads: prefill of {length} tokens")
        times[length] = _repeat(_prefill_seconds, model, length, request.repetitions)
    decode = []
    waited, begin = model.engine.waited_seconds(), time.perf_counter()
    for length in request.generation_lengths:
        progress(f"{threads} threads: decode of {length} tokens")
        seconds = _repeat(_decode_seconds, model, length, request.repetitions)
        decode.append(_rate(length, seconds))
    waited = (model.engine.waited_seconds() - waited) / (time.perf_counter() - begin)
    return BenchRow(
        threads=threads,
        load_time_s=load_time,
        # The first token is chosen from the prompt's logits: an argmax later.
        time_to_first_token_s=statistics.median(times[request.prompt_lengths[0]]),
        prefill=tuple(_rate(length, seconds) for length, seconds in times.items()),
        decode=tuple(decode),
        waiting=tuple(waited.tolist()),
    )


def _repeat(
    measure: Callable[[Model, int], float], model: Model, length: int, repetitions: int
) -> list[float]:
    measure(model, length)  # the first run reads the weights from disk
    return [measure(model, length) for _ in range(repetitions)]


def _prefill_seconds(model: Model, length: int) -> float:
    session = model.session()
    begin = time.perf_counter()
    session.extend([TOKEN_ID] * length, top=1).argmax()
    return time.perf_counter() - begin


def _decode_seconds(model: Model, length: int) -> float:
    session = model.session()
    token = int(session.extend([TOKEN_ID], top=1).argmax())
    begin = time.perf_counter()
    for _ in range(length):
        token = int(session.extend([token], top=1).argmax())
    return time.perf_counter() - begin


def _rate(tokens: int, seconds: Sequence[float]) -> Rate:
    return Rate(
        tokens=tokens,
        median=tokens / statistics.median(seconds),
        min=tokens / max(seconds),
        max=tokens / min(seconds),
    )


def _bandwidth(row: BenchRow, bytes_read: float) -> Bandwidth:
    speed = read_bandwidth(row.threads)
    share = bytes_read * row.decode[0].median / speed
    return Bandwidth(threads=row.threads, bytes_per_s=speed, decode_share=share)
