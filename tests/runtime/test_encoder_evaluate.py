import gzip
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import ConfigError
from edgellm.runtime import encoder_evaluate as scoring


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim))
    return header + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def test_idx_files_are_read_plain_and_packed(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "images").write_bytes(idx(images))
    (tmp_path / "labels.gz").write_bytes(gzip.compress(idx(np.array([1, 0], np.uint8))))
    data = scoring.read_labelled_images(tmp_path / "images", tmp_path / "labels.gz", ["a", "b"])
    np.testing.assert_array_equal(np.stack(data.images), images)
    assert data.labels == [1, 0]


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0\x08\x03", b"\0\0\x0d\x03" + bytes(12), idx(np.zeros((2, 3, 4), np.uint8))[:-1],
     b"\0\0\x08\x03" + b"\xff" * 12],
    ids=["empty", "short", "floats", "truncated", "vast"],
)  # fmt: skip
def test_a_damaged_idx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(ConfigError, match="images: "):
        scoring.read_idx(tmp_path / "images", 3)


def test_labels_of_a_folder_are_names_or_numbers(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    (tmp_path / "labels").write_text("a.png tabby cat\n\nb.png\t0\n")
    data = scoring.read_labelled_images(tmp_path, tmp_path / "labels", ["dog", "tabby cat"])
    assert ([path.name for path in data.images], data.labels) == (["a.png", "b.png"], [1, 0])
    (tmp_path / "labels").write_text("a.png mouse\n")
    with pytest.raises(ConfigError, match="line 1: 'mouse' is no label"):
        scoring.read_labelled_images(tmp_path, tmp_path / "labels", ["dog"])


def test_accuracy_counts_the_best_logits() -> None:
    data = scoring.LabelledImages([0, 1, 2, 1], [0, 1, 2, 2])
    found = scoring.score_images(lambda batch: np.eye(3, dtype=np.int32)[batch], data)
    assert (found.correct, found.images, found.accuracy) == (3, 4, 0.75)


def test_ranks_of_equal_values_are_shared() -> None:
    values = np.array([0.5, 0.1, 0.5, 0.9])
    np.testing.assert_array_equal(scoring.ranks(values), [1.5, 0, 1.5, 3])


def test_spearman_sees_order_alone() -> None:
    angles = {str(n): np.array([np.cos(n * 0.3), np.sin(n * 0.3)]) for n in range(5)}
    texts = [str(n) for n in range(5)]
    pairs = scoring.ScoredPairs(texts, ["0"] * 5, [9.0, 4.0, 3.5, 1.0, 0.0])
    found = scoring.score_pairs(lambda items: np.stack([angles[item] for item in items]), pairs)
    assert found.spearman == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1.0\ta\n", "has 2 columns"),
        ("high\ta\tb\n", "'high' is no score"),
        ("1.0\ta\t \n", "a sentence is empty"),
        ("1.0\ta\tb\n", "two pairs or more"),
    ],
)
def test_bad_pairs_are_named(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "sts").write_text(text)
    with pytest.raises(ConfigError, match=reason):
        scoring.read_pairs(tmp_path / "sts")


def test_pairs_of_the_benchmark_are_in_columns_five_to_seven(tmp_path: Path) -> None:
    line = "main\timages\t2012\t7\t{}\tfirst\tsecond\textra\n"
    (tmp_path / "sts").write_text(line.format("4.5") + line.format("0"))
    pairs = scoring.read_pairs(tmp_path / "sts")
    assert (pairs.scores, pairs.first[0], pairs.second[0]) == ((4.5, 0.0), "first", "second")
