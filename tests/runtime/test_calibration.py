import gzip
from pathlib import Path

import pytest

from edgellm.errors import ConfigError
from edgellm.runtime.calibration import load_calibration_text
from edgellm.runtime.evaluate import SEPARATOR


def test_the_built_in_text_is_several_kinds_of_text() -> None:
    text = load_calibration_text(None)

    assert text.name == "built-in"
    assert text.content.count(SEPARATOR) >= 4
    assert text.content.isascii()


@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz"])
def test_a_file_is_called_by_its_name(tmp_path: Path, name: str) -> None:
    content = b"one<|endoftext|>two"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    text = load_calibration_text(tmp_path / name)

    assert (text.name, text.content) == (name, content.decode())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b" \n<|endoftext|>\n\t<|endoftext|>", "is empty"),
        (b"\xff\xfe", "is no UTF-8"),
    ],
)
def test_a_file_without_text_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=rf"text\.txt: {reason}"):
        load_calibration_text(path)
