"""Shapes of published models: their sizes are those that the sources say."""

import pytest

from edgellm.device import Attention, Block, ForwardPass, MatMul
from edgellm.devices import _shapes
from edgellm.errors import ConfigError, UnknownNameError


def products(blocks: tuple[Block, ...]) -> list[tuple[MatMul, int]]:
    return [
        (call.work, block.repeats)
        for block in blocks
        for call in block.calls
        if isinstance(call.work, MatMul)
    ]


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama2-7b", 6.607),  # 6.738 less the table of embeddings
        ("llama2-13b", 12.852),  # 13.016 less the table
        ("opt-6.7b", 6.648),  # 6.658 less positions, biases and norms; table and head are one
        ("bitnet-3b", 3.324),
        ("bitnet-2b-4t", 2.412),
        ("vit-base", 0.0849),
        ("weights-13b", 13.0),
    ],
)
def test_weights_are_counted(name: str, billions: float) -> None:
    blocks = _shapes.workload(name, "w4a8").blocks(ForwardPass(tokens=1))

    weights = sum(repeats * work.k * work.n for work, repeats in products(blocks))

    assert weights / 1e9 == pytest.approx(billions, rel=1e-3)


def test_a_prompt_scores_its_last_token_only() -> None:
    forward = ForwardPass(tokens=128, sequences=2)
    embed, layer, head = _shapes.workload("llama2-7b", "w4a8g128").blocks(forward)
    attention = next(call.work for call in layer.calls if isinstance(call.work, Attention))

    assert (len(embed.calls), layer.repeats) == (1, 32)
    assert {work.m for work, _ in products((layer,))} == {256}
    assert [work.m for work, _ in products((head,))] == [2]
    assert (attention.tokens, attention.length, attention.sequences) == (128, 128, 2)


def test_groups_take_a_scale_and_a_zero_each() -> None:
    plain = MatMul(m=1, k=256, n=10, weight_bits=4)
    grouped = MatMul(m=1, k=256, n=10, weight_bits=4, group_size=128, group_bits=20)
    half = MatMul(m=1, k=256, n=10, weight_bits=8, density=0.5, index_bits=4)

    assert plain.weight_bytes == 1280
    assert grouped.weight_bytes == 1280 + 2 * 10 * 20 / 8
    assert half.weight_bytes == 128 * 10 * 12 / 8


@pytest.mark.parametrize(
    ("tokens", "length", "window", "pairs"),
    [(1, 10, 0, 10), (3, 10, 0, 27), (4, 4, 0, 10), (4, 10, 8, 31), (4, 10, 2, 8), (2, 3, 9, 5)],
)
def test_pairs_of_queries_and_keys(tokens: int, length: int, window: int, pairs: int) -> None:
    """What each query sees, counted one by one."""
    work = Attention(
        tokens=tokens, length=length, window=window, heads=4, kv_heads=2, head_dim=8, sequences=3
    )
    seen = [min(length - tokens + 1 + query, window or length, length) for query in range(tokens)]

    assert work.pairs == 3 * sum(seen) == 3 * pairs
    assert work.macs == 2 * work.scores * 8


@pytest.mark.parametrize("text", ["", "4", "w4", "w4a", "w0a8", "w4a99", "int8", "w4a8g"])
def test_a_precision_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        _shapes.parse_precision(text)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no shape 'llama3'"):
        _shapes.workload("llama3", "w4a8")
    with pytest.raises(ConfigError):
        _shapes.workload("weights-99999b", "w4a8")


def test_queries_and_keys_may_be_sparse() -> None:
    layer = _shapes.workload("llama2-7b", "w4a8qk0.7").blocks(ForwardPass(tokens=1))[1]

    densities = [work.density for work, _ in products((layer,))]

    assert densities == [0.7, 0.7, 1, 1, 1, 1, 1]
    with pytest.raises(ConfigError, match="q_proj"):
        _shapes.parse_precision("w4a8qk0.0")
