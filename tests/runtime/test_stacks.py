"""Callers with a small stack, and processes forked from one that has threads: the same tokens."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgellm.runtime import stacks

PROGRAM = """
import os, signal, sys, threading
import edgellm
from edgellm.runtime import engine

engine.SHARED_WORK_BYTES = 0  # all threads take part
signal.alarm(60)
model = edgellm.load(sys.argv[1], threads=2)
texts = []

def generate():
    texts.append(model.generate("Once upon a time there was", max_tokens=8))

def with_stack(size):
    usual = threading.stack_size(size)
    thread = threading.Thread(target=generate)
    thread.start()
    threading.stack_size(usual)
    thread.join()

def report():
    assert texts[0] and texts == [texts[0]] * len(texts), texts
    print(len(texts), flush=True)

generate()
with_stack(256 << 10)
with_stack(16 << 20)
with_stack(256 << 10)
child = os.fork()
if child == 0:
    generate()
    with_stack(256 << 10)
    report()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
generate()
report()
"""
"""A thread of 256 KiB has less room than any kernel for prompts needs. It would die of a signal, a
forked process without new threads of the alarm."""


def test_small_stacks_and_forked_processes_get_the_same_tokens(random_bundle: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(random_bundle)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.split()) == (0, ["6", "5"]), done.stderr


@pytest.mark.parametrize(("size", "is_large"), [(1 << 20, False), (16 << 20, True)])
def test_the_size_of_the_own_stack_is_known(size: int, is_large: bool) -> None:
    found: list[tuple[int, bool]] = []
    usual = threading.stack_size(size)
    try:
        thread = threading.Thread(
            target=lambda: found.append((stacks.stack_bytes(), stacks.is_large()))
        )
        thread.start()
    finally:
        threading.stack_size(usual)
    thread.join()

    ((found_size, found_large),) = found
    assert size - (64 << 10) <= found_size <= size + (64 << 10)
    assert found_large == is_large


def test_where_the_size_is_unknown_no_stack_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks.ctypes, "CDLL", lambda _: object())

    assert stacks.stack_bytes() == 0
