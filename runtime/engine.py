"""Run a plan: one compiled call a chunk of tokens, on all threads, without Python in between."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError, ContextLengthError
from edgellm.graph_names import (
    IDS,
    LOGIT_COUNT,
    LOGITS,
    PAST_LENGTH,
    POSITIONS,
    ROWS,
    TOKENS,
    present_name,
)
from edgellm.runtime.choices import Choices
from edgellm.runtime.kernels import simd
from edgellm.runtime.kv_cache import KvCache
from edgellm.runtime.machine import Machine
from edgellm.runtime.plan import TOP, Plan, Step, call_sizes

DEFAULT_CHUNK = 128
"""Tokens a call. 64 are as fast with ternary weights; int8 and low-bit ones take longer to lay out,
and 128 are 10 and 23 % faster (AVX-512 VNNI, 0.3 billion weights), 256 no more."""
MATRIX_CHUNK = 256
"""Tokens a call where products use matrix tiles: unpacking weights takes as long as the products of
some 40 tokens. 512 was not compared: the arena would be twice as large."""
SHARED_WORK_BYTES = 4 << 20
"""Bytes of weights, times tokens, below which one thread does a call alone: it takes 0.1 to 0.4 ms
then, and waking another thread and meeting it 60 times (5 layers) takes 0.1 ms."""

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.int32]


def usual_chunk(plan: Plan, choices: Choices) -> int:
    """Return how many tokens a call of a plan takes at most, if nobody says otherwise."""
    variants = {choices.kernel(plan, step, many=True).variant for step in plan.steps}
    units = [simd.find(variant) for variant in variants - {simd.PORTABLE}]
    return MATRIX_CHUNK if any(unit.matrix_tiles for unit in units) else DEFAULT_CHUNK


class Engine:
    """A lowered plan with its arena and threads; the state of a text is in its KvCache.

    Calls from several threads are made one after the other.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        context_length: int,
        threads: int,
        chunk: int | None = None,
        choices: Choices | None = None,
    ) -> None:
        """Compile or load the kernels, and lower the plan.

        Args:
            plan: a checked graph.
            context_length: positions a cache has room for.
            threads: how many run each step, the caller's own included.
            chunk: tokens a call; longer inputs take several. Default: what suits the kernels.
            choices: which kernels run; default: the best for this processor.

        Raises:
            ConfigError: a count is out of range.
        """
        if chunk is not None and chunk < 1:
            raise ConfigError(f"chunk is {chunk}; it must be at least 1")
        self.plan = plan
        self.context_length = context_length
        self.threads = threads
        self.vocab_size = plan.vocab_size
        self.choices = choices or Choices()
        self.chunk = min(chunk or usual_chunk(plan, self.choices), context_length)
        self.bytes_per_token = plan.weight_bytes_per_token()
        self._machine = Machine(plan, call_sizes(self.chunk), threads, self.choices)
        self.arena_bytes = self._machine.arena_bytes
        self._ids = np.zeros(self.chunk, np.int64)
        self._positions = np.zeros(self.chunk, np.int64)
        self._rows = np.zeros(self.chunk, np.int64)
        for name, array in ((IDS, self._ids), (POSITIONS, self._positions), (ROWS, self._rows)):
            self._machine.bind(name, array)
        self._counting = np.arange(context_length)
        after = [present_name(name) for name in plan.states]
        self._cache_slots = self._machine.slots([*plan.cache_inputs, *after])
        self._bound: npt.NDArray[np.int64] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def new_cache(self, capacity: int | None = None) -> KvCache:
        """Return an empty cache for the whole context, or for ``capacity`` positions."""
        values = [self.plan.values[name] for name in self.plan.cache_inputs]
        return KvCache(values, self.context_length if capacity is None else capacity)

    def forward(
        self, ids: Ids, cache: KvCache, rows: Sequence[int] | None = None, top: int = 0
    ) -> Logits:
        """Append tokens to a cache and return logits.

        Args:
            ids: (n,) token ids, n >= 1.
            cache: made by ``new_cache``; it grows by n, or by whole chunks when interrupted.
            rows: which of the n tokens to score; the last one if None.
            top: how many of the best logits of a row are wanted; 0 for all. Others may then be
                -2^31, which is below all logits; those that are as good as the last wanted are not.

        Returns:
            (len(rows), vocab_size) int32, in the order of rows; the caller owns it.

        Raises:
            ConfigError: no token, an id outside the vocabulary, a row outside the tokens, or top
                below 0.
            ContextLengthError: the cache has no room for n tokens.
        """
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        chosen = self._check(ids, cache, rows)
        if top < 0:
            raise ConfigError(f"top is {top}; it must be 0, for all logits, or more")
        if len(chosen) > self.chunk:  # the arena has room for the rows of a chunk, each once
            once, places = np.unique(chosen, return_inverse=True)
            if len(once) < len(chosen):
                return self.forward(ids, cache, once.tolist(), top)[places]
        logits = np.empty((len(chosen), self.vocab_size), np.int32)
        if len(ids) <= self.chunk:
            self._forward_chunk(ids, cache, chosen, logits, top)
            return logits
        for begin in range(0, len(ids), self.chunk):
            part = ids[begin : begin + self.chunk]
            inside = np.flatnonzero((chosen >= begin) & (chosen < begin + len(part)))
            scored = np.empty((len(inside), self.vocab_size), np.int32)
            self._forward_chunk(part, cache, chosen[inside] - begin, scored, top)
            logits[inside] = scored
        return logits

    def _forward_chunk(self, ids: Ids, cache: KvCache, rows: Ids, logits: Logits, top: int) -> None:
        with self._lock:
            self._prepare(ids, cache, rows, logits, top)
            self._run(len(ids))
            cache.advance(len(ids))

    def trace(
        self, ids: Ids, cache: KvCache, rows: Sequence[int] | None = None
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Do what ``forward`` does, step by step, and return every value that a step makes.

        Raises:
            ConfigError: as ``forward``, and for more tokens or rows than a chunk.
            ContextLengthError: as ``forward``.
        """
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        chosen = self._check(ids, cache, rows)
        if max(len(ids), len(chosen)) > self.chunk:
            raise ConfigError(
                f"{len(ids)} tokens and {len(chosen)} rows to trace; the chunk is {self.chunk}"
            )
        logits = np.empty((len(chosen), self.vocab_size), np.int32)
        values: dict[str, npt.NDArray[np.generic]] = {}
        with self._lock:
            self._prepare(ids, cache, chosen, logits)
            for index, step in enumerate(self.steps):
                self._run(len(ids), index, 1)
                for name in step.outputs:
                    value = self._machine.copy_value(name)
                    if value is not None:
                        values[name] = value
            cache.advance(len(ids))
        for past, array in cache.export_arrays().items():
            values[present_name(past)] = array
        values[LOGITS] = logits
        return values

    @contextmanager
    def prepared(self, ids: Ids, cache: KvCache) -> Iterator[npt.NDArray[np.int64]]:
        """Prepare a call to run and time its steps apart; the cache stays as long as it is.

        Args:
            ids: (n,) token ids, at most a chunk.
            cache: what is behind its end is overwritten.

        Yields:
            (steps, width) int64, a row a step, in the order of ``steps``; for ``run_rows``, inside
            the block only.

        Raises:
            ConfigError: as ``forward``, and for more tokens than a chunk.
            ContextLengthError: as ``forward``.
        """
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        chosen = self._check(ids, cache, None)
        if len(ids) > self.chunk:
            raise ConfigError(f"{len(ids)} tokens to prepare; the chunk is {self.chunk}")
        logits = np.empty((1, self.vocab_size), np.int32)
        with self._lock:
            self._prepare(ids, cache, chosen, logits)
            yield self._machine.table

    def run_rows(self, rows: npt.NDArray[np.int64]) -> None:
        """Run rows of a prepared call, or copies of them, on this thread alone."""
        self._machine.run_rows(rows)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps in the order in which they run."""
        return self._machine.steps

    def _check(self, ids: Ids, cache: KvCache, rows: Sequence[int] | None) -> Ids:
        """Return the rows to score, after checking everything a kernel uses as an index."""
        if self._closed:
            raise ConfigError("the engine is closed")
        if ids.ndim != 1 or len(ids) == 0:
            raise ConfigError(f"token ids have shape {ids.shape}; at least one token is needed")
        low, high = (int(ids[0]),) * 2 if len(ids) == 1 else (int(ids.min()), int(ids.max()))
        if low < 0 or high >= self.vocab_size:
            wrong = low if low < 0 else high
            raise ConfigError(f"token id {wrong}; allowed are 0 to {self.vocab_size - 1}")
        room = min(cache.capacity, self.context_length)
        if cache.length + len(ids) > room:
            raise ContextLengthError(
                f"{cache.length} + {len(ids)} tokens do not fit in the context of {room}"
            )
        if rows is None:
            return np.array([len(ids) - 1])
        chosen = np.array(rows, dtype=np.int64).reshape(-1)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(ids)):
            raise ConfigError(f"rows {chosen.min()} to {chosen.max()} of {len(ids)} tokens")
        return chosen

    def _prepare(self, ids: Ids, cache: KvCache, rows: Ids, logits: Logits, top: int = 0) -> None:
        """Write the sizes of this call, and the addresses of its arrays, into the table."""
        count, length = len(ids), cache.length
        self._machine.use_kernels_for(many=count > 1)
        self._ids[:count] = ids
        self._positions[:count] = self._counting[length : length + count]
        self._machine.write_size(TOKENS, count)
        self._machine.write_size(PAST_LENGTH, length)
        self._machine.write_size(f"{PAST_LENGTH}+{TOKENS}", length + count)
        self._machine.write_size(LOGIT_COUNT, len(rows))
        self._machine.write_size(TOP, top)
        if len(rows) > len(self._rows):
            self._rows = np.zeros(len(rows), np.int64)
            self._machine.bind(ROWS, self._rows)
        self._rows[: len(rows)] = rows
        self._machine.bind(LOGITS, logits)
        cache.make_room(length + count)
        if self._bound is not cache.addresses:
            places, owners = self._cache_slots
            self._machine.bind_slots(places, cache.addresses[owners])
            self._bound = cache.addresses

    def _run(self, tokens: int, first: int = 0, count: int | None = None) -> None:
        """Run ``count`` steps from ``first``, on all threads if the work is worth it."""
        alone = self.bytes_per_token * tokens < SHARED_WORK_BYTES
        self._machine.run(first, count, alone=alone)

    def waited_seconds(self) -> npt.NDArray[np.float64]:
        """Return (threads,) how long each thread has waited for the others so far."""
        return self._machine.waited_seconds()

    def close(self) -> None:
        """End the threads; the engine cannot run after that. A second call does nothing."""
        self._closed = True
        self._machine.close()
