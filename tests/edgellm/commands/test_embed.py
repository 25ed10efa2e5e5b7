"""``edgellm embed`` as scripts see it: files, pipes, formats, and texts that need care."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgellm

LINES = "A dog runs.\nIt rains\u2028in Rome.\nA dog runs.\n"
WIDTH = 384


@pytest.fixture(scope="module")
def vectors(sentence_bundle: Path) -> np.ndarray:
    with edgellm.load(sentence_bundle, task="sentence-embedding", threads=1) as encoder:
        return encoder.embed(LINES.split("\n")[:-1])


def rows(text: str) -> np.ndarray:
    return np.array([line.split() for line in text.splitlines()], np.float64).astype(np.float32)


def test_every_format_holds_the_same_vectors(
    sentence_bundle: Path, tmp_path: Path, main, vectors: np.ndarray
) -> None:
    """A line ends with a line feed; a Unicode line separator is inside of one."""
    source, target = tmp_path / "lines.txt", tmp_path / "vectors"
    source.write_text(LINES, encoding="utf-8")
    words = ("embed", sentence_bundle, "-i", source)

    np.testing.assert_array_equal(rows(main(*words)[1]), vectors)
    found = json.loads(main(*words, "--json")[1])["embeddings"]
    np.testing.assert_array_equal(np.array(found, np.float32), vectors)
    readers = {
        "npy": np.load,
        "json": lambda path: np.float32(json.loads(path.read_text())["embeddings"]),
        "text": lambda path: rows(path.read_text()),
    }
    for name, read in readers.items():
        assert main(*words, "--format", name, "-o", target)[:2] == (0, "")
        np.testing.assert_array_equal(read(target), vectors, strict=True)
    # float32 of integers with 30 fraction bits: the length is 1 but for their rounding
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["\n", ""])
def test_a_pipe_gives_the_same_as_a_file(
    sentence_bundle: Path, main, feed, vectors: np.ndarray, ending: str, last: str
) -> None:
    feed((LINES[:-1] + last).replace("\n", ending).encode())
    np.testing.assert_array_equal(rows(main("embed", sentence_bundle, "-i", "-")[1]), vectors)


def test_a_packed_file_and_texts_on_the_command_line(
    sentence_bundle: Path, tmp_path: Path, main, vectors: np.ndarray
) -> None:
    (tmp_path / "lines.gz").write_bytes(gzip.compress(LINES.encode()))
    texts = LINES.split("\n")[:-1]
    for words in (("-i", tmp_path / "lines.gz"), ("--text", *texts)):
        np.testing.assert_array_equal(rows(main("embed", sentence_bundle, *words)[1]), vectors)


def test_a_numpy_file_goes_through_a_pipe(sentence_bundle: Path, vectors: np.ndarray) -> None:
    command = [sys.executable, "-m", "edgellm", "embed", str(sentence_bundle), "-i", "-"]
    command += ["--format", "npy"]
    done = subprocess.run(command, input=LINES.encode(), capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    np.testing.assert_array_equal(np.load(io.BytesIO(done.stdout)), vectors)


def test_a_text_over_the_limit_is_cut_and_said_to_be(sentence_bundle: Path, main) -> None:
    """24 tokens: [CLS], 22 bytes, [SEP]; what is behind them changes nothing."""
    begin = "0123456789" * 2 + "ab"
    status, out, err = main(
        "embed", sentence_bundle, "--text", begin, begin + "c", begin + "d" * 999
    )
    found = rows(out)

    assert status == 0
    assert err == "2 of 3 texts are over the limit and were cut\n"
    np.testing.assert_array_equal(found[1:], found[:2])
    _, shorter, err = main("embed", sentence_bundle, "--text", begin, "--context", 12)
    assert err == "1 of 1 texts are over the limit and were cut\n"
    _, cut, _ = main("embed", sentence_bundle, "--text", begin[:10])
    assert shorter == cut


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "has no line"),
        (b"a\n\nb\n", "text 2 is empty"),
        (b"a\n \t\n", "text 2 is empty"),
        (b"a\n\xff\n", "is no UTF-8 text"),
    ],
)
def test_lines_that_are_no_text_are_refused(
    sentence_bundle: Path, tmp_path: Path, main, feed, data: bytes, reason: str
) -> None:
    feed(data)
    (tmp_path / "lines").write_bytes(data)
    out_file = tmp_path / "out.npy"
    for source in ("-", tmp_path / "lines"):
        words = ("-i", source, "--format", "npy", "-o", out_file)
        status, out, err = main("embed", sentence_bundle, *words)

        assert (status, out) == (2, "")
        assert err.startswith("edgellm: error: ")
        assert reason in err
        assert not out_file.exists()


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("--text", ""), 2, "text 1 is empty"),
        (("--text", "a\udcff"), 2, "not valid Unicode"),
        (("-i", "no-such-file"), 2, "cannot be read"),
        (("--text", "a", "-o", "no-such-folder/x"), 2, "there is no folder"),
        (("--text", "a", "-o", "."), 1, "Is a directory"),
        (("--text", "a", "--context", "25"), 2, "context is 25"),
        (("--text", "a", "-i", "-"), 2, "not allowed with"),
        (("--text", "a", "--format", "csv"), 2, "invalid choice"),
        ((), 2, "required"),
    ],
)
def test_wrong_words(sentence_bundle: Path, main, words: tuple, status: int, reason: str) -> None:
    got, out, err = main("embed", sentence_bundle, *words)
    assert (got, out) == (status, "")
    assert reason in err


@pytest.mark.parametrize("words", [("run", "-p", "a"), ("classify", "--image", "-")])
def test_other_commands_say_what_the_bundle_is_for(
    sentence_bundle: Path, main, words: tuple
) -> None:
    status, _, err = main(words[0], sentence_bundle, *words[1:])
    assert status == 2
    assert "is for sentence-embedding, not for" in err
