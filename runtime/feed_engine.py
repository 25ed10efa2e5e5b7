"""Generate text with any executor: the engine's interface over arrays that go in and come out."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgellm.errors import ConfigError, ContextLengthError
from edgellm.graph_names import IDS, LOGITS, POSITIONS, ROWS, present_name
from edgellm.runtime.kv_cache import KvCache
from edgellm.runtime.plan import Plan

Arrays = Mapping[str, npt.NDArray[np.generic]]


class ArrayExecutor(Protocol):
    """What the executors have in common."""

    def run(self, feeds: Arrays, *, trace: bool = False) -> dict[str, npt.NDArray[np.generic]]:
        """Return the graph's outputs by name, or every value when tracing."""


class FeedEngine:
    """Run an executor token by token; the cache goes in and comes out as arrays."""

    def __init__(self, executor: ArrayExecutor, plan: Plan, context_length: int) -> None:
        self._executor = executor
        self._plan = plan
        self.context_length = context_length
        self.vocab_size = plan.vocab_size
        self.threads = 1

    def new_cache(self) -> KvCache:
        """Return an empty cache."""
        values = [self._plan.values[name] for name in self._plan.cache_inputs]
        return KvCache(values, self.context_length)

    def forward(
        self,
        ids: npt.NDArray[np.int64],
        cache: KvCache,
        rows: Sequence[int] | None = None,
        top: int = 0,
    ) -> npt.NDArray[np.int32]:
        """Append tokens to a cache and return all logits: see ``Engine.forward``."""
        del top
        count = len(ids)
        if count == 0 or np.min(ids) < 0 or np.max(ids) >= self.vocab_size:
            raise ConfigError(f"needed are token ids from 0 to {self.vocab_size - 1}")
        if cache.length + count > cache.capacity:
            raise ContextLengthError(
                f"{cache.length} + {count} tokens do not fit in the context of {cache.capacity}"
            )
        feeds = {
            IDS: np.asarray(ids, np.int64),
            POSITIONS: np.arange(cache.length, cache.length + count),
            ROWS: np.array([count - 1] if rows is None else rows, np.int64),
            **cache.export_arrays(),
        }
        outputs = self._executor.run(feeds)
        arrays = {past: outputs[present_name(past)] for past in self._plan.cache_inputs}
        cache.import_arrays(arrays, cache.length + count)
        return outputs[LOGITS].astype(np.int32, copy=False)

    def close(self) -> None:
        """Nothing to release."""
