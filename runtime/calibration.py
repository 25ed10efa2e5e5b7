"""Find the offsets of the keys: what the keys of a layer have in common, measured on a text.

Keys have a part that hardly depends on the token. It turns with the position as they do: so it is
the mean of the keys turned back to position 0, and the offset is its negative, turned to each
position of the context and averaged. The slow pairs of channels, which hold the most, turn little
and nearly vanish; the fast ones turn many times, average to 0 and stay as they are. A mean of the
turned keys would fit the lengths of the text that was measured on only.

All is in integers, through kernels that are exact, so every machine finds the same offsets.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.bundle import Bundle, open_bundle
from edgellm.cache_layout import APPENDS, CacheLayout
from edgellm.errors import ConfigError, NothingToReadError
from edgellm.int4 import unpack_int4
from edgellm.runtime import cpu
from edgellm.runtime.engine import Engine
from edgellm.runtime.evaluate import SEPARATOR, encode_texts, read_text
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan
from edgellm.runtime.tokenizer import Tokenizer

BUILT_IN = "built-in"
BUILT_IN_FILE = "data/calibration.txt"
MAX_TOKENS = 512
"""Of stories260k, so many of the built-in text take as much from the keys as 8192 of its own
stories: their squared absmax falls to 0.29 of what it was."""
MAX_BYTES = 16 * MAX_TOKENS
"""How much of the text is encoded."""
QUANTIZER_TOKENS = 32_768
"""To quantise for; large models take the first of them."""
LONGEST_TEXT = 2048
TABLE_BITS = 14
OFFSET_LIMIT = 2**31 - 1

Wide = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CalibrationText:
    """A text, and what the manifest calls it."""

    name: str
    content: str


@dataclass(frozen=True)
class _Keys:
    """Where a layer has its keys: names of the offset, the cache input and the rotary tables."""

    offset: str
    cache: str
    cos: str
    sin: str
    layout: CacheLayout

    def codes(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Wide:
        """Return the codes of a cache, (length, heads, head_dim)."""
        stored = arrays[self.cache]
        if self.layout.bits == 4:
            packed = np.asarray(stored, np.uint8).reshape(-1, stored.shape[2])
            stored = unpack_int4(packed).reshape(*stored.shape[:2], -1)
        return stored.astype(np.int64)


def load_calibration_text(path: Path | None) -> CalibrationText:
    """Return the text of a file as ``evaluate.read_texts`` takes them, or the built-in one.

    Raises:
        ConfigError: no such file, not UTF-8, or nothing in it.
    """
    if path is None:
        content = (resources.files("edgellm") / BUILT_IN_FILE).read_text(encoding="utf-8")
        return CalibrationText(BUILT_IN, content)
    content = read_text(path)
    if not content.replace(SEPARATOR, "").strip():
        raise ConfigError(f"{path}: is empty; give a text like those that the model will read")
    return CalibrationText(path.name, content)


def key_offsets(directory: Path, text: str) -> dict[str, npt.NDArray[np.int32]]:
    """Measure the offsets of a bundle whose offsets are 0.

    Args:
        directory: of the bundle.
        text: to measure on; ``<|endoftext|>`` separates its stories.

    Returns:
        (num_key_value_heads * head_dim,) int32 in the fixed point of the keys, by the name of the
        constant, for each layer.

    Raises:
        NothingToReadError: the tokenizer finds no token in the text.
    """
    bundle = open_bundle(directory)
    plan = load_plan(bundle)
    layers = list(_find_keys(plan))
    sums: dict[str, Wide] = {}
    count = 0
    engine = Engine(
        plan,
        context_length=bundle.manifest.context_length,
        threads=cpu.host().physical_cores,
    )
    with closing(engine):
        for ids in _read_tokens(bundle, text):
            cache = engine.new_cache(len(ids))
            engine.forward(np.array(ids, dtype=np.int64), cache, rows=[])
            count += len(ids)
            arrays = cache.export_arrays()
            for keys in layers:
                sums[keys.offset] = sums.get(keys.offset, 0) + _sum_at_zero(plan, keys, arrays)
    if not count:
        raise NothingToReadError
    return {keys.offset: _offset(plan, keys, sums[keys.offset], count) for keys in layers}


def _find_keys(plan: Plan) -> Iterator[_Keys]:
    """Find RotaryEmbedding -> AddBias -> CacheAppend, or Int4CacheAppend, of each layer."""
    makers = {name: step for step in plan.steps for name in step.outputs}
    for append in plan.steps:
        add = makers.get(append.inputs[0])
        if append.op_type not in APPENDS or add is None or add.op_type != "AddBias":
            continue
        rotary = makers.get(add.inputs[0])
        if rotary is not None and rotary.op_type == "RotaryEmbedding":
            tables, layout = rotary.inputs[2:4], APPENDS[append.op_type]
            yield _Keys(add.inputs[1], append.inputs[1], tables[0], tables[1], layout)


def _read_tokens(bundle: Bundle, text: str) -> Iterator[list[int]]:
    """Yield the ids of the first texts, ``MAX_TOKENS`` of them in all."""
    manifest, left = bundle.manifest, MAX_TOKENS
    tokenizer = Tokenizer(bundle.path / "tokenizer.json", manifest.vocab_size)
    context = max(manifest.context_length, 2)  # less holds no text to score; here one id will do
    for ids in encode_texts(text, tokenizer, context, MAX_BYTES):
        part = ids[: min(left, manifest.context_length)]
        left -= len(part)
        if part:
            yield part


def token_texts(
    text: str, checkpoint: Path, vocab_size: int, longest: int, most: int = QUANTIZER_TOKENS
) -> list[npt.NDArray[np.int64]]:
    """Return the first ids of a text, by the tokenizer of a checkpoint.

    Args:
        text: ``<|endoftext|>`` separates its stories.
        checkpoint: directory with tokenizer.json.
        vocab_size: of the model.
        longest: most tokens of one text.
        most: how many ids at most.
    """
    tokenizer = Tokenizer(checkpoint / "tokenizer.json", vocab_size)
    limit = 16 * most
    texts, left = [], most
    for ids in encode_texts(text, tokenizer, max(2, min(longest, LONGEST_TEXT)), limit):
        if ids[:left]:
            texts.append(np.array(ids[:left], np.int64))
            left -= len(texts[-1])
    return texts


def _sum_at_zero(plan: Plan, keys: _Keys, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Wide:
    """Return the sum of a text's keys turned back to position 0, (heads, head_dim).

    In units of 2^-18 / 127 / 2^14: 127 * 2^31 * 2^14 * 2 of 512 tokens is 2^62. (Of codes of 4 bits
    / 7 instead of / 127.)
    """
    absmax = arrays[f"{keys.cache}_absmax"]
    values = keys.codes(arrays) * absmax.astype(np.int64)[:, :, None]
    cos, sin = (_table(plan, name)[: len(values), None] for name in (keys.cos, keys.sin))
    return _turn(values, cos, -sin).sum(axis=0)


def _offset(plan: Plan, keys: _Keys, total: Wide, count: int) -> npt.NDArray[np.int32]:
    """Return the offset that a sum over ``count`` tokens gives."""
    mean = _divide(total, (count * keys.layout.limit) << TABLE_BITS)  # |mean| <= 2^31.5
    cos, sin = _table(plan, keys.cos), _table(plan, keys.sin)
    # 2^31.5 times at most 2^14 * 65,535 positions: below 2^62
    turned = _turn(mean, cos.sum(axis=0), sin.sum(axis=0))
    common = _divide(turned, len(cos) << TABLE_BITS)
    return np.clip(-common, -OFFSET_LIMIT, OFFSET_LIMIT).astype(np.int32).reshape(-1)


def _table(plan: Plan, name: str) -> Wide:
    return plan.constants[name].astype(np.int64)


def _turn(heads: Wide, cos: Wide, sin: Wide) -> Wide:
    """Rotate the halves of each head: (..., 2 * P) by tables (..., P)."""
    first, second = np.split(heads, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _divide(x: Wide, divisor: int) -> Wide:
    """Return x / divisor, rounded half up."""
    return (x + divisor // 2) // divisor
