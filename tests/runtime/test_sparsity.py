from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm import api
from edgellm.runtime import sparsity
from edgellm.runtime.model import Model

ROOT = Path(__file__).resolve().parents[2]


def test_shares_are_those_of_the_values(random_bundle: Path) -> None:
    with Model(random_bundle, threads=1) as model:
        found = sparsity.measure(model)
        plan = model.engine.plan
        ids = np.array(model.tokenizer.encode(sparsity.TEXT)[: model.engine.context_length])
        values = model.engine.trace(ids, model.engine.new_cache())
    gates = [step for step in plan.steps if step.op_type == "GatedBitLinear"]
    codes = [step for step in plan.steps if step.op_type == "ColumnBitLinear"]
    closed = np.mean([values[step.inputs[2]] <= 0 for step in gates])
    zero = np.mean([values[step.inputs[0]] == 0 for step in codes])
    skipped = sum(closed * plan.weight_bytes(step) for step in gates)
    skipped += sum(zero * plan.weight_bytes(step) for step in codes)

    assert found is not None
    assert found.closed_gates == pytest.approx(closed)
    assert found.zero_codes == pytest.approx(zero)
    # Layers are as large as each other but not as sparse; so the sum of products is near.
    whole = plan.weight_bytes_per_token()
    assert found.bytes_read == pytest.approx(whole - skipped, rel=0.02)
    assert 0 < found.bytes_read < whole


def test_what_is_skipped_does_not_depend_on_the_layout(random_bundle: Path, tmp_path: Path) -> None:
    config = random_bundle.parent / "config.json"
    api.export_random(config, tmp_path / "bundle", layout="5trit")
    found = []
    for bundle in (random_bundle, tmp_path / "bundle"):
        with Model(bundle, threads=1) as model:
            found.append(sparsity.measure(model))
    two_bits, five_trits = found

    assert two_bits is not None
    assert five_trits is not None
    assert five_trits.closed_gates == two_bits.closed_gates > 0
    assert five_trits.zero_codes == two_bits.zero_codes > 0


def test_a_graph_that_skips_nothing_has_no_figures(tmp_path: Path) -> None:
    config = ROOT / "tests" / "golden" / "configs" / "llama.json"
    api.export_random(config, tmp_path / "bundle")
    with edgellm.load(tmp_path / "bundle", threads=1) as model:
        assert sparsity.measure(model) is None
