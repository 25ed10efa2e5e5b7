"""Golden cases: what the reference computed at export, to compare with on any machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgellm.bundle import Bundle, Manifest, open_bundle
from edgellm.errors import BundleError
from edgellm.graph_names import IDS, LOGITS, POSITIONS, ROWS, present_name
from edgellm.runtime import golden_files
from edgellm.runtime.executors.reference import Executor
from edgellm.runtime.feed_engine import FeedEngine
from edgellm.runtime.golden_files import Arrays, Entry
from edgellm.runtime.kv_cache import KvCache
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan
from edgellm.runtime.tokenizer import Tokenizer

FORMAT = "edgellm-golden/1"
TEXTS = (
    "Once upon a time, there was a little girl named Lily.",
    "The quick brown fox jumps over the lazy dog; 1234567890 times?",
    "\N{LATIN SMALL LETTER E WITH ACUTE}\N{EURO SIGN} def f(x): return x * 2",
)
MAX_LOGITS = 1 << 19
"""Logits stored of one case: 2 MiB."""
BUDGETS = ((5_000_000, 3, 24, 24), (100_000_000, 2, 16, 8), (1 << 62, 1, 8, 1))
"""(up to so many parameters, cases, prompt tokens, greedy tokens): the reference unpacks every
weight for every call."""


@dataclass(frozen=True, kw_only=True)
class GoldenCase:
    """One text and what must come out.

    Attributes:
        name: of the case and its file.
        prompt: ids that are fed at once into an empty cache.
        greedy: ids that follow when the best logit is always taken.
        layers: sha256 of each residual value (int64, little end first) for the prompt, in order.
        logits: (rows, vocab) int32, of the last positions of the prompt.
    """

    name: str
    prompt: tuple[int, ...]
    greedy: tuple[int, ...]
    layers: dict[str, str]
    logits: npt.NDArray[np.int32]

    @property
    def rows(self) -> range:
        """Positions in the prompt of the stored logits."""
        return range(len(self.prompt) - len(self.logits), len(self.prompt))


def record(directory: Path) -> None:
    """Compute golden cases with the reference and write them into a bundle's directory."""
    bundle = open_bundle(directory)
    plan = load_plan(bundle)
    executor = Executor(bundle, plan)
    budget = next(item for item in BUDGETS if bundle.manifest.num_parameters <= item[0])
    _, count, prompt_tokens, greedy_tokens = budget
    entries = []
    for number, text in enumerate(TEXTS[:count]):
        prompt = _prompt(bundle, text, prompt_tokens)
        room = bundle.manifest.context_length - len(prompt) + 1
        case = _compute(f"case-{number}", plan, executor, prompt, min(greedy_tokens, room))
        golden_files.write_case_arrays(directory, case.name, {LOGITS: case.logits})
        entry = {key: value for key, value in vars(case).items() if key != LOGITS}
        entries.append(entry)
    golden_files.write_list(directory, FORMAT, entries)


def read_cases(bundle: Bundle) -> list[GoldenCase]:
    """Return the golden cases of a bundle, none if it has none.

    Raises:
        BundleError: a case is damaged or does not fit the model.
    """
    return [_read_case(bundle, entry) for entry in golden_files.read_list(bundle, FORMAT)]


def feeds(
    plan: Plan,
    ids: Sequence[int],
    *,
    rows: Sequence[int],
    start: int = 0,
    past: Arrays | None = None,
) -> Arrays:
    """Return the inputs of one call.

    Args:
        plan: of the graph.
        ids: the new tokens.
        rows: which of them to score.
        start: tokens before them.
        past: the cache of those, by the names of its inputs; default: empty.
    """
    return {
        IDS: np.array(ids, dtype=np.int64),
        POSITIONS: np.arange(start, start + len(ids), dtype=np.int64),
        ROWS: np.array(rows, dtype=np.int64),
        **(plan.empty_cache() if past is None else past),
    }


def layer_checksums(plan: Plan, values: Arrays) -> dict[str, str]:
    """Return the sha256 of each residual value, in the order of the graph."""
    return golden_files.checksums(plan, values, ("Embedding", "ResidualAdd"), "<i8")


def _prompt(bundle: Bundle, text: str, count: int) -> list[int]:
    path = bundle.path / "tokenizer.json"
    ids = Tokenizer(path, bundle.manifest.vocab_size).encode(text)
    return ids[: min(count, bundle.manifest.context_length)]


def _compute(
    name: str, plan: Plan, executor: Executor, prompt: Sequence[int], greedy_tokens: int
) -> GoldenCase:
    count = min(len(prompt), max(1, MAX_LOGITS // plan.vocab_size))
    rows = range(len(prompt) - count, len(prompt))
    values = executor.run(feeds(plan, prompt, rows=rows), trace=True)
    logits = values[LOGITS].astype(np.int32)
    past = {name: values[present_name(name)] for name in plan.cache_inputs}
    engine = FeedEngine(executor, plan, len(prompt) + greedy_tokens - 1)
    return GoldenCase(
        name=name,
        prompt=tuple(prompt),
        greedy=_greedy(engine, (len(prompt), past), logits[-1], greedy_tokens),
        layers=layer_checksums(plan, values),
        logits=logits,
    )


def _greedy(
    engine: FeedEngine, text: tuple[int, Arrays], logits: npt.NDArray[np.int32], count: int
) -> tuple[int, ...]:
    """Return the ids that follow a text, of which its length, cache and last logits are given."""
    length, past = text
    cache: KvCache = engine.new_cache()
    cache.import_arrays(past, length)
    ids = [int(logits.argmax())]
    while len(ids) < count:
        ids.append(int(engine.forward(np.array(ids[-1:], dtype=np.int64), cache)[-1].argmax()))
    return tuple(ids)


def _read_case(bundle: Bundle, entry: Entry) -> GoldenCase:
    path, name, manifest = entry.path, entry.name, bundle.manifest
    prompt, greedy = (_ids(path, entry.fields, key, manifest) for key in ("prompt", "greedy"))
    if not prompt or not greedy or len(prompt) + len(greedy) - 1 > manifest.context_length:
        raise BundleError(f"{path}: the case {name!r} is empty or longer than the context")
    logits = golden_files.read_case_arrays(bundle, name).get(LOGITS)
    if (
        logits is None
        or logits.dtype != np.int32
        or logits.ndim != 2
        or not 1 <= logits.shape[0] <= len(prompt)
        or logits.shape[1] != manifest.vocab_size
    ):
        file = golden_files.array_path(bundle.path, name)
        raise BundleError(f"{file}: the logits do not fit the case or the model")
    return GoldenCase(
        name=name,
        prompt=prompt,
        greedy=greedy,
        layers=entry.layers,
        logits=logits.astype(np.int32),
    )


def _ids(path: Path, entry: dict[str, Any], key: str, manifest: Manifest) -> tuple[int, ...]:
    ids = entry.get(key)
    if not isinstance(ids, list) or not all(
        type(item) is int and 0 <= item < manifest.vocab_size for item in ids
    ):
        raise BundleError(f"{path}: {key} is no list of ids from 0 to {manifest.vocab_size - 1}")
    return tuple(ids)
