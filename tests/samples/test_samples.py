"""The samples run and print what they say."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "samples"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(SAMPLES / script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_quickstart_generates_streams_and_chats() -> None:
    output = run("quickstart.py", "--tokens", "12")

    assert [line[:12] for line in output.splitlines() if line.startswith("---")] == [
        "--- generate",
        "--- stream: ",
        "--- chat: me",
    ]
    assert "tokens/s, ended by length" in output


def test_export_your_model_exports_and_verifies(tmp_path: Path) -> None:
    output = run("export_your_model.py", str(SAMPLES / "stories-bitnet"), str(tmp_path / "b"))

    assert "bits a weight" in output
    assert "onnxruntime" in output


@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="the extra `train` is not installed"
)
def test_train_bitnet_trains_a_checkpoint_that_can_be_exported(tmp_path: Path) -> None:
    """A few steps on a few stories."""
    import edgellm

    story = "Once upon a time there was a cat. The cat saw a dog. They ran and played. "
    text = tmp_path / "stories.txt"
    text.write_text("<|endoftext|>".join(story * (1 + i % 3) for i in range(60)))
    sizes = "--steps 3 --hidden-size 64 --intermediate-size 128 --layers 2 --heads 2 --context 64"
    arguments = [*sizes.split(), "--batch", "4", "--vocab-size", "320"]
    run("train_bitnet.py", str(text), *arguments, "--output", str(tmp_path / "checkpoint"))

    edgellm.export(tmp_path / "checkpoint", tmp_path / "bundle")
