"""Predict how a text goes on from its own earlier parts, as the match models of compressors do."""

from collections.abc import Sequence

LONGEST_KEY = 3
"""The last 3 tokens are looked up; if they are new, the last 2, then the last one."""
MAX_MATCH = 16
"""Longer matches count as this long."""
SLOWEST_RATE = 1 / 32
"""A hit rate is the mean of all outcomes at first, then follows the last 32 or so."""

Key = tuple[int, ...]


class MatchModel:
    """Points to the token behind the latest earlier occurrence of the text's last tokens.

    While the text goes on as it did there, the pointer moves along; otherwise it is looked up anew.
    For every length of the match there is a hit rate: the share of predictions that came true. The
    index has three entries for each place of the text at most.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        """Start with a text; it may be empty."""
        self._text: list[int] = []
        # Key -> position of the token behind its last occurrence.
        self._follow: dict[Key, int] = {}
        self._pointer = -1  # position of the predicted token; -1: none
        self._match = 0  # so many tokens before the pointer equal the text's last ones
        # What to expect before anything was seen; stories, manuals and code came close to it.
        self._rates = [length / (length + 4) for length in range(MAX_MATCH + 1)]
        self._seen = [0] * (MAX_MATCH + 1)
        self.extend(ids)

    def extend(self, ids: Sequence[int]) -> None:
        """Add tokens to the text without asking how well they were predicted, which is quicker."""
        old = len(self._text)
        self._text += ids
        self._last = tuple(self._text[-LONGEST_KEY:])
        for size in range(1, LONGEST_KEY + 1):
            first = max(old - size, 0)
            keys = zip(*(self._text[first + place :] for place in range(size)), strict=False)
            places = range(first + size, len(self._text))
            self._follow.update(zip(keys, places, strict=False))
        self._look_up()

    def append(self, token_id: int) -> None:
        """Add a token to the text, and learn from it how good predictions are."""
        pointer, size, last = self._pointer, len(self._text), self._last
        hit = pointer >= 0 and self._text[pointer] == token_id
        if pointer >= 0:
            self._learn(self._match, hit=hit)
        for start in range(len(last)):
            self._follow[last[start:]] = size
        self._text.append(token_id)
        self._last = (*last[-LONGEST_KEY + 1 :], token_id)
        if hit:
            self._pointer = pointer + 1
            self._match = min(self._match + 1, MAX_MATCH)
        else:
            self._look_up()

    def _learn(self, match: int, *, hit: bool) -> None:
        self._seen[match] += 1
        rate = max(1 / (self._seen[match] + 1), SLOWEST_RATE)
        self._rates[match] += (hit - self._rates[match]) * rate

    def _look_up(self) -> None:
        size = len(self._last)
        for start in range(size):
            pointer = self._follow.get(self._last[start:], -1)
            if pointer >= 0:
                self._pointer, self._match = pointer, self._match_length(pointer, size - start)
                return
        self._pointer = -1

    def _match_length(self, pointer: int, known: int) -> int:
        """Return how many tokens before the pointer equal the last ones; the first are known to."""
        if known < LONGEST_KEY:
            return known  # one more would have been found
        text, length = self._text, known
        while length < min(pointer, MAX_MATCH) and text[pointer - 1 - length] == text[-1 - length]:
            length += 1
        return length

    def hit_rates(self) -> list[float]:
        """Return how often predictions came true: of the next token, the one behind it, and so on.

        Each rate holds if the tokens before were right; the last one is also that of all further
        tokens. Empty if nothing can be predicted.
        """
        return self._rates[self._match :] if self._pointer >= 0 else []

    def predict(self, count: int) -> list[int]:
        """Return the next ``count`` tokens as predicted; none without an earlier occurrence."""
        if self._pointer < 0:
            return []
        predicted = self._text[self._pointer : self._pointer + count]
        while len(predicted) < count:  # the text repeats what it has only just begun to say
            period = len(self._text) - self._pointer
            predicted.append(predicted[-period])
        return predicted
