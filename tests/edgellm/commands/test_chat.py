"""``edgellm chat`` with what comes through a pipe."""

from pathlib import Path

import pytest

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"


@pytest.fixture
def words(random_bundle: Path, tmp_path: Path) -> tuple:
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    return ("chat", random_bundle, "--chat-template", tmp_path / "t.jinja", "-n", 4, "-t", 1)


def test_a_line_that_is_no_text_is_named_and_the_next_one_answered(
    words: tuple, feed, main
) -> None:
    feed(b"\xff\xfe\nHi\n")
    status, out, err = main(*words)
    feed(b"Hi\n")

    assert status == 0
    assert "character 2 is a byte that is no UTF-8" in err
    assert out == main(*words)[1] != ""


def test_a_full_context_says_how_to_go_on(words: tuple, feed, main) -> None:
    feed(b"a" * 70 + b"\n/reset\nHi\n")  # 64 tokens are the context
    status, out, err = main(*words)
    feed(b"Hi\n")

    assert status == 0
    assert "the context holds 64" in err
    assert "/undo takes back the last message, /reset the conversation" in err
    assert out == main(*words)[1] != ""
