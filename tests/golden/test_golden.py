"""The integers that were stored, on any machine, by any executor, in any chunks."""

import importlib.util
import json
import platform
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm.bundle import open_bundle
from edgellm.runtime.engine import Engine
from edgellm.runtime.loader import load_plan

HERE = Path(__file__).resolve().parent
CHECKPOINT = HERE.parents[1] / "samples" / "stories-bitnet"
EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
EXECUTORS = ("reference", "numba", "onnxruntime")


def stored_form():
    """The module that made expected.json."""
    spec = importlib.util.spec_from_file_location("answers", HERE / "answers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def executors() -> tuple[str, ...]:
    """All that run here: onnxruntime's wheel crashes when imported under qemu-user."""
    return EXECUTORS[:2] if platform.machine() == "aarch64" else EXECUTORS


@pytest.mark.parametrize("threads", [1, 2])
def test_answers_are_those_stored(bundle: Path, threads: int) -> None:
    """Weights, logits, greedy text and drawn text."""
    assert stored_form().answers(bundle, threads) == EXPECTED[bundle.name]


def test_executors_agree_with_the_golden_cases_and_each_other(bundle: Path) -> None:
    """What ``edgellm verify`` checks."""
    report = edgellm.verify(bundle, executors=executors(), threads=2)

    assert report.passed
    names = " ".join(check.name for check in report.checks)
    assert all(executor in names for executor in executors())


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neither_chunks_nor_threads_matter(bundle: Path, chunk: int, threads: int) -> None:
    """Prefill equals decode (chunk 1), and any number of threads gives the same integers."""
    opened = open_bundle(bundle)
    ids = np.array(stored_form().IDS, np.int64)

    def logits(chunk: int | None, threads: int) -> np.ndarray:
        engine = Engine(load_plan(opened), context_length=64, threads=threads, chunk=chunk)
        try:
            return engine.forward(ids, engine.new_cache(), range(len(ids)))
        finally:
            engine.close()

    assert np.array_equal(logits(chunk, threads), logits(None, 1))


def test_exporting_here_gives_the_same_bundle(tmp_path: Path) -> None:
    """Neither weights nor calibration depend on the machine that exports."""
    edgellm.export(CHECKPOINT, tmp_path / "bundle")

    assert stored_form().answers(tmp_path / "bundle") == EXPECTED[CHECKPOINT.name]
