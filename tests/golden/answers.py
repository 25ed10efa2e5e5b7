"""The answers of a bundle that must never change by accident, as numbers small enough for git.

    python tests/golden/answers.py FOLDER > tests/golden/expected.json

writes those of the bundles in FOLDER (``make golden``). Do it only for a change of the arithmetic
that is meant, and say so in CHANGELOG.md.
"""

import hashlib
import json
import sys
from pathlib import Path

import edgellm

IDS = tuple((7 * position + position**2) % 256 for position in range(40))
PROMPT = "Once upon a time"
TOKENS = 48


def answers(bundle: Path, threads: int = 1) -> dict[str, str]:
    """Return checksums of weights and logits, and the token ids of a greedy and a drawn text."""
    with edgellm.load(bundle, threads=threads) as model:
        logits = model.logits(IDS)
        greedy = model.stream(PROMPT, max_tokens=TOKENS, temperature=0)
        drawn = model.stream(PROMPT, max_tokens=TOKENS, temperature=0.8, top_p=0.9, seed=7)
        return {
            "weights": hashlib.sha256((bundle / "weights.bin").read_bytes()).hexdigest(),
            "logits": hashlib.sha256(logits.astype("<i4").tobytes()).hexdigest(),
            "greedy": " ".join(str(token.token_id) for token in greedy),
            "drawn": " ".join(str(token.token_id) for token in drawn),
        }


if __name__ == "__main__":
    found = {path.name: answers(path) for path in sorted(Path(sys.argv[1]).iterdir())}
    sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
