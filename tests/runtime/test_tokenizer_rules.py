"""What real tokenizers do to a text is allowed; what they can do is bounded from above."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from edgellm.runtime.tokenizer_rules import find_excess


def charsmap(texts: bytes) -> bytes:
    """A table of sentencepiece without a trie: no character is looked up in it."""
    return bytes(4) + texts


def with_normalizers(*rules: normalizers.Normalizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(list(rules))
    return tokenizer


def test_the_rules_of_xlnet_with_the_table_of_t5_are_allowed() -> None:
    quotes = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    accents = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    table = normalizers.Precompiled(charsmap(b"a" * 33 + b"\0"))
    tokenizer = with_normalizers(*quotes, *accents, table, normalizers.Replace("  ", " "))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()

    assert find_excess(tokenizer) == ""


def test_a_table_with_long_texts_is_found() -> None:
    long = normalizers.Precompiled(charsmap(b"a\0" + b"a" * (1 << 16)))

    assert "its normalizer may make a text" in find_excess(with_normalizers(long))
