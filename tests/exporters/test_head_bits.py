"""A head of 4 bits a weight: what is stored, that executors agree, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgellm import api
from edgellm.errors import ConfigError
from edgellm.exporters.architectures import bert, hgrn_bit, llama, qwen3
from edgellm.exporters.checkpoint import Checkpoint
from edgellm.exporters.export_options import ExportOptions
from edgellm.exporters.quantizers import int4
from edgellm.int4 import unpack_int4
from edgellm.runtime.loader import load_plan

TIED = {**llama.TINY, "tie_word_embeddings": True}
UNTIED = {**llama.TINY, "tie_word_embeddings": False}
NO_BLOCKS = {**qwen3.TINY, "hidden_size": 48}


@pytest.mark.parametrize("config", [TIED, UNTIED], ids=["tied", "untied"])
def test_the_head_has_4_bits_and_the_embedding_8(
    tmp_path: Path, write_checkpoint: Callable[..., Path], config: dict[str, object]
) -> None:
    source = write_checkpoint(tmp_path / "in", config)
    bundle = api.export(source, tmp_path / "out", head_bits=4)
    plan = load_plan(bundle)
    steps = {step.op_type: step for step in plan.steps}
    is_tied = config["tie_word_embeddings"]
    name = "model.embed_tokens.weight" if is_tied else "lm_head.weight"
    shape = (llama.TINY["vocab_size"], llama.TINY["hidden_size"])
    expected, _ = int4.quantize_rows(Checkpoint(source).read(name).reshape(shape))

    assert bundle.manifest.quantization == "int8 W8A8, logits head W4A8"
    table, head = (
        plan.constants[steps[op].inputs[at]] for op, at in (("Embedding", 1), ("Int4LogitsHead", 2))
    )
    assert table.nbytes == shape[0] * shape[1] == 2 * head.nbytes
    np.testing.assert_array_equal(unpack_int4(head.view(np.uint8)), expected)
    assert api.verify(bundle.path).passed


def test_a_head_without_whole_blocks_keeps_a_byte_a_code(
    tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    bundle = api.export(write_checkpoint(tmp_path / "in", NO_BLOCKS), tmp_path / "out", head_bits=4)
    plan = load_plan(bundle)
    head = next(step for step in plan.steps if step.op_type == "LogitsHead")
    codes = plan.constants[head.inputs[2]]

    assert codes.dtype == np.int8
    assert -8 <= codes.min() < codes.max() == 7
    assert api.verify(bundle.path).passed


def test_progress_ends_at_all_parameters_though_a_tied_table_is_read_twice(
    tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    source = write_checkpoint(tmp_path / "in", TIED)
    reports: list[tuple[int, int]] = []
    api.export(source, tmp_path / "out", head_bits=4, progress=lambda *now: reports.append(now))

    assert reports[-1][0] == reports[-1][1]


@pytest.mark.parametrize(
    ("module", "message"),
    [(hgrn_bit, "the head of hgrn_bit is one of its linears"), (bert, "no logits head")],
)
def test_other_models_are_refused(tmp_path: Path, module: ModuleType, message: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(module.TINY))

    with pytest.raises(ConfigError, match=message):
        api.export_random(config, tmp_path / "out", head_bits=4)
    assert not (tmp_path / "out").exists()


def test_other_numbers_of_bits_are_refused() -> None:
    with pytest.raises(ConfigError, match="head bits are 3; allowed are 8 and 4"):
        ExportOptions(head_bits=3)
