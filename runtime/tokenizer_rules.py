"""How much longer the rules of a tokenizer.json may make a text: a stranger's must not fill memory.

Normalizers, pre-tokenizers and decoders are sequences of small rules that rewrite a text. What one
of them can do to a character is bounded here from what the file says; the bounds of a sequence
multiply. Real tokenizers stay below 2,200 (XLNet's seven rules, with the table of T5).
"""

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

MOST_GROWTH = 1 << 16
"""Times longer that a text may get."""
MOST_LETTERS_A_WORD = 1000
"""Of WordPiece, whose time grows with their square; BERT has 100."""
STEPS = ("normalizer", "pre_tokenizer", "decoder")
USUAL_GROWTH = 2
"""Of a rule without a text of its own: ByteLevel writes a character for each byte, the others add a
space or decompose an accent."""


def find_excess(tokenizer: FastTokenizer) -> str:
    """Return which rule takes too much time or memory, "" if none does."""
    for name in STEPS:
        step = getattr(tokenizer, name)
        rules = [] if step is None else list(_rules(json.loads(step.__getstate__())))
        growth = 1
        for rule in rules:
            growth *= _growth(rule)
            if growth > MOST_GROWTH:
                return f"its {name} may make a text more than {MOST_GROWTH} times longer"
    letters = getattr(tokenizer.model, "max_input_chars_per_word", 0)
    if letters > MOST_LETTERS_A_WORD:
        return f"max_input_chars_per_word is {letters}; allowed are up to {MOST_LETTERS_A_WORD}"
    return ""


def _rules(content: Any) -> Iterable[dict[str, Any]]:  # noqa: ANN401
    """Yield the rules of a step, those within sequences one by one."""
    if content.get("type") != "Sequence":
        yield content
        return
    for members in content.values():
        if isinstance(members, list):
            for member in members:
                yield from _rules(member)


def _growth(rule: dict[str, Any]) -> int:
    """Return how many characters may stand for one after a rule."""
    match rule.get("type"):
        case "Replace":
            return 1 + len(rule["content"])
        case "Prepend":
            return 1 + len(rule["prepend"])
        case "Precompiled":
            return 1 + _longest_entry(rule["precompiled_charsmap"])
        case _:
            return USUAL_GROWTH


def _longest_entry(charsmap: str) -> int:
    """Return the bytes of the longest text in a table of sentencepiece.

    Four bytes say how long its trie is; behind that lie the texts, each ended by a zero.
    """
    try:
        content = base64.b64decode(charsmap)
    except binascii.Error:
        return MOST_GROWTH
    texts = content[4 + int.from_bytes(content[:4], "little") :]
    return max(map(len, texts.split(b"\0")))
