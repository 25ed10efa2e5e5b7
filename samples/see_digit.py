"""Draw what a digit classifier sees, as a PNG picture.

Of one image: where covering it makes the answer less sure. A square is moved over the image, all
covered copies are classified in one batch, and the warmer a place, the more it counts.

    python samples/see_digit.py --image samples/digits/7.png -o seven.png

Of many labelled images: the confusion matrix. A row is a digit, a column an answer.

    python samples/see_digit.py --images samples/digits --labels samples/digits/labels.txt

Without a bundle of yours it exports the embedded checkpoint first. Needs the extra `vision`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

import edgellm
from edgellm.runtime.classifier import ImageClassifier
from edgellm.runtime.encoder_evaluate import read_labelled_images

SAMPLES = Path(__file__).resolve().parent
CHECKPOINT = SAMPLES / "digits-vit"
COVER, STEP = 5, 1
"""Side of the square that covers, and how far it moves, in the model's pixels."""
ZOOM = 12
CELL, MARGIN = 44, 60
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
COLD, WARM = np.array((25, 60, 140)), np.array((255, 90, 20))
"""Colours of places that speak against the answer, and for it."""

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


def model_pixels(model: ImageClassifier, image: Path) -> Pixels:
    """Return an image file as (height, width) bytes, resized as the model wants it."""
    facts = model.info
    if facts.num_channels != 1:
        raise SystemExit("the bundle is for colour images; this sample needs one for grey images")
    return model.pixels([image]).reshape(facts.image_height, facts.image_width)


def covered_copies(pixels: Pixels) -> tuple[Pixels, list[tuple[int, int]]]:
    """Return copies (n, height, width) with a black square each, and where these begin."""
    height, width = pixels.shape
    places = [
        (top, left)
        for top in range(1 - COVER, height, STEP)
        for left in range(1 - COVER, width, STEP)
    ]
    copies = np.repeat(pixels[None], len(places), axis=0)
    for copy, (top, left) in zip(copies, places, strict=True):
        copy[max(top, 0) : top + COVER, max(left, 0) : left + COVER] = 0
    return copies, places


def evidence(model: ImageClassifier, pixels: Pixels) -> tuple[str, Floats]:
    """Return the answer, and (height, width) how much each place speaks for it, in log odds."""
    copies, places = covered_copies(pixels)
    logits = model.logits(np.concatenate([pixels[None], copies])[..., None])
    real = logits * 2.0**-model.info.logits_frame
    answer = int(real[0].argmax())
    others = np.delete(real, answer, axis=1)
    odds = real[:, answer] - np.logaddexp.reduce(others, axis=1)
    sums, counts = np.zeros(pixels.shape), np.zeros(pixels.shape)
    for lost, (top, left) in zip(odds[0] - odds[1:], places, strict=True):
        place = np.s_[max(top, 0) : top + COVER, max(left, 0) : left + COVER]
        sums[place] += lost
        counts[place] += 1
    return model.labels[answer], sums / counts


def draw_evidence(pixels: Pixels, found: Floats) -> Image.Image:
    """Return the image beside its heat map."""
    strength = np.clip(np.abs(found) / max(float(np.abs(found).max()), 1e-9), 0, 1)[..., None]
    grey = np.repeat(pixels[..., None], 3, axis=2)
    heat = np.where(found[..., None] > 0, WARM, COLD)
    mixed = (grey * (1 - strength) * 0.6 + heat * strength).astype(np.uint8)
    both = np.concatenate([grey, mixed], axis=1)
    height, width = both.shape[:2]
    return Image.fromarray(both).resize((width * ZOOM, height * ZOOM), Image.Resampling.NEAREST)


def confusion(
    model: ImageClassifier, images: Path, labels: Path, limit: int | None
) -> npt.NDArray[np.int64]:
    """Return (labels, labels) how often the label of a row got the answer of a column."""
    data = read_labelled_images(images, labels, model.labels, limit)
    answers = model.logits(data.images).argmax(axis=1)
    counts = np.zeros((len(model.labels), len(model.labels)), np.int64)
    np.add.at(counts, (np.array(data.labels), answers), 1)
    return counts


def draw_confusion(counts: npt.NDArray[np.int64], names: Sequence[str]) -> Image.Image:
    """Return the matrix as a picture: right answers blue, wrong ones red, by their share."""
    side = MARGIN + CELL * len(names)
    picture = Image.new("RGB", (side, side), WHITE)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for number, name in enumerate(names):
        at = MARGIN + CELL * number + CELL // 2
        draw.text((at, MARGIN // 2), name, BLACK, font, anchor="mm")
        draw.text((MARGIN // 2, at), name, BLACK, font, anchor="mm")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row, column in np.argwhere(counts):
        strength = 0.15 + 0.85 * shares[row, column]
        color = COLD if row == column else WARM
        fill = tuple(int(v) for v in 255 + (color - 255) * strength)
        left, top = MARGIN + CELL * column, MARGIN + CELL * row
        draw.rectangle((left, top, left + CELL - 2, top + CELL - 2), fill=fill)
        middle = (left + CELL // 2, top + CELL // 2)
        text_color = WHITE if strength > 0.6 else BLACK
        draw.text(middle, str(counts[row, column]), text_color, font, anchor="mm")
    return picture


def draw(bundle: Path, options: argparse.Namespace) -> None:
    """Write the picture that is asked for, and say what it shows."""
    with edgellm.load(bundle, task="image-classification") as model:
        if options.images is None:
            pixels = model_pixels(model, options.image)
            answer, found = evidence(model, pixels)
            picture = draw_evidence(pixels, found)
            row, column = np.unravel_index(found.argmax(), found.shape)
            print(f"{options.image} is {answer}; row {row}, column {column} counts most")
        else:
            counts = confusion(model, options.images, options.labels, options.limit)
            picture = draw_confusion(counts, model.labels)
            right, total = int(counts.trace()), int(counts.sum())
            print(f"{right} of {total} are right ({right / total:.2%})")
    picture.save(options.output)
    print(f"the picture is in {options.output}")


def main() -> None:
    """Run the sample."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("bundle", nargs="?", type=Path, help="bundle (default: export the embedded digits)")
    add("--image", type=Path, default=SAMPLES / "digits" / "7.png", help="draw what counts in it")
    add("--images", type=Path, help="draw the confusion matrix: a folder, or an IDX file")
    add("--labels", type=Path, help="of --images: lines of name and label, or an IDX file")
    add("--limit", type=int, help="take no more of --images")
    add("-o", "--output", type=Path, default=Path("seen.png"), help="default: seen.png")
    options = parser.parse_args()
    if (options.images is None) != (options.labels is None):
        parser.error("--images and --labels belong together")
    if options.bundle is not None:
        draw(options.bundle, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "digits"
        edgellm.export(CHECKPOINT, bundle)
        draw(bundle, options)


if __name__ == "__main__":
    main()
