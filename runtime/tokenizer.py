"""Text to token ids and back, by tokenizer.json; streaming never splits a character."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer as FastTokenizer

from edgellm.config import MAX_JSON_BYTES, JsonFields
from edgellm.errors import BundleError, CheckpointError, ConfigError
from edgellm.runtime.tokenizer_rules import find_excess

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What decoders give for bytes that are no (or not yet) UTF-8."""
MAX_UNFINISHED = 3
"""A character has at most 4 bytes, and a token at least one."""


class Tokenizer:
    """A tokenizer.json, bound to the vocabulary of a model."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        """Read and check a tokenizer.

        Raises:
            BundleError: no file, no tokenizer, one with more tokens than the model has, or with
                rules that could fill the memory.
        """
        text = _read(path)
        with _refusals_named(path):
            self._tokenizer = FastTokenizer.from_str(text)
        if excess := find_excess(self._tokenizer):
            raise BundleError(f"{path}: {excess}")
        # The highest id counts, not the number of tokens: ids may have gaps.
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= vocab_size:
            raise BundleError(
                f"{path}: has token id {largest}, but the model knows ids 0 to {vocab_size - 1}; "
                "the tokenizer is another model's"
            )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab_size = vocab_size
        self._path = path

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a text, with BOS and the like where the tokenizer's file adds them.

        Raises:
            ConfigError: the text holds half of a surrogate pair, which no encoding can write, and
                which stands for a byte that could not be read.
            BundleError: the tokenizer's file contradicts itself, or has no token for a part of the
                text.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"the text is not valid Unicode: character {error.start} is a byte that is no "
                "UTF-8, or half of a surrogate pair"
            ) from error
        with _refusals_named(self._path):
            encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return list(encoding.ids)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of ids."""
        with _refusals_named(self._path):
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def leading_ids(self) -> list[int]:
        """Return the special ids that begin every text, such as BOS."""
        plain = self.encode("a", add_special_tokens=False)
        whole = self.encode("a")
        size = len(plain)
        starts = (i for i in range(len(whole)) if whole[i : i + size] == plain)
        return whole[: next(starts, 0)]

    def token_id(self, token: str) -> int | None:
        """Return the id of a token such as ``<s>``, or None."""
        found = self._tokenizer.token_to_id(token)
        return None if found is None else int(found)

    def decoder(self, before: Sequence[int] = ()) -> "StreamDecoder":
        """Return a decoder for the ids that follow ``before``."""
        return StreamDecoder(self, before)


class StreamDecoder:
    """Turns ids into pieces of text; joined, they are what decoding all ids at once gives.

    Decoders look at neighbours (a leading space, the bytes of one character), so each step decodes
    a window twice, without and with the new ids, and returns the difference. A piece is held back
    while it ends in the replacement character: more bytes may complete it.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        size = len(before) - self._count_unfinished(before)
        self._shown = list(before[:size])  # ids whose text is out; the window starts with them
        self._waiting = list(before[size:])
        self._stepped = False

    def _count_unfinished(self, ids: Sequence[int]) -> int:
        """Return how many of the last ids are the beginning of a character."""
        for count in range(min(MAX_UNFINISHED, len(ids)) + 1):
            if not self._tokenizer.decode(ids[: len(ids) - count]).endswith(REPLACEMENT):
                return count
        return 0  # no character has so many bytes: these are no UTF-8 at all

    def step(self, token_id: int) -> str:
        """Return the text that this id completes, perhaps none."""
        self._stepped = True
        self._waiting.append(token_id)
        piece = self._difference()
        if not piece or piece.endswith(REPLACEMENT):
            return ""
        self._shown, self._waiting = self._waiting, []
        return piece

    def flush(self) -> str:
        """Return what was held back, for the end of the text."""
        piece = self._difference() if self._stepped else ""
        self._shown, self._waiting = self._shown + self._waiting, []
        return piece

    def _difference(self) -> str:
        before = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode(self._shown + self._waiting)[len(before) :]


def check_tokenizer(checkpoint: Path) -> None:
    """Refuse a checkpoint's tokenizer that no bundle could use; a missing one is left alone.

    Raises:
        CheckpointError: it is no tokenizer, or has ids that the model does not know.
    """
    path, config = checkpoint / "tokenizer.json", checkpoint / "config.json"
    if not path.is_file() or not config.is_file():
        return
    fields = JsonFields.read(config)
    if not fields.has("vocab_size"):  # a model of images
        return
    try:
        Tokenizer(path, fields.integer("vocab_size"))
    except BundleError as error:
        raise CheckpointError(str(error)) from error


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BundleError(f"{path}: larger than {MAX_JSON_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BundleError(f"{path}: is no UTF-8 text: {error}") from error


@contextmanager
def _refusals_named(path: Path) -> Iterator[None]:
    """Name the file when tokenizers raises, which knows plain Exceptions, or panics.

    A panic is a BaseException of a class that cannot be imported.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BundleError(f"{path}: no usable tokenizer: {error}") from error
