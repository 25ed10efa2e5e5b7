"""The public face: few names, all importable, nothing heavy loaded, a quick --help."""

import json
import os
import statistics
import subprocess
import sys

import edgellm

HEAVY = ("numba", "llvmlite", "onnx", "onnxruntime", "numpy", "tokenizers", "safetensors", "jinja2")


def test_public_names_are_few_and_importable() -> None:
    assert len(edgellm.__all__) <= 10
    for name in edgellm.__all__:
        assert getattr(edgellm, name) is not None


def test_importing_edgellm_loads_nothing_heavy() -> None:
    code = "import sys, json, edgellm; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code]))

    assert [name for name in HEAVY if name in loaded] == []


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, json\nfrom edgellm import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)

    assert [name for name in HEAVY if name in json.loads(run.stderr)] == []


def test_help_takes_less_than_150_ms_over_bare_python() -> None:
    """Of the processor's time, of which other work on the machine takes none."""

    def seconds(*arguments: str) -> float:
        before = os.times()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        after = os.times()
        user = after.children_user - before.children_user
        return user + after.children_system - before.children_system

    over = [seconds("-m", "edgellm", "--help") - seconds("-c", "pass") for _ in range(7)]

    assert statistics.median(over) < 0.150
