"""A session: one text as the model sees it, and its key/value cache."""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from edgellm.bundle import GRAPH, WEIGHTS, Manifest
from edgellm.errors import BundleError, ConfigError, ContextLengthError
from edgellm.graph_names import IDS
from edgellm.runtime.session_file import read_arrays, write_arrays

if TYPE_CHECKING:
    from edgellm.runtime.kv_cache import KvCache

FORMAT = "edgellm-session/1"
CACHED = "cached_tokens"


class LogitsEngine(Protocol):
    """What a session needs of an engine."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""

    @property
    def context_length(self) -> int:
        """Most tokens of one text."""

    def new_cache(self) -> "KvCache":
        """Return an empty cache."""

    def forward(
        self,
        ids: npt.NDArray[np.int64],
        cache: "KvCache",
        rows: Sequence[int] | None = None,
        top: int = 0,
    ) -> npt.NDArray[np.int32]:
        """Append ids to the cache; return (len(rows), vocab) logits, of the last id by default.

        With ``top`` above 0, those that are not among so many best of a row may be -2^31.
        """


def bundle_identity(manifest: Manifest) -> str:
    """Return what must be equal for a cache to fit: the checksums of graph and weights."""
    return f"{manifest.files[GRAPH].sha256}-{manifest.files[WEIGHTS].sha256}"


@dataclass(frozen=True)
class _Ahead:
    """What a call computed behind the end of the text.

    Attributes:
        start: length of the text then.
        draft: the ids that were tried.
        logits: (1 + len(draft), vocab) int32, from the last position of the text on.
        top: how many of the best are in them, 0 for all.
    """

    start: int
    draft: list[int]
    logits: npt.NDArray[np.int32]
    top: int


class Session:
    """A text of token ids and the cache that belongs to it.

    ``ids`` may be longer than what the cache has seen (``append`` only notes ids); ``extend``
    catches up. An interrupted ``extend`` leaves the session as it was. A session is for one thread
    at a time; of two generations that use it at once, the earlier one ends with an error.
    """

    def __init__(self, engine: LogitsEngine, identity: str) -> None:
        """Start an empty session.

        Args:
            engine: computes logits.
            identity: of the bundle, see ``bundle_identity``; a saved session fits no other.
        """
        self._engine = engine
        self._identity = identity
        self._cache = engine.new_cache()
        self._ids: list[int] = []
        self._ahead: _Ahead | None = None
        self._lock = threading.Lock()
        self._turn = 0

    @property
    def ids(self) -> tuple[int, ...]:
        """The text so far."""
        return tuple(self._ids)

    @property
    def context_length(self) -> int:
        """Most tokens that the text can have."""
        return self._engine.context_length

    @property
    def takes_drafts(self) -> bool:
        """Whether ``extend`` computes drafts: a recurrent cache could not go back from them."""
        return not self._cache.is_recurrent

    @property
    def room(self) -> int:
        """How many more tokens fit into the context."""
        return self._engine.context_length - len(self._ids)

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self._ids)

    def append(self, ids: Sequence[int]) -> None:
        """Add ids to the text; they are computed with the next ``extend``.

        Raises:
            ConfigError: an id is not in the vocabulary.
            ContextLengthError: the text would not fit in the context.
        """
        self._ids += self._checked(ids)

    def extend(
        self, ids: Sequence[int] = (), *, draft: Sequence[int] = (), top: int = 0
    ) -> npt.NDArray[np.int32]:
        """Add ids to the text and return the (vocab,) logits of its last position.

        Args:
            ids: what to add.
            draft: ids that may come next, computed in the same call. They are not part of the text;
                as far as it goes on with them, the calls that follow have nothing to compute. Left
                out if the session takes no drafts.
            top: how many of the best logits are wanted, 0 for all; others may be -2^31, which is
                below all logits. To want few is faster.

        Raises:
            ConfigError: the text is empty, or an id is not in the vocabulary.
            ContextLengthError: text and draft would not fit in the context.
        """
        draft = draft if self.takes_drafts else ()
        text = self._ids + self._checked([*ids, *draft])
        size = len(text) - len(draft)
        if not size:
            raise ConfigError("a session needs at least one token id before it has logits")
        logits = self._computed_ahead(text[:size], top)
        if logits is None:
            self._cache.truncate(min(self._cache.length, size - 1))  # the last id at least is new
            start = self._cache.length
            rows = self._forward(text, start, range(size - 1 - start, len(text) - start), top)
            if draft:
                self._cache.truncate(size)
                self._ahead = _Ahead(size, text[size:], rows, top)
            logits = rows[0]
        self._ids = text[:size]
        return logits

    def _computed_ahead(self, text: list[int], top: int) -> npt.NDArray[np.int32] | None:
        """Return the logits of a text that goes on as drafted, and let the cache hold it."""
        if self._ahead is None or (self._ahead.top and not 0 < top <= self._ahead.top):
            return None
        new = text[self._ahead.start :]
        if new != self._ahead.draft[: len(new)]:
            return None
        self._cache.advance(len(text) - self._cache.length)
        logits: npt.NDArray[np.int32] = self._ahead.logits[len(new)]
        return logits

    def score(self, ids: Sequence[int]) -> npt.NDArray[np.int32]:
        """Add ids to the text and return (len(ids), vocab) int32 logits, a row for each of them.

        Raises:
            ConfigError: no ids, or one that is not in the vocabulary.
            ContextLengthError: the text would not fit in the context.
        """
        text = self._ids + self._checked(ids)
        if not len(ids):
            raise ConfigError("there are no token ids to compute logits for")
        waiting = len(self._ids) - self._cache.length
        logits = self._forward(text, self._cache.length, range(waiting, waiting + len(ids)))
        self._ids = text
        return logits

    def common_prefix(self, ids: Sequence[int]) -> int:
        """Return how many leading ids the session and ``ids`` share."""
        pairs = zip(self._ids, ids, strict=False)
        return next(
            (index for index, (old, new) in enumerate(pairs) if old != new),
            min(len(self._ids), len(ids)),
        )

    def align(self, ids: Sequence[int], *, room: int = 0, top: int = 0) -> npt.NDArray[np.int32]:
        """Make ``ids`` the text, computing only what differs from the present one.

        Args:
            ids: the whole text.
            room: tokens that must fit in the context after it.
            top: as in ``extend``.

        Returns:
            The (vocab,) int32 logits of the last position.

        Raises:
            ConfigError: the text is empty, or an id is not in the vocabulary.
            ContextLengthError: text and room do not fit in the context.
        """
        # Checked before the rewind, so that a refused text leaves the session as it was.
        self._check_ids(ids)
        self._check_length(len(ids), room)
        common = self.common_prefix(ids)
        self.rewind(common)
        return self.extend(ids[common:], top=top)

    def rewind(self, length: int) -> None:
        """Cut the text to its first ``length`` ids.

        Raises:
            ConfigError: the text is not that long.
        """
        if not 0 <= length <= len(self._ids):
            raise ConfigError(f"cannot rewind to {length}; the session has {len(self._ids)} tokens")
        self._ahead = None
        del self._ids[length:]
        self._cache.truncate(min(length, self._cache.length))

    def fork(self) -> "Session":
        """Return an independent session with the same text."""
        twin = Session.__new__(Session)
        twin._engine, twin._identity = self._engine, self._identity
        twin._cache, twin._ids = self._cache.copy(), list(self._ids)
        twin._ahead = None
        twin._lock, twin._turn = threading.Lock(), 0
        return twin

    def belongs_to(self, identity: str) -> bool:
        """Tell whether the text is one of the bundle with this identity."""
        return self._identity == identity

    def begin_turn(self) -> int:
        """Begin a generation, and return its number; those that began before cannot go on."""
        with self._lock:
            self._turn += 1
            return self._turn

    @contextmanager
    def taking(self, turn: int) -> Iterator[None]:
        """Keep other generations out for a step of one of them.

        Raises:
            ConfigError: another generation has begun since.
        """
        with self._lock:
            if turn != self._turn:
                raise ConfigError(
                    "another generation has begun on this session; give each its own: "
                    "model.session(), or session.fork()"
                )
            yield

    def save(self, path: str | os.PathLike[str], notes: str = "") -> None:
        """Write text and cache to a safetensors file, in one step.

        Args:
            path: the file.
            notes: a text of the caller's own that ``load`` gives back.
        """
        arrays = self._cache.export_arrays()
        arrays[IDS] = np.array(self._ids, dtype=np.int64)
        cached = str(self._cache.length)
        metadata = {"format": FORMAT, "bundle": self._identity, "notes": notes, CACHED: cached}
        write_arrays(Path(path), arrays, metadata)

    def load(self, path: str | os.PathLike[str]) -> str:
        """Replace text and cache by those of a file; a refused file leaves the session as it was.

        Returns:
            The notes that were saved with it.

        Raises:
            BundleError: the file is damaged, no session, or was saved with another bundle.
            ContextLengthError: the saved text is longer than this context.
        """
        arrays, metadata = read_arrays(Path(path))
        if metadata.get("format") != FORMAT:
            raise BundleError(f"{path}: is no {FORMAT} file")
        if metadata.get("bundle") != self._identity:
            raise BundleError(
                f"{path}: was saved with another bundle; its cache means nothing to this one"
            )
        ids = arrays.pop(IDS, None)
        if ids is None or ids.ndim != 1 or ids.dtype != np.int64:
            raise BundleError(f"{path}: {IDS} is missing or no list of int64")
        text = [int(item) for item in ids]
        self._check_length(len(text))
        cache = self._engine.new_cache()
        try:
            self._check_ids(text)
            cache.import_arrays(arrays, _cached_length(metadata, path))
        except ConfigError as error:
            raise BundleError(f"{path}: {error}") from error
        if cache.length > len(text):
            raise BundleError(f"{path}: a cache of {cache.length} tokens for {len(text)} ids")
        self._cache, self._ids, self._ahead = cache, text, None
        return metadata.get("notes", "")

    def _forward(
        self, text: list[int], start: int, rows: Sequence[int], top: int = 0
    ) -> npt.NDArray[np.int32]:
        """Compute text[start:]; when that is interrupted, cut off what was half computed."""
        self._ahead = None  # what was computed for a draft is overwritten
        try:
            new = np.array(text[start:], dtype=np.int64)
            return self._engine.forward(new, self._cache, rows, top)
        except BaseException:
            self._cache.truncate(min(start, self._cache.length))
            raise

    def _checked(self, ids: Sequence[int]) -> list[int]:
        self._check_ids(ids)
        self._check_length(len(self._ids) + len(ids))
        return [int(item) for item in ids]

    def _check_ids(self, ids: Sequence[int]) -> None:
        limit = self._engine.vocab_size
        for index, item in enumerate(ids):
            if not isinstance(item, (int, np.integer)) or not 0 <= item < limit:
                raise ConfigError(
                    f"token id {item!r} at position {index} is not in the vocabulary; "
                    f"allowed are 0 to {limit - 1}"
                )

    def _check_length(self, length: int, room: int = 0) -> None:
        limit = self._engine.context_length
        if length + room > limit:
            extra = f" and needs room for {room} more" if room else ""
            raise ContextLengthError(
                f"the text has {length} tokens{extra}, the context holds {limit}; "
                "shorten it, or load (or export) the bundle with a larger context"
            )


def _cached_length(metadata: Mapping[str, str], path: str | os.PathLike[str]) -> int | None:
    """Return how many tokens the cache of a file has seen; None if an older edgellm wrote it."""
    text = metadata.get(CACHED)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BundleError(f"{path}: {CACHED} is {text!r}; it must be a number")
    return int(text)
