"""``edgellm classify`` as scripts see it: folders, pipes, labels by name, and bad images."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DIGITS = Path(__file__).resolve().parents[3] / "samples" / "digits"


def content(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def seven() -> Image.Image:
    with Image.open(DIGITS / "7.png") as image:
        return image.copy()


def test_one_image_gives_its_labels_the_best_first(digits_bundle: Path, main) -> None:
    status, out, err = main("classify", digits_bundle, "--image", DIGITS / "7.png", "--top", 3)
    lines = [line.split() for line in out.splitlines()]

    assert (status, err, len(lines)) == (0, "", 3)
    assert lines[0][1] == "7"
    shares = [float(share.rstrip("%")) for share, _ in lines]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 90


def test_a_folder_gives_every_image_by_name(digits_bundle: Path, main) -> None:
    """labels.txt lies there, too, and is no image."""
    words = ("classify", digits_bundle, "--image", DIGITS, DIGITS / "3.png", "--top", 1)
    lines = main(*words)[1].splitlines()
    found = json.loads(main(*words, "--json")[1])["images"]

    assert lines[0::2] == [f"{DIGITS / f'{digit}.png'}:" for digit in [*range(10), 3]]
    assert [line.split()[1] for line in lines[1::2]] == [*"0123456789", "3"]
    assert [Path(item["image"]).stem for item in found] == [*"0123456789", "3"]
    assert [item["labels"][0]["label"] for item in found] == [*"0123456789", "3"]
    assert {*found[0]["labels"][0]} == {"label", "index", "score"}


def test_more_labels_than_there_are_is_all_of_them(digits_bundle: Path, main) -> None:
    out = main("classify", digits_bundle, "--image", DIGITS / "0.png", "--top", 99)[1]
    assert sorted(line.split()[1] for line in out.splitlines()) == [*"0123456789"]


def test_a_dash_reads_the_image_from_a_pipe(digits_bundle: Path) -> None:
    command = [sys.executable, "-m", "edgellm", "classify", str(digits_bundle), "--image", "-"]
    with (DIGITS / "4.png").open("rb") as pipe:
        done = subprocess.run(command, stdin=pipe, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[1] == "4"


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "CMYK", {"quality": 95}),
        ("PNG", "P", {}),
        ("PNG", "P", {"transparency": bytes(range(256))}),
        ("PNG", "LA", {}),
        ("GIF", "P", {"save_all": True, "append_images": [Image.new("P", (56, 56))]}),
        ("WEBP", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (56, 56))]}),
        ("TIFF", "RGBA", {}),
    ],
    ids=[
        "cmyk",
        "palette",
        "transparent palette",
        "alpha",
        "animated gif",
        "animated webp",
        "tiff",
    ],
)
def test_other_modes_and_first_frames_are_read(
    digits_bundle: Path, main, feed, kind: str, mode: str, options: dict
) -> None:
    feed(content(seven().convert("RGB").convert(mode), kind, **options))
    status, out, err = main("classify", digits_bundle, "--image", "-", "--top", 1)

    assert (status, err) == (0, "")
    assert out.split()[1] == "7"


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.png", b"", "cannot be read as an image; allowed are"),
        ("text.png", b"no image", "cannot be read as an image; allowed are"),
        ("short.png", content(Image.effect_noise((64, 64), 50))[:900], "truncated"),
        ("short.jpg", content(Image.effect_noise((64, 64), 50), "JPEG")[:900], "cannot be read"),
        ("huge.png", content(Image.new("1", (1 << 14, 1 << 14))), "268435456 pixels"),
        ("deep.png", content(Image.new("I;16", (28, 28))), "mode I;16"),
        ("real.tif", content(Image.new("F", (28, 28)), "TIFF"), "mode F"),
        ("page.eps", content(seven(), "EPS"), "cannot be read as an image; allowed are"),
    ],
)
def test_a_bad_image_is_named_in_one_line(
    digits_bundle: Path, tmp_path: Path, main, name: str, data: bytes, reason: str
) -> None:
    """Nothing is said about the good one beside it: the batch is not half done."""
    path = tmp_path / name
    path.write_bytes(data)
    status, out, err = main("classify", digits_bundle, "--image", DIGITS / "7.png", path)

    assert (status, out) == (2, "")
    assert err.startswith(f"edgellm: error: {path}: ")
    assert reason in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("--image", "no-such-file.png"), 2, "no such file or folder"),
        (("--image", "EMPTY"), 2, "no image in this folder"),
        (("--image", "-", "--top", "0"), 2, "0 is not at least 1"),
        ((), 2, "--image"),
    ],
)
def test_wrong_words(
    digits_bundle: Path, tmp_path: Path, main, words: tuple, status: int, reason: str
) -> None:
    got, out, err = main(
        "classify", digits_bundle, *(tmp_path if w == "EMPTY" else w for w in words)
    )
    assert (got, out) == (status, "")
    assert reason in err


def test_labels_go_by_their_names(tmp_path: Path, main) -> None:
    """Names of strangers, too: a control character does not reach the terminal."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(DIGITS.parent / "digits-vit", checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    names = ["zero", "one", "two", "three", "four", "five", "six", "lucky\x1b[31m seven", "8", "9"]
    config["id2label"] = {str(number): name for number, name in enumerate(names)}
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert main("export", checkpoint, "-o", tmp_path / "named")[0] == 0
    status, out, _ = main("classify", tmp_path / "named", "--image", DIGITS / "7.png", "--top", 1)

    assert status == 0
    assert out.endswith("%  lucky\\x1b[31m seven\n")


@pytest.mark.parametrize("command", ["run", "chat", "bench", "tune", "embed", "eval"])
def test_other_commands_say_what_the_bundle_is_for(
    digits_bundle: Path, tmp_path: Path, main, command: str
) -> None:
    words = {
        "run": ("-p", "a"),
        "embed": ("--text", "a"),
        "eval": ("--text", __file__),
        "bench": ("-p", 4, "-n", 2),
    }
    status, out, err = main("-q", command, digits_bundle, *words.get(command, ()))

    assert (status, out) == (2, "")
    assert "is for image-classification, not for" in err


def test_the_scores_of_an_image_are_those_of_python(digits_bundle: Path, main) -> None:
    import edgellm

    words = ("classify", digits_bundle, "--image", DIGITS / "5.png", "--json", "-t", 1)
    ((_, labels),) = [tuple(item.values()) for item in json.loads(main(*words)[1])["images"]]
    with edgellm.load(digits_bundle, task="image-classification", threads=2) as model:
        pixels = np.asarray(Image.open(DIGITS / "5.png"))
        (found,) = model.classify(pixels)
    assert [vars(label) for label in found] == labels
