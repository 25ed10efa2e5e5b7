"""Cut a streamed text at stop strings, exactly, also when one spans several pieces."""

from collections.abc import Iterable, Sequence

from edgellm.errors import ConfigError


class StopStrings:
    """Passes text through until a stop string; text that may be the start of one is held back."""

    def __init__(self, stop: Sequence[str]) -> None:
        is_list = isinstance(stop, Iterable) and not isinstance(stop, str)
        if not is_list or not all(isinstance(text, str) and text for text in stop):
            raise ConfigError(f"stop is {stop!r}; it must be a list of non-empty texts")
        self._stop = tuple(stop)
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """Return what of the text may be shown now; nothing more after a stop string."""
        if self.found:
            return ""
        text = self._held + piece
        starts = [start for stop in self._stop if (start := text.find(stop)) >= 0]
        if starts:
            self.found, self._held = True, ""
            return text[: min(starts)]
        keep = self._beginning_at_end(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back, for the end of the text."""
        text, self._held = self._held, ""
        return text

    def _beginning_at_end(self, text: str) -> int:
        """Return the length of the longest end of ``text`` that a stop string begins with."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
