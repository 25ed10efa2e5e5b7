"""Train a small vision transformer on handwritten digits and write it as a ViT checkpoint.

Example (needs the optional extra `train`, that is torch, safetensors and tqdm):

    python samples/train_vit.py train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz \
        --test t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz --output my-digits

The files are in MNIST's IDX format, plain or .gz. The checkpoint is that of transformers'
ViTForImageClassification, in float16; `edgellm export my-digits -o bundle` reads it.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from train_model import Muon
from vit_checkpoint import read_checkpoint, write_checkpoint
from vit_data import distorted, read_digits
from vit_model import Vit, VitConfig

WARM_UP_STEPS = 100


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the example's line breaks and shows the defaults."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("images", type=Path, help="images to learn from, an IDX file")
    add("labels", type=Path, help="their labels, an IDX file")
    add("--test", type=Path, nargs=2, metavar=("IMAGES", "LABELS"), help="scored at the end")
    add("--output", type=Path, required=True, help="directory of the checkpoint")
    add("--epochs", type=int, default=20, help="how often each image is seen")
    add("--batch", type=int, default=128, help="images a step")
    add("--rate", type=float, default=0.02, help="highest learning rate of the matrices (Muon)")
    add("--adam-rate", type=float, default=2e-3, help="and of everything else (Adam)")
    add("--decay", type=float, default=0.02, help="weight decay")
    add("--seed", type=int, default=1, help="seed of everything random")
    add("--state", type=Path, help="file from which an interrupted run goes on, if it exists")
    for name, size in vars(VitConfig()).items():
        add(f"--{name.replace('_', '-')}", type=int, default=size, help="of the model")
    return parser.parse_args(arguments)


class Trainer:
    """The state of one run: model, optimisers and the order of the images."""

    def __init__(self, options: argparse.Namespace, images: Tensor, labels: Tensor) -> None:
        self.options, self.images, self.labels = options, images, labels
        sizes = {name: getattr(options, name) for name in vars(VitConfig())}
        self.model = Vit.random(VitConfig(**sizes))
        inside = {n for n, w in self.model.weights.items() if ".layer." in n and w.dim() == 2}
        self.muon = Muon([self.model.weights[name] for name in sorted(inside)])
        others = [weight for name, weight in self.model.weights.items() if name not in inside]
        self.adam = torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)
        self.steps_per_epoch = math.ceil(len(images) / options.batch)

    def save(self, path: Path, epoch: int) -> None:
        """Keep what `restore` needs; a file that is cut short never takes the place of a whole."""
        state = {"weights": self.model.weights, "adam": self.adam.state_dict(), "epoch": epoch}
        part = path.with_suffix(".part")
        torch.save(state | {"muon": self.muon.velocity, "random": torch.get_rng_state()}, part)
        part.replace(path)

    def restore(self, path: Path) -> int:
        """Take up a saved run; returns its next epoch."""
        state = torch.load(path)
        with torch.no_grad():
            for name, weight in self.model.weights.items():
                weight.copy_(state["weights"][name])
        self.adam.load_state_dict(state["adam"])
        self.muon.velocity = state["muon"]
        torch.set_rng_state(state["random"])
        return state["epoch"]

    def epoch(self, number: int, bar: tqdm[None]) -> None:
        """See every image once, each distorted anew."""
        order = torch.randperm(len(self.images))
        for index, chosen in enumerate(order.split(self.options.batch)):
            loss = self._step(number * self.steps_per_epoch + index, chosen)
            bar.update()
            if index % 50 == 0:
                bar.set_postfix(loss=f"{loss:.3f}")

    def _step(self, number: int, chosen: Tensor) -> float:
        options = self.options
        done = number / (self.steps_per_epoch * options.epochs)
        rate = min(1.0, (number + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * done))
        for group in self.adam.param_groups:
            group["lr"] = options.adam_rate * rate
        logits = self.model(distorted(self.images[chosen]))
        loss = F.cross_entropy(logits, self.labels[chosen])
        loss.backward()
        self.muon.step(options.rate * rate, options.decay)
        self.adam.step()
        for weight in self.model.weights.values():
            weight.grad = None
        return loss.item()


def train(trainer: Trainer) -> None:
    """Run all epochs, or those that an interrupted run has left."""
    options, first = trainer.options, 0
    if options.state and options.state.exists():
        first = trainer.restore(options.state)
    per_epoch = trainer.steps_per_epoch
    steps = per_epoch * options.epochs
    with tqdm(total=steps, initial=first * per_epoch, desc="training", unit="step") as bar:
        for number in range(first, options.epochs):
            trainer.epoch(number, bar)
            if options.state:
                trainer.save(options.state, number + 1)


@torch.inference_mode()
def count_correct(model: Vit, images: Tensor, labels: Tensor) -> int:
    """How many images (images, 1, side, side) get their label."""
    best = [model(batch).argmax(1) for batch in images.split(1000)]
    return int((torch.cat(best) == labels).sum())


def main(arguments: list[str] | None = None) -> int:
    """Train, write, and score what was written."""
    options = parse_arguments(arguments)
    torch.manual_seed(options.seed)
    images, labels = read_digits(options.images, options.labels, options.image_size)
    trainer = Trainer(options, images, labels)
    train(trainer)
    write_checkpoint(trainer.model, options.output)
    print(f"{trainer.model.num_parameters:,} parameters, from {len(images):,} images")
    if options.test:
        images, labels = read_digits(*options.test, options.image_size)
        correct = count_correct(read_checkpoint(options.output), images, labels)
        print(f"{correct} of {len(images)} test images: {correct / len(images):.2%}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
