"""Stories on disk -> a tokenizer, and long rows of token ids to train on.

A tenth of the stories is held out by position in the file, so every run, the tokenizer and the
evaluation agree on which stories nobody has learnt from.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

END = "<|endoftext|>"
HELD_OUT_EVERY = 10
NOT_SCORED = -100


@dataclass(frozen=True)
class Story:
    """One text, and whether it reaches its end (a sampled story may have been cut)."""

    text: str
    finished: bool = True


def read_stories(path: Path) -> list[Story]:
    """Read a text file, plain or gzip, whose stories are separated by `<|endoftext|>`."""
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    parts = (part.strip() for part in text.decode("utf-8").split(END))
    return [Story(part) for part in parts if part]


def split_stories(stories: list[Story]) -> tuple[list[Story], list[Story]]:
    """Training stories, and every tenth story, which is held out."""
    kept = [s for i, s in enumerate(stories) if (i + 1) % HELD_OUT_EVERY]
    return kept, stories[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]


def train_tokenizer(stories: list[Story], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE; `encode` puts `<|endoftext|>` (id 0) before the text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((story.text for story in stories), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, 0)]
    )
    return tokenizer


class Corpus:
    """An endless supply of training rows, each epoch in another order.

    Stories are put one after the other, each behind `<|endoftext|>`. After one that was cut, the
    separator is an input like any other but not a target: nothing ended there.
    """

    def __init__(self, stories: list[Story], tokenizer: Tokenizer, seed: int) -> None:
        encoded = tokenizer.encode_batch([story.text for story in stories])
        self.stories = [torch.tensor(item.ids, dtype=torch.int32) for item in encoded]
        self.finished = [story.finished for story in stories]
        self.tokens = sum(len(story) for story in self.stories)
        self.generator = torch.Generator().manual_seed(seed)
        self.stream = torch.empty(0, dtype=torch.int32)
        self.scored = torch.empty(0, dtype=torch.bool)
        self.position = 0
        self.epochs = 0

    def rows(self, count: int, length: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64 [count, length]; a target that is not scored is -100."""
        need = count * length + 1
        if self.position + need > len(self.stream):
            self._shuffle(need)
        piece = slice(self.position, self.position + need)
        ids, scored = self.stream[piece].long(), self.scored[piece]
        self.position += need - 1
        targets = ids[1:].masked_fill(~scored[1:], NOT_SCORED)
        return ids[:-1].view(count, length), targets.view(count, length)

    def _shuffle(self, need: int) -> None:
        """Append epochs in a new order until `need` tokens lie ahead."""
        ids, scored = [self.stream[self.position :]], [self.scored[self.position :]]
        ahead = len(ids[0])
        while ahead < need:
            after_cut = False
            for index in torch.randperm(len(self.stories), generator=self.generator).tolist():
                story = self.stories[index]
                flags = torch.ones(len(story), dtype=torch.bool)
                flags[0] = not after_cut
                after_cut = not self.finished[index]
                ids.append(story)
                scored.append(flags)
            ahead += self.tokens
            self.epochs += 1
        self.stream, self.scored, self.position = torch.cat(ids), torch.cat(scored), 0
