"""The command line in this process, for the tests of all commands."""

import io
import sys

import pytest

from edgellm import cli


@pytest.fixture
def main(capsys: pytest.CaptureFixture):
    """Run the command line in this process: (status, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        try:
            status = cli.main(list(map(str, words)))
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch):
    """Put bytes on standard input."""

    def put(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))

    return put
