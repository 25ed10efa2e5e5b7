"""What speculation does to the rate of decoding, on texts that repeat themselves more or less.

    python tests/benchmarks/speculation.py BUNDLE [THREADS] [ROUNDS]

The model is made to say each text: its logits are computed and its choice is ignored, so any bundle
will do, also one of random weights. A word is a token here. "without" is measured twice, as a
measure of the noise. Medians over the rounds; the order within a round is random.
"""

import json
import random
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import edgellm
from edgellm.runtime.model import Model
from edgellm.runtime.speculation import NgramSpeculation, Plain, SpeculationStats

ROOT = Path(__file__).resolve().parents[2]
PROMPT, TOKENS = 64, 300
GREEDY = 1
"""Of the logits, so many of the best are wanted."""
DECODERS: dict[str, Callable] = {
    "without": lambda session, _ids: Plain(session),
    "without, again": lambda session, _ids: Plain(session),
    "ngram": NgramSpeculation,
}


def main() -> None:
    path = sys.argv[1]
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    with edgellm.load(path, threads=threads) as model:
        for name, text in texts().items():
            report(model, name, token_ids(text, model.info.vocab_size), rounds)


def texts() -> dict[str, str]:
    """Return texts that are in the repository or made here, from little repetition to much."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    generator = random.Random(0)
    people = [
        {"id": i, "name": generator.choice(["Ann", "Bob", "Cid"]), "age": i * 37 % 50 + 20}
        for i in range(99)
    ]
    return {
        "manual": readme,
        "program": (ROOT / "runtime" / "engine.py").read_text(encoding="utf-8"),
        "table in JSON": json.dumps(people, indent=1),
        "paragraph, repeated": readme[:600] * 9,
    }


def token_ids(text: str, vocab_size: int) -> list[int]:
    words = re.findall(r"\s?\w+|\s*[^\w\s]|\s+", text)[: PROMPT + TOKENS]
    known: dict[str, int] = {}
    return [known.setdefault(word, len(known)) % vocab_size for word in words]


def report(model: Model, name: str, ids: list[int], rounds: int) -> None:
    seconds: dict[str, list[float]] = {kind: [] for kind in DECODERS}
    order = list(DECODERS)
    drafts = []
    for count in range(1 + rounds):
        random.shuffle(order)
        for kind in order:
            taken, stats = say(model, kind, ids)
            if count:  # the first round fills the caches
                seconds[kind].append(taken)
            if stats is not None:
                drafts.append(stats)
    base, again, ngram = (statistics.median(seconds[kind]) for kind in DECODERS)
    middle = sorted(drafts, key=lambda stats: stats.calls_per_token)[len(drafts) // 2]
    sys.stdout.write(
        f"{name:20} {(len(ids) - PROMPT) / base:8.1f} tokens/s; "
        f"without, again: x {base / again:.3f}; ngram: x {base / ngram:.3f}, "
        f"{middle.acceptance_rate:.0%} of {middle.drafted_tokens} drafted tokens accepted, "
        f"{middle.calls_per_token:.2f} calls a token\n"
    )
    sys.stdout.flush()


def say(model: Model, kind: str, ids: list[int]) -> tuple[float, SpeculationStats | None]:
    """Return the seconds that a text took."""
    session = model.session()
    session.align(ids[:PROMPT])
    decoding = DECODERS[kind](session, ids[:PROMPT])
    begin = time.perf_counter()
    for index in range(PROMPT, len(ids)):
        if index > PROMPT:
            decoding.extend(len(ids) - index, GREEDY).argmax()
        session.append(ids[index : index + 1])
        decoding.note(ids[index])
    return time.perf_counter() - begin, decoding.stats()


if __name__ == "__main__":
    main()
