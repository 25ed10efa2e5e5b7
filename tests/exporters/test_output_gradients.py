"""What an error of an output costs, against the loss that such an error really causes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgellm.exporters import build
from edgellm.exporters.architectures import llama
from edgellm.exporters.calibrated import rows_of
from edgellm.exporters.float_parts import FloatParts
from edgellm.exporters.output_gradients import output_costs
from edgellm.exporters.sensitivity import divergence
from edgellm.graph_names import LOGITS
from edgellm.runtime.float_parts import run_each

LINEARS = ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]


def test_weights_predict_the_loss_by_errors_of_single_outputs(
    tmp_path: Path, write_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", llama.TINY)
    parts = FloatParts(build.float_model(checkpoint, tmp_path / "float"), run_each)
    inputs = list(np.random.default_rng(0).integers(0, 256, (8, 40)))
    linears = [f"model.layers.0.{name}" for name in LINEARS] + ["model.layers.1.mlp.down_proj"]
    blocks = parts.blocks(linears)
    shapes = {path: linear.shape for path, linear in parts.find(linears).items()}
    exact = rows_of(parts.run(None, [LOGITS], inputs, []), LOGITS)

    found = output_costs(parts, shapes, inputs)

    assert set(found) == set(linears)
    rng = np.random.default_rng(1)
    for linear in [one for block in blocks for stage in block.stages for one in stage]:
        weight = parts.weight(linear)
        x = rows_of(parts.run(None, [linear.x], inputs, []), linear.x)
        expected, measured = [], []
        # The rows that cost most and least, and one between.
        for row in np.argsort(found[linear.path])[[0, linear.shape[0] // 2, -1]]:
            error = 0.05 * rng.normal(size=linear.shape[1]).astype(np.float32)
            moved = weight.copy()
            moved[row] += error
            parts.replace(linear, moved)
            reached = rows_of(parts.run(None, [LOGITS], inputs, []), LOGITS)
            measured.append(divergence(exact, reached))
            expected.append(found[linear.path][row] * float(((x @ error) ** 2).sum()))
            parts.replace(linear, weight)
        # Weights drawn on 320 tokens, losses beyond the square: ratios of 0.8 to 1.6 were measured,
        # where rows of one linear differ by factors of up to 30.
        assert expected == pytest.approx(measured, rel=0.8)
        assert max(found[linear.path]) > 1.2 * min(found[linear.path])
