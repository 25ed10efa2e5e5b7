"""Language models as engines: ours from a bundle, llama.cpp from a GGUF file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.peers.measures import Measure, mean_seconds, timed

PROMPT = 8
"""Tokens before those that are decoded."""
CONTEXT = 1024
BATCH = 512


@dataclass(frozen=True)
class Ours:
    """Our engine with a bundle; greedy asks for the best logit instead of all."""

    name: str
    bundle: Path
    greedy: bool = False

    def open(self) -> "OurRunner":
        return OurRunner(self.bundle, self.greedy)


class OurRunner:
    """Calls ``Engine.forward``; the bundle is opened again for another number of threads."""

    def __init__(self, bundle: Path, greedy: bool) -> None:
        self._bundle, self._top = bundle, int(greedy)
        self._open(1)
        # How much of the head a greedy token reads depends on its logits.
        self.weight_bytes = 0 if greedy else self._bytes_read()

    def _bytes_read(self) -> int:
        """Return the bytes of weights that a token with all logits reads, without those skipped."""
        from edgellm.runtime import sparsity

        skipped = sparsity.measure(self._model)
        return round(skipped.bytes_read) if skipped else self._model.engine.bytes_per_token

    def _open(self, threads: int) -> None:
        from edgellm.runtime.model import Model

        self._model = Model(self._bundle, threads=threads)
        capacity = min(CONTEXT, self._model.engine.context_length)
        self._cache = self._model.engine.new_cache(capacity)

    def seconds(self, measure: Measure) -> float:
        if self._model.engine.threads != measure.threads:
            self._model.close()
            self._open(measure.threads)
        engine, cache = self._model.engine, self._cache

        def feed(tokens: int) -> None:
            engine.forward(np.full(tokens, 7), cache, top=self._top)

        return phase_seconds(measure, feed, lambda: cache.truncate(0))


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp, as PyPI's llama-cpp-python builds it, with a GGUF file.

    It copies the weights of some formats to a layout of its own (AMX tiles, interleaved rows)
    unless ``repack`` is False.
    """

    name: str
    file: Path
    repack: bool = True

    def open(self) -> "LlamaCppRunner":
        return LlamaCppRunner(self.file, self.repack)


class LlamaCppRunner:
    """Calls ``llama_decode`` with token ids; nothing is sampled."""

    def __init__(self, file: Path, repack: bool) -> None:
        from llama_cpp import llama_cpp

        self._library = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
        llama_cpp.llama_log_set(self._quiet, None)
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.use_extra_bufts = repack
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), parameters)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {file}")
        self._context = self._new_context()
        self.weight_bytes = llama_cpp.llama_model_size(self._model)

    def _new_context(self):
        parameters = self._library.llama_context_default_params()
        parameters.n_ctx = CONTEXT
        parameters.n_batch = parameters.n_ubatch = BATCH
        context = self._library.llama_init_from_model(self._model, parameters)
        if not context:
            raise RuntimeError("llama.cpp cannot make a context")
        return context

    def seconds(self, measure: Measure) -> float:
        library, context = self._library, self._context
        library.llama_set_n_threads(context, measure.threads, measure.threads)
        ids = (library.llama_token * CONTEXT)(*[7] * CONTEXT)

        def feed(tokens: int) -> None:
            status = library.llama_decode(context, library.llama_batch_get_one(ids, tokens))
            if status:
                raise RuntimeError(f"llama_decode of {tokens} tokens returned {status}")
            library.llama_synchronize(context)

        def forget() -> None:
            library.llama_memory_clear(library.llama_get_memory(context), False)

        return phase_seconds(measure, feed, forget)


def phase_seconds(
    measure: Measure, feed: Callable[[int], object], forget: Callable[[], object]
) -> float:
    """Return the seconds that a phase takes.

    Args:
        measure: prefill or decode.
        feed: appends so many tokens and computes the logits of the last.
        forget: empties the key/value cache.
    """

    def prefill() -> float:
        forget()
        return timed(lambda: feed(measure.tokens))

    def decode() -> float:
        forget()
        for _ in range(PROMPT):
            feed(1)
        return timed(lambda: [feed(1) for _ in range(measure.tokens)])

    return mean_seconds(prefill if measure.phase == "prefill" else decode)
