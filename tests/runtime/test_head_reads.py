"""A model whose head is in planes: the engine's best logits, the session's drafts, the figures."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgellm.exporters import build
from edgellm.exporters.lowering import stored_weights
from edgellm.runtime import head_reads
from edgellm.runtime.model import Model

DROPPED = np.iinfo(np.int32).min
CONFIG = {
    "model_type": "llama",
    "vocab_size": 1500,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}


def export(folder: Path, *, tied: bool) -> Path:
    config = folder / "config.json"
    config.write_text(json.dumps({**CONFIG, "tie_word_embeddings": tied}))
    build.export_random(config, folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def models(request, tmp_path_factory):
    """The same model with its head whole, and in planes."""
    folders = [tmp_path_factory.mktemp(name) for name in ("whole", "planes")]
    whole = export(folders[0], tied=request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_weights, "PLANAR_BYTES", 0)
        planar = export(folders[1], tied=request.param)
    with Model(whole, threads=2) as first, Model(planar, threads=2) as second:
        yield first, second


def operators(model: Model) -> set[str]:
    return {step.op_type for step in model.engine.plan.steps}


def test_a_table_is_stored_once(models) -> None:
    whole, planar = models

    assert "LogitsHead" in operators(whole)
    assert "PlanarLogitsHead" in operators(planar)
    tables = ["PlanarEmbedding" in operators(model) for model in models]
    is_tied = tables[1]
    assert tables == [False, is_tied]
    sizes = [
        sum(array.nbytes for array in model.engine.plan.constants.values()) for model in models
    ]
    norms = 1500 * 4 * 2
    assert sizes[1] - sizes[0] == norms


def test_all_logits_are_those_of_the_whole_head(models) -> None:
    ids = list(range(1000, 1020))

    whole, planar = (model.session().score(ids) for model in models)

    np.testing.assert_array_equal(planar, whole)


@pytest.mark.parametrize("top", [1, 4])
def test_the_best_logits_are_those_of_the_whole_head(models, top: int) -> None:
    whole, planar = (model.engine for model in models)
    ids = np.arange(30) * 7
    expected = whole.forward(ids, whole.new_cache(), range(30))
    for rows in ([29], [27, 28, 29], range(30)):
        wanted = expected[list(rows)]
        best = planar.forward(ids, planar.new_cache(), rows, top)
        kept = best != DROPPED
        np.testing.assert_array_equal(best[kept], wanted[kept])
        assert kept[wanted >= np.sort(wanted, axis=1)[:, -top, None]].all()


def test_a_call_for_all_logits_follows_one_for_few(models) -> None:
    _, planar = models
    session, other = planar.session(), planar.session()
    few = session.extend([5, 6, 7], top=1)

    assert (few == DROPPED).any()
    np.testing.assert_array_equal(session.extend(), other.extend([5, 6, 7]))


def test_logits_ahead_serve_calls_that_want_no_more(models) -> None:
    _, planar = models
    session, other = planar.session(), planar.session()
    session.extend([5, 6], draft=[7, 8], top=1)

    assert int(session.extend([7], top=1).argmax()) == int(other.extend([5, 6, 7]).argmax())
    np.testing.assert_array_equal(session.extend([8]), other.extend([8]))


def test_figures_are_those_of_the_kernel(models) -> None:
    whole, planar = models
    found = head_reads.measure(planar)

    assert head_reads.measure(whole) is None
    assert found is not None
    assert 0 <= found.refined < 1
    least = 1500 * (32 + 2 + 4)  # nibbles, norms of the first bits, multipliers
    assert least <= found.bytes_read < least + 1500 * (32 + 6)
