"""Speculative decoding: compute likely next tokens in the same call, and lose no bit of the result.

A call of several tokens gives each of them the logits that a call for it alone gives, so drafted
tokens change how many calls a text takes and nothing else. Hit rates and the times of calls, both
measured, choose the length of a draft; where no draft pays, there is none.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import numpy.typing as npt

from edgellm.runtime.match_model import MatchModel
from edgellm.runtime.session import Session

DRAFT_LENGTHS = (1, 2, 3, 5, 7, 11, 15, 23, 31)
SAMPLES = 5
"""The cost of a draft is the median of its last times: one that was disturbed does not count."""
GUESSED_SLOPE = 0.05
"""Cost of another token, in calls, where it is not measured yet: low, so that it is tried."""
LEAST_GAIN = 1.15
"""A draft must promise so many times the tokens per second of no draft."""
LEAST_CHANCE = 0.02
"""A token that follows this improbably, and those behind it, are not worth a thought."""
LOSS_SHARE = 0.005
"""Share of the time that may be lost by drafts that fail and by thinking about them."""
FIRST_CALLS = 1.0
"""Calls worth of time that may be lost at once at the beginning."""
MOST_CALLS = 16.0
"""What was gained counts as permission to lose, but for so many calls at most."""


@dataclass(frozen=True, kw_only=True)
class SpeculationStats:
    """How speculation went. ``calls_per_token`` is 1 without it; the prompt does not count."""

    drafted_tokens: int
    accepted_tokens: int
    acceptance_rate: float
    calls_per_token: float


class CallCosts:
    """What a call with a draft costs, in calls without one.

    Attributes:
        one: seconds of a call without a draft, 0.0 before the first.
        ratios: for the first of DRAFT_LENGTHS: those that were measured, and a guess for one more.
    """

    def __init__(self) -> None:
        self.one = 0.0
        self.ratios = [1 + GUESSED_SLOPE]
        self._times: list[deque[float]] = [deque(maxlen=SAMPLES)]

    def note(self, draft_length: int, seconds: float) -> None:
        """Add a measurement."""
        if draft_length == 0:
            # A running mean; a call that something held up counts for two.
            self.one += (min(seconds, 2 * self.one) - self.one) / 8 if self.one else seconds
            return
        place = DRAFT_LENGTHS.index(draft_length)
        self._times[place].append(seconds / self.one)
        self.ratios[place] = median(self._times[place])
        if place == len(self.ratios) - 1 < len(DRAFT_LENGTHS) - 1:
            more = DRAFT_LENGTHS[place + 1] - draft_length
            self.ratios.append(self.ratios[place] + GUESSED_SLOPE * more)
            self._times.append(deque(maxlen=SAMPLES))


class Plain:
    """No speculation: a call for each token."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def note(self, token_id: int) -> None:
        """Ignore the token; there is nothing to learn."""

    def extend(self, _wanted: int, top: int) -> npt.NDArray[np.int32]:
        """Return the (vocab,) logits of the session's last position, ``top`` of them exact."""
        return self._session.extend(top=top)

    def stats(self) -> None:
        """Return no figures."""


class NgramSpeculation:
    """Drafts from what followed the text's last tokens where they occurred before."""

    def __init__(self, session: Session, ids: Sequence[int]) -> None:
        """Begin a generation in a session whose text is ``ids``."""
        self._session = session
        self._model = MatchModel(ids)
        self._unseen: list[int] = []  # tokens that the model has not been told
        self._is_asleep = False  # too much was lost; until it is made up for, nothing is thought
        self._costs = CallCosts()
        self._draft: list[int] = []  # what is computed behind the end of the text
        self._is_computed = False  # the logits of the last token came with an earlier call
        self._may_lose = FIRST_CALLS  # in calls without a draft
        self._calls = self._drafted = self._accepted = 0

    def note(self, token_id: int) -> None:
        """Take note of the token that was chosen and appended to the session."""
        self._is_computed = bool(self._draft) and self._draft[0] == token_id
        if self._is_computed:
            del self._draft[0]
            self._accepted += 1
            self._may_lose = min(self._may_lose + 1, MOST_CALLS)
        self._unseen.append(token_id)

    def extend(self, wanted: int, top: int) -> npt.NDArray[np.int32]:
        """Return the (vocab,) logits of the session's last position.

        Args:
            wanted: how many tokens there will be at most, the one of these logits included.
            top: how many of the best logits are wanted, 0 for all.
        """
        if self._is_computed:
            return self._session.extend(top=top)
        self._calls += 1
        self._may_lose += LOSS_SHARE
        if self._may_lose < 0:
            self._is_asleep = True
            self._draft = []
            return self._session.extend(top=top)
        return self._extend_with_draft(min(wanted, self._session.room) - 1, top)

    def _extend_with_draft(self, most: int, top: int) -> npt.NDArray[np.int32]:
        begin = perf_counter()
        self._catch_up()
        length = self._best_length(most)
        self._draft = self._model.predict(length)
        self._drafted += length
        call = perf_counter()
        logits = self._session.extend(draft=self._draft, top=top)
        end = perf_counter()
        self._costs.note(length, end - call)
        one = self._costs.one
        self._may_lose -= ((end - begin) - one if length else call - begin) / one
        return logits

    def _catch_up(self) -> None:
        if self._is_asleep:
            self._is_asleep = False
            self._model.extend(self._unseen)
        else:
            for token_id in self._unseen:
                self._model.append(token_id)
        self._unseen.clear()

    def _best_length(self, most: int) -> int:
        """Return the draft length that promises the most tokens a second; 0 if none pays."""
        rates = self._model.hit_rates()
        if not rates or not self._costs.one:
            return 0
        best, best_gain = 0, LEAST_GAIN
        expected, chance, shorter = 1.0, 1.0, 0
        for length, ratio in zip(DRAFT_LENGTHS, self._costs.ratios, strict=False):
            if length > most or chance < LEAST_CHANCE:
                break
            for ahead in range(shorter, length):
                chance *= rates[min(ahead, len(rates) - 1)]
                expected += chance
            shorter = length
            if expected > best_gain * ratio:
                best, best_gain = length, expected / ratio
        return best

    def stats(self) -> SpeculationStats:
        """Return the figures so far."""
        return SpeculationStats(
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
            acceptance_rate=self._accepted / self._drafted if self._drafted else 0.0,
            calls_per_token=self._calls / max(self._calls + self._accepted, 1),
        )
