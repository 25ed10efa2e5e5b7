import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.errors import BundleError, ConfigError
from edgellm.runtime.tokenizer import Tokenizer

KINDS = ("byte_level", "byte_fallback")
VOCAB_SIZE = 320
WORD_PIECE = {
    "type": "WordPiece",
    "vocab": {"a": 0},
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}

# Anything that UTF-8 can write.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.fixture(scope="module", params=KINDS)
def each_tokenizer(request: pytest.FixtureRequest, tokenizer_files: dict[str, Path]) -> Tokenizer:
    return Tokenizer(tokenizer_files[request.param], VOCAB_SIZE)


@given(text=texts)
def test_streamed_pieces_joined_are_the_decoded_text(each_tokenizer: Tokenizer, text: str) -> None:
    ids = each_tokenizer.encode(text)
    decoder = each_tokenizer.decoder()

    pieces = [decoder.step(token_id) for token_id in ids]

    assert "".join(pieces) + decoder.flush() == each_tokenizer.decode(ids)


@given(text=texts, cut=st.integers(0, 40))
def test_a_prompt_and_the_pieces_after_it_are_the_decoded_text(
    each_tokenizer: Tokenizer, text: str, cut: int
) -> None:
    text = text.replace("\N{REPLACEMENT CHARACTER}", "?")
    before, after = each_tokenizer.encode(text[:cut]), text[cut:]
    ids = each_tokenizer.encode(after, add_special_tokens=False)
    decoder = each_tokenizer.decoder(before)

    pieces = [decoder.step(token_id) for token_id in ids]

    whole = each_tokenizer.decode(before) + "".join(pieces) + decoder.flush()
    assert whole == each_tokenizer.decode(before + ids)


@given(text=texts.filter(lambda text: "\N{REPLACEMENT CHARACTER}" not in text))
def test_no_piece_holds_a_split_character(each_tokenizer: Tokenizer, text: str) -> None:
    decoder = each_tokenizer.decoder()

    for token_id in each_tokenizer.encode(text):
        assert "\N{REPLACEMENT CHARACTER}" not in decoder.step(token_id)


def test_a_space_at_the_start_of_the_continuation_is_kept(each_tokenizer: Tokenizer) -> None:
    prompt, whole = each_tokenizer.encode("ab"), each_tokenizer.encode("ab b")
    decoder = each_tokenizer.decoder(prompt)

    assert "".join(decoder.step(token_id) for token_id in whole[len(prompt) :]) == " b"


def test_an_unfinished_character_comes_out_at_the_end(each_tokenizer: Tokenizer) -> None:
    ids = each_tokenizer.encode("a\N{EURO SIGN}")[:-1]
    decoder = each_tokenizer.decoder()

    shown = "".join(decoder.step(token_id) for token_id in ids)

    assert shown == "a"
    assert set(decoder.flush()) == {"\N{REPLACEMENT CHARACTER}"}
    assert decoder.flush() == ""


@given(text=st.text("ab\N{EURO SIGN}\N{GRINNING FACE}", min_size=1, max_size=8), data=st.data())
def test_a_character_begun_in_the_prompt_comes_out_whole(
    each_tokenizer: Tokenizer, text: str, data: st.DataObject
) -> None:
    ends = [len(each_tokenizer.encode("." + text[:size])) for size in range(len(text) + 1)]
    ids = each_tokenizer.encode("." + text)
    cut = data.draw(st.integers(ends[0], len(ids)))
    decoder = each_tokenizer.decoder(ids[:cut])

    pieces = [decoder.step(token_id) for token_id in ids[cut:]]

    begun = sum(end <= cut for end in ends[1:])
    assert "".join(pieces) + decoder.flush() == (text[begun:] if cut < len(ids) else "")


def test_a_prompt_that_ends_within_a_character_shows_nothing_of_itself(
    each_tokenizer: Tokenizer,
) -> None:
    decoder = each_tokenizer.decoder(each_tokenizer.encode("a\N{EURO SIGN}")[:-1])

    assert decoder.flush() == ""


