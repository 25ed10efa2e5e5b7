"""``edgellm eval --images`` and ``--sts`` as scripts see them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SAMPLES = Path(__file__).resolve().parents[3] / "samples"
DIGITS = SAMPLES / "digits"
LABELS = DIGITS / "labels.txt"
PAIRS = "4.5\tA dog runs.\tA dog ran.\n1.0\tA dog runs.\tIt rains.\n2.5\tRain.\tIt rains.\n"


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def digits_idx(tmp_path: Path) -> tuple[Path, Path]:
    """The ten digits as IDX files, 56 x 56; the label of the last one is wrong."""
    pixels = np.stack([np.asarray(Image.open(DIGITS / f"{digit}.png")) for digit in range(10)])
    (tmp_path / "images").write_bytes(idx(pixels))
    (tmp_path / "labels").write_bytes(idx(np.array([*range(9), 4], np.uint8)))
    return tmp_path / "images", tmp_path / "labels"


def test_a_folder_and_its_labels(digits_bundle: Path, main) -> None:
    words = ("eval", digits_bundle, "--images", DIGITS, "--labels", LABELS)
    assert json.loads(main(*words, "--json")[1]) == {"accuracy": 1.0, "correct": 10, "images": 10}
    status, out, _ = main("-q", *words, "--limit", 3)
    assert (status, out.split()) == (0, ["accuracy", "1.00000", "correct", "3", "of", "3"])


def test_idx_files_of_another_size_are_resized(
    digits_bundle: Path, main, digits_idx: tuple[Path, Path]
) -> None:
    words = ("eval", digits_bundle, "--images", digits_idx[0], "--labels", digits_idx[1], "--json")
    assert json.loads(main(*words)[1]) == {"accuracy": 0.9, "correct": 9, "images": 10}
    assert json.loads(main(*words, "--limit", 9)[1])["accuracy"] == 1


def test_the_float_checkpoint_stands_beside(main) -> None:
    words = ("eval", SAMPLES / "digits-vit", "--float", "--images", DIGITS, "--labels", LABELS)
    assert json.loads(main(*words, "--json")[1])["correct"] == 10


def test_a_name_with_blanks_is_followed_by_a_tab(digits_bundle: Path, tmp_path: Path, main) -> None:
    (tmp_path / "my seven.png").write_bytes((DIGITS / "7.png").read_bytes())
    (tmp_path / "labels").write_text("my seven.png\t7\n")
    words = ("eval", digits_bundle, "--images", tmp_path, "--labels", tmp_path / "labels", "--json")
    assert json.loads(main(*words)[1])["correct"] == 1


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ("7.png 7\n8.png eleven\n", "line 2: 'eleven' is no label"),
        ("no.png 7\n", "there is no image"),
        ("7.png\n", "line 1: '' is no label"),
        ("", "names no image"),
        ("short.png 7\n", "short.png: cannot be read as an image"),
    ],
)
def test_labels_that_do_not_fit(
    digits_bundle: Path, tmp_path: Path, main, labels: str, reason: str
) -> None:
    for name in ("7.png", "8.png"):
        (tmp_path / name).write_bytes((DIGITS / name).read_bytes())
    (tmp_path / "short.png").write_bytes((DIGITS / "7.png").read_bytes()[:99])
    (tmp_path / "labels").write_text(labels)
    words = ("eval", digits_bundle, "--images", tmp_path, "--labels", tmp_path / "labels")
    status, out, err = main("-q", *words)

    assert (status, out) == (2, "")
    assert reason in err
    assert err.count("\n") == 1


def test_images_and_labels_of_different_counts(
    digits_bundle: Path, tmp_path: Path, main, digits_idx: tuple[Path, Path]
) -> None:
    digits_idx[1].write_bytes(idx(np.arange(9, dtype=np.uint8)))
    words = ("--images", digits_idx[0], "--labels", digits_idx[1])
    status, _, err = main("eval", digits_bundle, *words)
    assert status == 2
    assert "has 10 images" in err


def test_pairs_are_scored_by_bundle_and_checkpoint(
    sentence_bundle: Path, sentence_checkpoint: Path, tmp_path: Path, main
) -> None:
    (tmp_path / "pairs").write_text(PAIRS)
    results = [
        json.loads(main("eval", *model, "--sts", tmp_path / "pairs", "--json")[1])
        for model in ((sentence_bundle,), (sentence_checkpoint, "--float"))
    ]
    assert results[0]["pairs"] == 3
    assert -1 <= results[0]["spearman"] <= 1
    assert results[0] == results[1]  # three cosines that lie far apart, in the same order
    out = main("eval", sentence_bundle, "--sts", tmp_path / "pairs", "--limit", 2)[1]
    assert "pairs     2" in out


@pytest.mark.parametrize(
    ("pairs", "reason"),
    [
        ("", "two pairs or more"),
        (PAIRS.split("\n")[0], "two pairs or more"),
        ("1\ta\tb\n1\tc\td\n", "of different scores"),
        ("nan\ta\tb\n1\tc\td\n", "'nan' is no score"),
        ("1\ta\tb\n2\ta\tb\n", "the same cosine"),
        ("1\ta\n", "has 2 columns"),
        ("1\ta\t\n", "a sentence is empty"),
    ],
)
def test_pairs_without_a_correlation(
    sentence_bundle: Path, tmp_path: Path, main, pairs: str, reason: str
) -> None:
    (tmp_path / "pairs").write_text(pairs)
    status, out, err = main("eval", sentence_bundle, "--sts", tmp_path / "pairs")

    assert (status, out) == (2, "")
    assert reason in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--images", DIGITS), "belong together"),
        (("--text", LABELS, "--labels", LABELS), "belong together"),
        (("--images", DIGITS, "--labels", LABELS), "is for text-generation, not for image"),
        (("--sts", "PAIRS"), "is for text-generation, not for sentence"),
    ],
)
def test_a_model_for_something_else(
    random_bundle: Path, tmp_path: Path, main, words: tuple, reason: str
) -> None:
    (tmp_path / "pairs").write_text(PAIRS)
    places = [tmp_path / "pairs" if word == "PAIRS" else word for word in words]
    status, out, err = main("-q", "eval", random_bundle, *places)
    assert (status, out) == (2, "")
    assert reason in err
