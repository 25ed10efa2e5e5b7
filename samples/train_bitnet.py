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


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the example's line breaks and shows the defaults."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("stories", type=Path, help="story text, plain or .gz, separated by <|endoftext|>")
    add("--output", type=Path, required=True, help="directory of the packed checkpoint")
    add("--seed", type=int, default=1, help="seed of everything random")
    add_teacher_arguments(parser)
    add_model_arguments(parser)
    add_training_arguments(parser)
    options = parser.parse_args(arguments)
    if options.teacher and not options.teacher_text and options.teacher_stories < 1:
        parser.error("--teacher needs --teacher-stories N, or --teacher-text of an earlier run")
    if not 0 < options.fall <= 1:
        parser.error(f"--fall is a part of the run, above 0 and up to 1, not {options.fall}")
    return options


def add_teacher_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the optional teacher."""
    add = parser.add_argument_group("teacher, optional").add_argument
    add("--teacher", type=Path, help="directory of a small Llama-style checkpoint")
    add("--teacher-stories", type=int, default=0, help="how many stories it writes")
    add("--teacher-text", type=Path, help="file (JSON lines) that keeps them for the next run")
    add("--temperature", type=float, default=1.0, help="of the teacher's sampling")
    add("--top-p", type=float, default=1.0, help="sample from the likeliest ids up to this mass")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Sizes of the model; the defaults make a file of one megabyte."""
    add = parser.add_argument_group("model").add_argument
    add("--vocab-size", type=int, default=1024, help="pieces of the byte-level BPE")
    add("--hidden-size", type=int, default=192, help="residual width")
    add("--intermediate-size", type=int, default=512, help="feed-forward width")
    add("--layers", type=int, default=6, help="transformer layers")
    add("--heads", type=int, default=3, help="attention heads; few wide ones are faster here")
    add("--kv-heads", type=int, default=1, help="key and value heads")
    add("--context", type=int, default=512, help="positions the model knows")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Schedule and rates."""
    add = parser.add_argument_group("training").add_argument
    add("--steps", type=int, default=4000, help="optimiser steps")
    add("--minutes", type=float, default=math.inf, help="end by then; the rates know it")
    add("--batch", type=int, default=16, help="rows of --context tokens a step")
    add("--rate", type=float, default=0.02, help="highest learning rate of the matrices (Muon)")
    add("--adam-rate", type=float, default=4e-3, help="and of embedding and norms (Adam)")
    add("--decay", type=float, default=0.05, help="weight decay until the rates fall")
    add("--fall", type=float, default=0.65, help="last part of the run; rates fall to zero in it")
    help_text = "first part of the run; rows are half as long and twice as many in it"
    add("--short-part", type=float, default=0.8, help=help_text)
    help_text = "share of real text beside the teacher's, until the rates fall and at the end"
    add("--real-share", type=float, nargs=2, default=(0.35, 0.65), help=help_text)
    add("--compile", action="store_true", help="compile the step: faster, minutes to start")
    add("--state", type=Path, help="file from which an interrupted run goes on, if it exists")
    add("--save-every", type=float, default=5.0, help="minutes between exports")


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

    def save(self, path: Path, steps: int, seconds: float) -> None:
        """Keep what `restore` needs: weights, optimiser states, steps and seconds so far."""
        state = {"model": self.model.state_dict(), "adam": self.adam.state_dict()}
        torch.save(state | {"muon": self.muon.velocity, "run": (steps, seconds)}, path)

    def restore(self, path: Path) -> tuple[int, float]:
        """Take up a saved run; returns its next step and when it would have started."""
        state = torch.load(path)
        self.model.load_state_dict(state["model"])
        self.adam.load_state_dict(state["adam"])
        self.muon.velocity = state["muon"]
        steps, seconds = state["run"]
        return steps, time.monotonic() - seconds

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
        short = 2 if done < options.short_part else 1
        loss = self.loss(*self._batch(1.0 - falling, short))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.muon.step(options.rate * rate, options.decay if falling == 1.0 else 0.0)
        self.adam.step()
        self.model.zero_grad()
        return loss.item()

    def _batch(self, fallen: float, short: int) -> tuple[Tensor, Tensor]:
        """Rows of both sources; the share of the first grows with `fallen` in [0, 1]."""
        rows, length = self.options.batch * short, self.options.context // short
        if len(self.sources) == 1:
            return self.sources[0].rows(rows, length)
        first, last = self.options.real_share
        real = round(rows * (first + (last - first) * fallen))
        parts = [self.sources[0].rows(real, length), self.sources[1].rows(rows - real, length)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def train(trainer: Trainer, tokenizer: Tokenizer, sample: list[str]) -> None:
    """Run the schedule to its end; export and score `sample` every few minutes."""
    options, first, started = trainer.options, 0, time.monotonic()
    exported = started
    if options.state and options.state.exists():
        first, started = trainer.restore(options.state)
    with tqdm(total=options.steps, initial=first, desc="training", unit="step") as bar:
        for number in range(first, options.steps):
            minutes = (time.monotonic() - started) / 60
            done = max(number / options.steps, minutes / options.minutes)
            if done >= 1.0:
                break
            loss = trainer.step(number, done)
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", done=f"{done:.0%}")
            if time.monotonic() - exported >= 60 * options.save_every:
                exported = time.monotonic()
                write_checkpoint(trainer.model, tokenizer, options.output)
                if options.state:
                    trainer.save(options.state, number + 1, exported - started)
                score = score_checkpoint(options.output, sample)
                tqdm.write(f"step {number + 1}: held-out {score:.4f} bits per byte", sys.stderr)
    write_checkpoint(trainer.model, tokenizer, options.output)


def score_checkpoint(directory: Path, texts: list[str]) -> float:
    """Bits per byte of `texts` for the model that a packed checkpoint describes."""
    model, tokenizer = read_checkpoint(directory)
    return bits_per_byte(model, tokenizer, texts, model.config.max_position_embeddings)


@torch.inference_mode()
def tell_story(directory: Path, temperature: float, seed: int) -> str:
    """A story that the packed checkpoint in `directory` tells, up to its end or the context's."""
    model, tokenizer = read_checkpoint(directory)
    generator = torch.Generator().manual_seed(seed)
    ids = tokenizer.encode("").ids
    end = ids[0]
    while len(ids) < model.config.max_position_embeddings:
        shares = torch.softmax(model(torch.tensor([ids]))[0, -1] / temperature, -1)
        ids.append(int(torch.multinomial(shares, 1, generator=generator)))
        if ids[-1] == end:
            break
    return tokenizer.decode(ids)


def main(arguments: list[str] | None = None) -> int:
    """Train, export, and compare with the teacher on the held-out stories."""
    options = parse_arguments(arguments)
    torch.manual_seed(options.seed)
    real, held_out = split_stories(read_stories(options.stories))
    if not held_out:
        raise SystemExit(f"{options.stories}: only {len(real)} stories; every tenth is held out")
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

    if options.teacher:
        teacher = Teacher(options.teacher)
        context = teacher.config.max_position_embeddings
        texts = [cut_to_context(teacher.tokenizer, text, context)[1] for text in texts]
        score = bits_per_byte(teacher.score, teacher.tokenizer, texts, context)
        print(f"teacher: {score:.4f} bits per byte of the held-out stories")
    score = score_checkpoint(options.output, texts)
    print(f"student: {score:.4f} bits per byte of the held-out stories")
    print("a story:", tell_story(options.output, temperature=0.8, seed=options.seed))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
