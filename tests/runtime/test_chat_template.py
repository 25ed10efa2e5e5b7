import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from edgellm.errors import BundleError, ConfigError
from edgellm.runtime.chat_template import ChatTemplate, load_chat_template

CHATML = """\
{% for message in messages %}
    {% if message.role not in ['system', 'user', 'assistant'] %}
{{ raise_exception('unknown role ' + message.role) }}
    {% endif %}
<|im_start|>{{ message.role }}
{{ message['content'] | trim }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""
USER = {"role": "user", "content": " Hi "}


def test_blocks_leave_no_lines_behind() -> None:
    text = ChatTemplate(CHATML).render([USER])

    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_the_generation_prompt_can_be_left_out() -> None:
    text = ChatTemplate(CHATML).render([USER], add_generation_prompt=False)

    assert text == "<|im_start|>user\nHi<|im_end|>\n"


def test_special_tokens_are_variables() -> None:
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", {"bos_token": "<s>"})

    assert template.render([USER]) == "<s> Hi "


def test_the_clock_can_be_fixed() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y') }}", now=lambda: datetime(2024, 7, 26))

    assert template.render([USER]) == "26 Jul 2024"


def test_tojson_keeps_characters_and_takes_an_indent() -> None:
    message = {"role": "user", "content": {"a": "<é>"}}

    assert ChatTemplate("{{ messages[0].content | tojson }}").render([message]) == '{"a": "<é>"}'
    assert "\n  " in ChatTemplate("{{ messages[0] | tojson(indent=2) }}").render([message])


def test_loop_controls_and_generation_tags_are_known() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}"

    assert ChatTemplate(source + "{% endfor %}").render([USER, USER]) == " Hi "


def test_what_the_template_raises_reaches_the_user() -> None:
    with pytest.raises(ConfigError, match="unknown role tool"):
        ChatTemplate(CHATML).render([{"role": "tool", "content": "x"}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__ }}{{ ''.__class__.mro() }}",
        "{{ messages.append(1) }}",
        "{{ 'x' * 10**12 }}",
        "{{ [1] * 1000000000 }}",
        "{{ 7 ** (10**9) }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(999) %}xxxxx{% endfor %}{% endfor %}",
        "{{ 1 // 0 }}",
        "{{ messages[0].content.no.such }}",
        "{{ messages[7].content + 1 }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include '/etc/passwd' %}",
        "{{ cycler() }}",
        "{{ 'x'.center(10**18) }}",
    ],
)
def test_hostile_and_broken_templates_are_refused(source: str) -> None:
    with pytest.raises((ConfigError, BundleError), match="chat template"):
        ChatTemplate(source).render([USER])


@pytest.mark.parametrize("source", ["{% if %}", "{{ x", "{% endfor %}", "x" * 2_000_000])
def test_a_source_that_is_no_template_is_refused(source: str) -> None:
    with pytest.raises(BundleError, match="chat template"):
        ChatTemplate(source)


@pytest.mark.parametrize("messages", [[], ["Hi"], [{"content": "Hi"}], [{"role": 3}]])
def test_malformed_messages_are_refused(messages: list) -> None:
    with pytest.raises(ConfigError, match="messages"):
        ChatTemplate(CHATML).render(messages)


def test_rendering_does_not_change_the_messages() -> None:
    messages = [dict(USER)]
    template = ChatTemplate("{{ messages[0].content }}")

    template.render(messages)

    assert messages == [USER]


def write(folder: Path, config: object, template: str | None = None) -> tuple[Path | None, Path]:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    jinja = folder / "chat_template.jinja"
    return (jinja if jinja.exists() else None), folder / "tokenizer_config.json"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ eos_token }}!", "</s>!"),
        ([{"name": "tool", "template": "x"}, {"name": "default", "template": "d"}], "d"),
    ],
)
def test_the_template_comes_from_the_config(tmp_path: Path, source: object, expected: str) -> None:
    config = {"chat_template": source, "eos_token": {"content": "</s>"}}

    assert load_chat_template(*write(tmp_path, config)).render([USER]) == expected


def test_a_file_of_its_own_comes_first(tmp_path: Path) -> None:
    files = write(tmp_path, {"chat_template": "old"}, "new {{ bos_token }}")

    assert load_chat_template(*files).render([USER]) == "new "


def test_no_template_is_none(tmp_path: Path) -> None:
    assert load_chat_template(None, None) is None
    assert load_chat_template(*write(tmp_path, {"bos_token": None})) is None


@pytest.mark.parametrize("config", [[], "x", {"chat_template": 3}])
def test_a_damaged_config_is_refused(tmp_path: Path, config: object) -> None:
    with pytest.raises(BundleError, match=r"tokenizer_config\.json"):
        load_chat_template(*write(tmp_path, config))


def test_a_config_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text("{")

    with pytest.raises(BundleError, match="not JSON"):
        load_chat_template(None, path)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_file_that_is_vast_is_not_read(tmp_path: Path, name: str) -> None:
    config, template = tmp_path / "tokenizer_config.json", tmp_path / "chat_template.jinja"
    config.write_text("{}")
    template.write_text("a")
    os.truncate(tmp_path / name, 1 << 40)  # a sparse file takes no room on the disk

    with pytest.raises(BundleError, match=f"{name}: larger than"):
        load_chat_template(template, config)
