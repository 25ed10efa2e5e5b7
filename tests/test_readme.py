"""Every example in README.md runs, in order, in one empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples() -> list[tuple[str, str]]:
    """Language and text of each block; the two make commands are what runs this very test."""
    found = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    return [(language, text) for language, text in found if "make demo" not in text]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, llama_checkpoint: Path, sentence_checkpoint: Path
) -> Path:
    """A folder in which the README's relative paths exist; models have random weights."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("samples", "tests"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path" / "to" / "model").symlink_to(llama_checkpoint)
    (folder / "path" / "to" / "all-MiniLM-L6-v2").symlink_to(sentence_checkpoint)
    return folder


def test_every_example_is_in_a_block_that_runs() -> None:
    """Commands in indented blocks would not be tried."""
    text = BLOCK.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert re.findall(r"^ {4}(?:edgellm|python|make) .*", text, re.MULTILINE) == []


def test_there_are_examples_of_both_kinds() -> None:
    assert {language for language, _ in examples()} == {"sh", "python"}


@pytest.mark.parametrize("number", range(len(examples())))
def test_example_runs(folder: Path, number: int) -> None:
    language, text = examples()[number]
    command = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        [*command, text],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout
