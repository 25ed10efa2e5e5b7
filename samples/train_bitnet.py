"""Train a small BitNet b1.58 story teller on one CPU core and write it as a packed checkpoint.

Example (needs the optional extra `train`, that is torch, tokenizers, safetensors and tqdm):

    python samples/train_bitnet.py stories.txt.gz --output my-stories --minutes 60

Stories are separated by `<|endoftext|>`. Every tenth story is held out. With `--teacher` a small
Llama-style checkpoint first writes extra training text (sequence-level distillation); the real
text then makes up a share of each batch that grows while the learning rate falls to zero.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm
from train_data import NOT_SCORED, Corpus, Story, read_stories, split_stories, train_tokenizer
from train_export import read_checkpoint, write_checkpoint
from train_model import BitNet, ModelConfig, Muon
from train_teacher import Teacher, sample_rows, split_rows

TEACHER_BATCH = 64
WARM_UP_STEPS = 100


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("stories", type=Path, help="story text, plain or .gz, separated by <|endoftext|>")
    add("--output", type=Path, required=True, help="directory of the packed checkpoint")

    add = parser.add_argument_group("teacher (optional)").add_argument
    add("--teacher", type=Path, help="directory of a small Llama-style checkpoint")
    add("--teacher-stories", type=int, default=0, help="how many stories it writes (default: 0)")
    add("--teacher-text", type=Path, help="JSON lines file that keeps them between runs")
    add("--temperature", type=float, default=1.0, help="of the teacher's sampling (default: 1)")
    add("--top-p", type=float, default=1.0, help="of the teacher's sampling (default: 1)")

    add = parser.add_argument_group("model").add_argument
    add("--vocab-size", type=int, default=1024, help="byte-level BPE pieces (default: 1024)")
    add("--hidden-size", type=int, default=192, help="residual width (default: 192)")
    add("--intermediate-size", type=int, default=512, help="feed-forward width (default: 512)")
    add("--layers", type=int, default=6, help="transformer layers (default: 6)")
    add("--heads", type=int, default=3, help="attention heads (default: 3)")
    add("--kv-heads", type=int, default=1, help="key and value heads (default: 1)")
    add("--context", type=int, default=512, help="positions the model knows (default: 512)")

    add = parser.add_argument_group("training").add_argument
    add("--steps", type=int, default=4000, help="optimiser steps (default: 4000)")
    add("--minutes", type=float, default=math.inf, help="end by then, schedule included")
    add("--batch", type=int, default=16, help="rows of --context tokens a step (default: 16)")
    add("--rate", type=float, default=0.02, help="Muon's peak learning rate (default: 0.02)")
    add("--adam-rate", type=float, default=4e-3, help="of embedding and norms (default: 0.004)")
    add("--decay", type=float, default=0.05, help="weight decay before the fall (default: 0.05)")
    add("--fall", type=float, default=0.5, help="last part in which rates fall (default: 0.5)")
    add("--real-share", type=float, nargs=2, default=(0.2, 0.5), metavar=("FIRST", "LAST"),
        help="share of real text beside the teacher's, first and last (default: 0.2 0.5)")
    add("--seed", type=int, default=1, help="seed of everything random (default: 1)")
    add("--compile", action="store_true", help="torch.compile the step: faster, slow to start")
    add("--save-every", type=float, default=5.0, help="minutes between exports (default: 5)")
    return parser.parse_args(arguments)


def teacher_stories(options: argparse.Namespace) -> list[Story]:
    """Stories the teacher writes, or those it wrote for an earlier run."""
    kept = options.teacher_text
    if kept and kept.exists():
        lines = kept.read_text(encoding="utf-8").splitlines()
        return [Story(*json.loads(line)) for line in lines]
    teacher = Teacher(options.teacher)
    generator = torch.Generator().manual_seed(options.seed)
    stories: list[Story] = []
    with tqdm(total=options.teacher_stories, desc="teacher", unit="story") as bar:
        while len(stories) < options.teacher_stories:
            rows = sample_rows(
                teacher, TEACHER_BATCH, options.temperature, options.top_p, generator
            )
            found = [Story(*pair) for pair in split_rows(teacher, rows)]
            stories += found
            bar.update(len(found))
    del stories[options.teacher_stories :]
    if kept:
        lines = [json.dumps([story.text, story.finished]) + "\n" for story in stories]
        kept.write_text("".join(lines), encoding="utf-8")
    return stories


def bits_per_byte(
    logits: Callable[[Tensor], Tensor], tokenizer: Tokenizer, texts: list[str], context: int
) -> float:
    """Bits that `logits` needs for a byte of `texts`; the ends of the stories are not scored.

    `logits` maps ids [1, length] to [1, length, vocabulary]. Of a text that is longer than the
    context only the covered part is counted, in bits and in bytes.
    """
    nats, size = 0.0, 0
    for text in texts:
        ids, covered = cut_to_context(tokenizer, text, context)
        with torch.inference_mode():
            scores = logits(torch.tensor([ids[:-1]]))[0].double()
        nats += F.cross_entropy(scores, torch.tensor(ids[1:]), reduction="sum").item()
        size += len(covered.encode("utf-8"))
    return nats / math.log(2) / size


def cut_to_context(tokenizer: Tokenizer, text: str, context: int) -> tuple[list[int], str]:
    """The first `context` ids of `text` and the part of `text` they stand for."""
    encoded = tokenizer.encode(text)
    if len(encoded.ids) <= context:
        return encoded.ids, text
    return encoded.ids[:context], text[: encoded.offsets[context - 1][1]]


class Trainer:
    """The state of one run: model, optimisers, schedules and the two sources of text."""

    def __init__(self, options: argparse.Namespace, model: BitNet, sources: list[Corpus]) -> None:
        self.options, self.model, self.sources = options, model, sources
        matrices = [p for n, p in model.named_parameters() if n.endswith("_proj.weight")]
        others = [p for n, p in model.named_parameters() if not n.endswith("_proj.weight")]
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)
        self.loss = torch.compile(self._loss, dynamic=False) if options.compile else self._loss

    def _loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of [rows, length]; products in bfloat16, the rest in float32."""
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(ids)
        flat = logits.float().flatten(0, 1)
        return F.cross_entropy(flat, targets.flatten(), ignore_index=NOT_SCORED)

    def step(self, number: int, done: float) -> float:
        """One update; `done` in [0, 1] is the part of the run that is over. Returns the loss."""
        options = self.options
        falling = min(1.0, (1.0 - done) / options.fall)
        rate = falling * min(1.0, (number + 1) / WARM_UP_STEPS)
        for group in self.adam.param_groups:
            group["lr"] = options.adam_rate * rate
        loss = self.loss(*self._batch(1.0 - falling))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.muon.step(options.rate * rate, options.decay if falling == 1.0 else 0.0)
        self.adam.step()
        self.model.zero_grad()
        return loss.item()

    def _batch(self, fallen: float) -> tuple[Tensor, Tensor]:
        """Rows of both sources; the share of the first grows with `fallen` in [0, 1]."""
        rows, length = self.options.batch, self.options.context
        if len(self.sources) == 1:
            return self.sources[0].rows(rows, length)
        first, last = self.options.real_share
        real = round(rows * (first + (last - first) * fallen))
        parts = [self.sources[0].rows(real, length), self.sources[1].rows(rows - real, length)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def train(trainer: Trainer, tokenizer: Tokenizer, sample: list[str]) -> None:
    """Run the schedule to its end; export and score `sample` every few minutes."""
    options, started = trainer.options, time.monotonic()
    saved = started
    with tqdm(total=options.steps, desc="training", unit="step") as bar:
        for number in range(options.steps):
            minutes = (time.monotonic() - started) / 60
            done = max(number / options.steps, minutes / options.minutes)
            if done >= 1.0:
                break
            loss = trainer.step(number, done)
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", done=f"{done:.0%}")
            if (time.monotonic() - saved) / 60 >= options.save_every:
                saved = time.monotonic()
                write_checkpoint(trainer.model, tokenizer, options.output)
                model, _ = read_checkpoint(options.output)
                score = bits_per_byte(model, tokenizer, sample, options.context)
                epochs = [source.epochs for source in trainer.sources]
                tqdm.write(f"{number} {done:.2f} {loss=:.3f} {score=:.4f} {epochs=}", sys.stderr)
    write_checkpoint(trainer.model, tokenizer, options.output)


def main(arguments: list[str] | None = None) -> int:
    """Train, export, and compare with the teacher on the held-out stories."""
    options = parse_arguments(arguments)
    torch.manual_seed(options.seed)
    real, held_out = split_stories(read_stories(options.stories))
    texts = [story.text for story in held_out]
    tokenizer = train_tokenizer(real, options.vocab_size)
    sources = [Corpus(real, tokenizer, options.seed)]
    if options.teacher:
        sources.append(Corpus(teacher_stories(options), tokenizer, options.seed + 1))
    print(f"tokens to train on: {[source.tokens for source in sources]}", flush=True)
    model = BitNet(
        ModelConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=options.hidden_size,
            intermediate_size=options.intermediate_size,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            num_key_value_heads=options.kv_heads,
            max_position_embeddings=options.context,
        )
    )
    train(Trainer(options, model, sources), tokenizer, texts[:50])

    packed, tokenizer = read_checkpoint(options.output)
    if options.teacher:
        teacher = Teacher(options.teacher)
        context = teacher.config.max_position_embeddings
        texts = [cut_to_context(teacher.tokenizer, text, context)[1] for text in texts]
        score = bits_per_byte(teacher.score, teacher.tokenizer, texts, context)
        print(f"teacher: {score:.4f} bits per byte of the held-out stories")
    score = bits_per_byte(packed, tokenizer, texts, options.context)
    print(f"student: {score:.4f} bits per byte of the held-out stories")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
