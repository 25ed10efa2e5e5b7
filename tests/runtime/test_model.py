import copy as copying
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgellm.bundle import open_bundle
from edgellm.errors import (
    BundleError,
    ConfigError,
    ContextLengthError,
    NotEnoughMemoryError,
)
from edgellm.runtime import process_memory
from edgellm.runtime.executors.reference import Executor
from edgellm.runtime.feed_engine import FeedEngine
from edgellm.runtime.loader import load_plan
from edgellm.runtime.model import Model

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def model(random_bundle: Path):
    with Model(random_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture
def chat_bundle(random_bundle: Path, tmp_path: Path) -> Path:
    """The random bundle with a chat template."""
    copy = tmp_path / "bundle"
    shutil.copytree(random_bundle, copy)
    config = json.dumps({"chat_template": TEMPLATE})
    (copy / "tokenizer_config.json").write_text(config)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["tokenizer_config.json"]["size"] = len(config)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def reference_greedy(path: Path, ids: list[int], count: int) -> list[int]:
    bundle = open_bundle(path)
    plan = load_plan(bundle)
    engine = FeedEngine(Executor(bundle, plan), plan, bundle.manifest.context_length)
    cache = engine.new_cache()
    new: list[int] = []
    while len(new) < count:
        new.append(int(engine.forward(np.array(ids), cache)[-1].argmax()))
        ids = new[-1:]
    return new


def test_the_stream_is_what_the_reference_computes(model: Model, random_bundle: Path) -> None:
    prompt = model.tokenizer.encode("Once upon")
    expected = reference_greedy(random_bundle, prompt, 12)

    tokens = list(model.stream("Once upon", max_tokens=12))

    assert [token.token_id for token in tokens] == expected
    assert tokens[-1].stats.prompt_tokens == len(prompt)
    assert "".join(token.text for token in tokens) == model.tokenizer.decode(expected)


def test_generate_joins_the_stream(model: Model) -> None:
    options = {"max_tokens": 16, "temperature": 1.5, "seed": 3}

    text = model.generate("Once", **options)

    assert text == "".join(token.text for token in model.stream("Once", **options))
    assert text == model.generate(model.tokenizer.encode("Once"), **options)


def test_speculation_makes_no_difference(model: Model) -> None:
    prompt = [5, 6, 7] * 6
    for seed in range(4):
        options = {"max_tokens": 40, "temperature": seed / 2, "top_k": 3, "seed": seed}
        plain = list(model.stream(prompt, **options))
        drafted = list(model.stream(prompt, speculate="ngram", **options))

        assert [t.token_id for t in drafted] == [t.token_id for t in plain]
        assert model.generate(prompt, speculate="ngram", **options) == "".join(
            token.text for token in plain
        )
        assert drafted[-1].stats.speculation is not None


def test_threads_make_no_difference(model: Model, random_bundle: Path) -> None:
    with Model(random_bundle, threads=2) as other:
        ids = list(range(40))
        assert np.array_equal(other.logits(ids), model.logits(ids))


def test_logits_have_a_row_for_each_position(model: Model) -> None:
    ids = [5, 6, 7]
    rows = model.logits(ids)

    assert rows.shape == (3, model.info.vocab_size)
    assert rows.dtype == np.int32
    for count in (1, 2, 3):
        assert np.array_equal(model.logits(ids[:count])[-1], rows[count - 1])


def test_a_session_continues_its_text(model: Model) -> None:
    session = model.session()
    list(model.stream("ab", max_tokens=3, session=session))
    before = session.ids
    list(model.stream("cd", max_tokens=3, session=session))

    assert session.ids[: len(before)] == before
    assert model.tokenizer.decode(session.ids[len(before) : len(before) + 2]) == "cd"


def test_a_chat_answer_does_not_depend_on_what_was_chatted_before(chat_bundle: Path) -> None:
    with Model(chat_bundle, threads=1) as model:
        first = model.chat(HELLO, max_tokens=8)
        longer = [*HELLO, {"role": "assistant", "content": first}, *HELLO]
        model.chat(longer, max_tokens=8)
        again = model.chat(HELLO, max_tokens=8)
        fresh = model.chat(HELLO, max_tokens=8, session=model.session())
        streamed = model.chat(HELLO, max_tokens=8, stream=True)
        drafted = model.chat(HELLO, max_tokens=8, speculate="ngram")

        assert first == again == fresh == drafted == "".join(token.text for token in streamed)


def test_chats_at_the_same_time_do_not_mix(chat_bundle: Path) -> None:
    other = [{"role": "user", "content": "good bye"}]
    with Model(chat_bundle, threads=1) as model:
        expected = [model.chat(messages, max_tokens=8) for messages in (HELLO, other)]
        streams = [model.chat(messages, max_tokens=8, stream=True) for messages in (HELLO, other)]
        pairs = list(zip(*streams, strict=True))

        assert ["".join(token.text for token in tokens) for tokens in zip(*pairs, strict=True)] == (
            expected
        )


def test_chat_without_a_template_says_what_to_pass(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"no chat template.*--chat-template FILE"):
        model.chat(HELLO)


def test_a_template_can_be_given(random_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    with Model(random_bundle, threads=1) as model:
        model.read_chat_template(tmp_path / "t.jinja")
        assert model.chat(HELLO, max_tokens=4) == model.generate("u:hello;", max_tokens=4)
        with pytest.raises(BundleError, match=r"none\.jinja"):
            model.read_chat_template(tmp_path / "none.jinja")


def test_an_empty_prompt_needs_a_bos(model: Model) -> None:
    with pytest.raises(ConfigError, match="no BOS"):
        model.generate("")


def test_bytes_are_not_taken_for_ids(model: Model) -> None:
    with pytest.raises(ConfigError, match="decode it first"):
        model.generate(b"abc")


def test_an_empty_prompt_starts_from_the_manifests_bos(
    random_bundle: Path, tmp_path: Path, model: Model
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(random_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "bos_token_id": 7}))

    with Model(copy, threads=1) as other:
        assert other.generate("", max_tokens=5) == model.generate([7], max_tokens=5)


@pytest.mark.parametrize("prompt", [None, 5, 1.5])
def test_a_prompt_is_a_text_or_ids(model: Model, prompt: object) -> None:
    with pytest.raises(ConfigError, match=f"the prompt is {prompt}; give a text or token ids"):
        model.stream(prompt)


def test_a_session_of_another_bundle_is_refused(model: Model, chat_bundle: Path) -> None:
    manifest = json.loads((chat_bundle / "manifest.json").read_text())
    manifest["files"]["weights.bin"]["sha256"] = "0" * 64
    (chat_bundle / "manifest.json").write_text(json.dumps(manifest))
    with Model(chat_bundle, threads=1) as other:
        assert other.generate("a", max_tokens=1, session=other.session())
        for call in (other.generate, lambda _, **options: other.chat(HELLO, **options)):
            with pytest.raises(ConfigError, match="the session is of another bundle"):
                call("a", session=model.session())


def test_a_model_says_what_it_is_and_cannot_be_copied(model: Model, random_bundle: Path) -> None:
    assert repr(model) == f"<Model {random_bundle}: text-generation, bitnet>"
    for copy_it in (pickle.dumps, copying.copy, copying.deepcopy):
        with pytest.raises(TypeError, match="a Model has threads and mapped weights and cannot be"):
            copy_it(model)


def test_prompts_that_do_not_fit_are_refused(model: Model) -> None:
    limit = model.info.context_length
    with pytest.raises(ContextLengthError, match=f"{limit} tokens and needs room for 1 more"):
        model.generate([1] * limit)
    with pytest.raises(ContextLengthError, match=f"the context holds {limit}"):
        model.logits([1] * (limit + 1))
    with pytest.raises(ConfigError, match="token id 100000 at position 1"):
        model.generate([1, 100_000])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"threads": 0}, "threads is 0; allowed are 1 to"),
        ({"threads": "2"}, "threads is '2'"),
        ({"context": 0}, "context is 0; this bundle allows 1 to 64"),
        ({"context": 65}, "context is 65"),
    ],
)
def test_options_out_of_range_are_refused(random_bundle: Path, options: dict, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Model(random_bundle, **options)


def test_a_smaller_context_can_be_chosen(random_bundle: Path) -> None:
    with Model(random_bundle, threads=1, context=8) as model:
        tokens = list(model.stream("abc", max_tokens=99))

    assert len(tokens) == 5
    assert tokens[-1].finish_reason == "context"


def test_too_little_memory_is_refused_with_numbers(
    random_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  999999 kB\nMemAvailable:   2048 kB\n")
    monkeypatch.setattr(process_memory, "MEMINFO", meminfo)

    with pytest.raises(
        NotEnoughMemoryError, match=r"needs 64 MiB .* available are 2 MiB"
    ) as caught:
        Model(random_bundle)
    assert caught.value.exit_code == 5


def test_a_bundle_without_tokenizer_says_so(random_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(random_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["files"]["tokenizer.json"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    (copy / "tokenizer.json").unlink()

    with Model(copy, threads=1) as model, pytest.raises(BundleError, match=r"tokenizer\.json"):
        model.generate("a")
