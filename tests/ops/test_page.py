from pathlib import Path

from edgellm import ops
from edgellm.ops._page import render


def test_page_is_up_to_date():
    """Regenerate with the command in its first line."""
    page = Path(__file__).parents[2] / "docs" / "operators.md"
    assert page.read_text(encoding="utf-8") == render()


def test_page_has_every_operator():
    for module in ops.modules():
        assert f"\n## {module.SCHEMA.name}\n" in render()