def test_special_tokens_are_added_where_the_file_says_so(each_tokenizer: Tokenizer) -> None:
    bos = each_tokenizer.token_id("<s>")

    assert each_tokenizer.encode("a")[0] == bos
    assert each_tokenizer.encode("") == [bos]
    assert each_tokenizer.leading_ids() == [bos]
    assert bos not in each_tokenizer.encode("a", add_special_tokens=False)
    assert each_tokenizer.token_id("<none>") is None


def test_special_tokens_are_not_shown(each_tokenizer: Tokenizer) -> None:
    assert each_tokenizer.decode(each_tokenizer.encode("ab")) == "ab"
    assert each_tokenizer.decode([0], skip_special_tokens=False) == "<s>"


def test_a_vocabulary_larger_than_the_models_is_refused(tokenizer_files: dict[str, Path]) -> None:
    with pytest.raises(BundleError, match="token id 257, but the model knows ids 0 to 256"):
        Tokenizer(tokenizer_files["byte_level"], 257)


@pytest.mark.parametrize("content", ["", "{}", "[1, 2", '{"version": "1.0", "model": 3}'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)

    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Tokenizer(path, VOCAB_SIZE)


def refer_to_nothing(content: dict) -> None:
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "no such token", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    }


def cut_pieces_shorter_than_they_are(content: dict) -> None:
    content["model"] |= {
        "continuing_subword_prefix": "##",
        "vocab": {**content["model"]["vocab"], "ab": 300},
        "merges": [["a", "b"]],
    }


@pytest.mark.parametrize("spoil", [refer_to_nothing, cut_pieces_shorter_than_they_are])
def test_a_panic_of_the_library_is_an_error_that_names_the_file(
    tokenizer_files: dict[str, Path], tmp_path: Path, spoil: Callable[[dict], None]
) -> None:
    content = json.loads(tokenizer_files["byte_level"].read_text(encoding="utf-8"))
    spoil(content)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))

    with pytest.raises(BundleError, match=r"tokenizer\.json: no usable tokenizer"):
        Tokenizer(path, VOCAB_SIZE).encode("ab")


def grow(content: dict, step: str, rules: list[dict]) -> None:
    kind = {"normalizer": "normalizers", "decoder": "decoders"}[step]
    content[step] = {"type": "Sequence", kind: rules}


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 99}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: grow(c, "normalizer", [REPLACE] * 3), "its normalizer may make a text more"),
        (lambda c: grow(c, "decoder", [REPLACE] * 3), "its decoder may make a text more"),
        (lambda c: grow(c, "normalizer", [{"type": "ByteLevel"}] * 40), "its normalizer may"),
        (
            lambda c: grow(c, "normalizer", [{"type": "Prepend", "prepend": "a" * (1 << 20)}]),
            "its normalizer may",
        ),
        (
            lambda c: c.update(model={**WORD_PIECE, "max_input_chars_per_word": 1 << 30}),
            "max_input_chars_per_word is 1073741824; allowed are up to 1000",
        ),
    ],
)
def test_rules_that_fill_the_memory_are_refused(
    tokenizer_files: dict[str, Path], tmp_path: Path, change: Callable[[dict], None], message: str
) -> None:
    content = json.loads(tokenizer_files["byte_level"].read_text(encoding="utf-8"))
    change(content)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))

    with pytest.raises(BundleError, match=message):
        Tokenizer(path, VOCAB_SIZE)


def test_a_text_that_the_vocabulary_cannot_say_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "model": WORD_PIECE}))
    tokenizer = Tokenizer(path, VOCAB_SIZE)

    assert tokenizer.encode("a") == [0]
    with pytest.raises(BundleError, match=r"tokenizer\.json: .*\[UNK\]"):
        tokenizer.encode("b")


def test_a_file_that_is_vast_is_not_read(tokenizer_files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    shutil.copyfile(tokenizer_files["byte_level"], path)
    os.truncate(path, 1 << 40)  # a sparse file takes no room on the disk

    with pytest.raises(BundleError, match="larger than 67108864 bytes"):
        Tokenizer(path, VOCAB_SIZE)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Tokenizer(path, VOCAB_SIZE)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        Tokenizer(tmp_path / "tokenizer.json", VOCAB_SIZE)


def test_half_a_surrogate_pair_is_refused(each_tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="not valid Unicode"):
        each_tokenizer.encode("\ud800")
