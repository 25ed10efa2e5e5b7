"""A small engine whose logits are integers that depend on the whole text, and a tokenizer."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from edgellm.runtime.session import Session
from edgellm.runtime.tokenizer import Tokenizer

BOS, EOS = 0, 1
VOCAB_SIZE = 320


class HashCache:
    """Remembers the ids themselves; the length and the checks are those of a key/value cache."""

    is_recurrent = False

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.memory = np.zeros(capacity, dtype=np.int64)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        return self.memory[: self.length]

    def write(self, ids: npt.NDArray[np.int64]) -> None:
        self.memory[self.length : self.length + len(ids)] = ids
        self.advance(len(ids))

    def advance(self, count: int) -> None:
        self.length += count
        assert 0 <= self.length <= self.capacity

    def truncate(self, length: int) -> None:
        assert 0 <= length <= self.length
        self.length = length

    def copy(self) -> "HashCache":
        twin = HashCache(self.capacity)
        twin.import_arrays(self.export_arrays())
        return twin

    def export_arrays(self) -> dict[str, npt.NDArray[np.integer]]:
        return {"known": self.ids.copy()}

    def import_arrays(self, arrays: dict[str, npt.NDArray[np.integer]], length=None) -> None:
        self.length = 0
        self.write(arrays["known"])


class HashEngine:
    """Logits of a position are pseudo-random integers, a function of all ids up to it."""

    def __init__(self, context_length: int = 64, vocab_size: int = VOCAB_SIZE) -> None:
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.computed: list[int] = []  # how many ids each call got
        self.interrupt = False

    def new_cache(self) -> HashCache:
        return HashCache(self.context_length)

    def forward(self, ids, cache, rows=None, top=0):
        assert cache.length + len(ids) <= cache.capacity
        self.computed.append(len(ids))
        if self.interrupt:
            cache.write(ids[: len(ids) // 2])
            raise KeyboardInterrupt
        start = cache.length
        cache.write(ids)
        chosen = [len(ids) - 1] if rows is None else list(rows)
        scored = np.stack([self.logits(cache.ids[: start + row + 1]) for row in chosen])
        if 0 < top < self.vocab_size:  # the others may be anything that is below all logits
            least = np.sort(scored, axis=1)[:, -top]
            scored[scored < least[:, None]] = np.iinfo(np.int32).min
        return scored

    def logits(self, text: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        seed = self.seed_of(text)
        generator = np.random.Generator(np.random.PCG64(seed))
        logits = generator.integers(-(2**18), 2**18, self.vocab_size, dtype=np.int32)
        logits[[BOS, EOS]] = -(2**30)
        return logits

    def seed_of(self, text: npt.NDArray[np.int64]) -> int:
        return int(np.sum((text + 1) * np.arange(1, len(text) + 1) ** 2))


class RepeatingEngine(HashEngine):
    """Logits depend on the last two ids only, so a greedy text soon repeats itself."""

    def seed_of(self, text: npt.NDArray[np.int64]) -> int:
        return int(np.sum((text[-2:] % 3 + 1) * np.arange(1, len(text[-2:]) + 1) ** 2))


@pytest.fixture
def engine() -> HashEngine:
    return HashEngine()


@pytest.fixture
def session(engine: HashEngine) -> Session:
    return Session(engine, "bundle-a")


def byte_level_json() -> str:
    """Byte-level BPE as in GPT-2, without merges: 256 bytes and two special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<s>": BOS, "</s>": EOS, **{char: index + 2 for index, char in enumerate(alphabet)}}
    tokenizer = FastTokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    return tokenizer.to_str()


def byte_fallback_json() -> str:
    """Sentencepiece style as in Llama: spaces are U+2581, unknown characters are bytes."""
    pieces = ["<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    pieces += [*"abcdefghijklmnopqrstuvwxyz", "\u2581a", "\u2581b"]
    model = models.BPE(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[("\u2581", "a"), ("\u2581", "b")],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = FastTokenizer(model)
    tokenizer.add_special_tokens(["<s>", "</s>", "<unk>"])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    return tokenizer.to_str()


@pytest.fixture(scope="session")
def tokenizer_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    files = {"byte_level": byte_level_json(), "byte_fallback": byte_fallback_json()}
    for name, text in files.items():
        assert json.loads(text)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.json" for name in files}


@pytest.fixture(scope="session")
def tokenizer(tokenizer_files: dict[str, Path]) -> Tokenizer:
    return Tokenizer(tokenizer_files["byte_level"], VOCAB_SIZE)


@pytest.fixture(scope="session")
def engine_class() -> type[HashEngine]:
    return HashEngine


@pytest.fixture(scope="session")
def repeating_engine_class() -> type[RepeatingEngine]:
    return RepeatingEngine
