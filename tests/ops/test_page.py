import re
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


def test_page_explains_every_layout_that_it_names():
    page = render()
    named = set(re.findall(r"``([\w-]+/v\d+)``", page))
    assert len(named) > 5
    assert [name for name in named if f"\n## {name}\n" not in page] == []
