"""The compiled kernels, through the engine."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgellm.bundle import Bundle
from edgellm.errors import ConfigError
from edgellm.graph_names import IDS, LOGITS, POSITIONS, ROWS, present_name
from edgellm.runtime import encoder_contract
from edgellm.runtime.encoder_engine import EncoderEngine
from edgellm.runtime.engine import Engine
from edgellm.runtime.plan import Plan

Array = npt.NDArray[np.generic]


class Executor:
    """Run a plan with compiled kernels, on any number of threads and in chunks of any size."""

    def __init__(
        self, bundle: Bundle, plan: Plan, *, threads: int = 1, chunk: int | None = None
    ) -> None:
        self._plan = plan
        self._threads = threads
        self._context_length = bundle.manifest.context_length
        self._encoder: EncoderEngine | None = None
        if bundle.manifest.task in encoder_contract.TASKS:
            self._encoder = EncoderEngine(plan, bundle.manifest, threads=threads, chunk=chunk)
            return
        self._engine = Engine(
            plan, context_length=self._context_length, threads=threads, chunk=chunk
        )

    def run(self, feeds: Mapping[str, Array], *, trace: bool = False) -> dict[str, Array]:
        """Return the graph's outputs by name, or every value that a step makes when tracing.

        Raises:
            ConfigError: the feeds are not those of one call of a language model or an encoder.
        """
        if self._encoder is not None:
            return self._encoder.run(feeds, trace=trace)
        ids = feeds[IDS].astype(np.int64)
        rows = feeds[ROWS].tolist()
        engine = self._trace_engine(max(len(ids), len(rows))) if trace else self._engine
        past = {name: feeds[name] for name in self._plan.cache_inputs}
        grown = [array for name, array in past.items() if name not in self._plan.states]
        length = len(grown[0]) if grown else int(feeds[POSITIONS][0])
        if not np.array_equal(feeds[POSITIONS], np.arange(length, length + len(ids))):
            raise ConfigError(f"{POSITIONS} must count on from the {length} positions of the cache")
        cache = engine.new_cache(min(length + len(ids), self._context_length))
        cache.import_arrays(past, length)
        if trace:
            values = engine.trace(ids, cache, rows)
            engine.close()
            return values
        logits = engine.forward(ids, cache, rows)
        present = {present_name(name): array for name, array in cache.export_arrays().items()}
        return {LOGITS: logits, **present}

    def _trace_engine(self, tokens: int) -> Engine:
        return Engine(
            self._plan,
            context_length=self._context_length,
            threads=self._threads,
            chunk=max(tokens, 1),
        )
