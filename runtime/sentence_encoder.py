"""A sentence encoder, which ``edgellm.load`` returns: texts in, one vector for each out."""

import os
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from edgellm.bundle import open_bundle
from edgellm.device import Device
from edgellm.errors import BundleError, ConfigError
from edgellm.runtime.encoder_contract import EMBEDDING
from edgellm.runtime.encoder_engine import EncoderEngine
from edgellm.runtime.loaded import Loaded
from edgellm.runtime.loader import load_plan
from edgellm.runtime.start import checked_context, checked_threads
from edgellm.runtime.tokenizer import Tokenizer


class SentenceEncoder(Loaded[EncoderEngine]):
    """Embeds texts with a bundle. Use it in a ``with`` block, or ``close`` it."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        context: int | None = None,
        device: Device | None = None,
    ) -> None:
        """Open a bundle, map its weights and get ready to run.

        Args:
            path: the bundle's directory.
            threads: worker threads; default: one for each core that this process may use.
            device: a simulated device that computes the operators it takes; the rest is computed
                by the references.
            context: cut texts after so many tokens; default and limit: the bundle's own.

        Raises:
            BundleError: the bundle is damaged.
            ConfigError: it is for another task, or threads or context are out of range.
        """
        self._bundle = open_bundle(path)
        self._bundle.require_task(EMBEDDING)
        self._context = checked_context(self.info, context)
        file = self._bundle.file("tokenizer.json")
        if file is None:
            raise BundleError(f"{self._bundle.path}: its manifest lists no tokenizer.json")
        self._tokenizer = Tokenizer(file, self.info.vocab_size)
        plan = load_plan(self._bundle)
        self._engine = EncoderEngine(
            plan, self.info, threads=checked_threads(threads), device=device
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer."""
        return self._tokenizer

    def embed(self, texts: str | Iterable[str]) -> npt.NDArray[np.float32]:
        """Return (texts, hidden) float32 embeddings; a text over the context is cut.

        Raises:
            ConfigError: no texts, or one without a token.
        """
        integers = self.embed_integers(texts)
        return np.ldexp(integers.astype(np.float64), -self.info.logits_frame).astype(np.float32)

    def embed_integers(self, texts: str | Iterable[str]) -> npt.NDArray[np.int32]:
        """Return (texts, hidden) int32 embeddings; real = integer * 2^-logits_frame.

        Raises:
            ConfigError: no texts, or one without a token.
        """
        items = [texts] if isinstance(texts, str) else list(texts)
        ids = [self.encode(text)[0] for text in items]
        for number, text in enumerate(ids):
            if not text:
                raise ConfigError(f"text {number} is empty; a vector needs at least one token")
        if not ids:
            raise ConfigError("there are no texts")
        # Neighbours of like length fill the calls evenly; a vector does not depend on the others.
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        out = np.empty((len(ids), self._engine.width), np.int32)
        out[order] = self._engine.run_texts([np.array(ids[n], np.int64) for n in order])
        return out

    def encode(self, text: str) -> tuple[list[int], bool]:
        """Return the ids of a text, and whether it was cut to fit.

        What is cut is the end of the text, before the special tokens that end it.
        """
        ids = self._tokenizer.encode(text) if text.strip() else []
        if len(ids) <= self._context:
            return ids, False
        last = self._trailing_ids()
        kept = max(self._context - len(last), 0)
        return [*ids[:kept], *last][: self._context], True

    def _trailing_ids(self) -> Sequence[int]:
        """Return the special ids that end every text, such as [SEP]."""
        plain = self._tokenizer.encode("a", add_special_tokens=False)
        whole = self._tokenizer.encode("a")
        return whole[len(self._tokenizer.leading_ids()) + len(plain) :]
