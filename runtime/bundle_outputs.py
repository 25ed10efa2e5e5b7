"""What a bundle computes for calibration inputs, as real numbers."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgellm.bundle import open_bundle
from edgellm.runtime import cpu
from edgellm.runtime.encoder_contract import CLASSIFICATION, TASKS
from edgellm.runtime.encoder_engine import EncoderEngine
from edgellm.runtime.engine import Engine
from edgellm.runtime.loader import load_plan

Array = npt.NDArray[np.generic]
Outputs = list[npt.NDArray[np.float32]]


def bundle_outputs(directory: Path, inputs: Sequence[Array]) -> Outputs:
    """Return the logits of all tokens or images, or the embeddings.

    Args:
        directory: of the bundle.
        inputs: what the float model takes: ids (tokens,) of a language model; pixels or ids
            (sequences, ...) of an encoder.
    """
    bundle = open_bundle(directory)
    facts, threads = bundle.manifest, cpu.host().physical_cores
    unit = np.float32(2.0**-facts.logits_frame)
    if facts.task in TASKS:
        encoder = EncoderEngine(load_plan(bundle), facts, threads=threads)
        with closing(encoder):
            if facts.task == CLASSIFICATION:
                return [encoder.run_images(batch.astype(np.uint8)) * unit for batch in inputs]
            return [encoder.run_texts(list(batch.astype(np.int64))) * unit for batch in inputs]
    longest = max(len(ids) for ids in inputs)
    engine = Engine(load_plan(bundle), context_length=longest, threads=threads)
    outputs = []
    with closing(engine):
        for ids in inputs:
            cache = engine.new_cache(len(ids))
            outputs.append(engine.forward(ids.astype(np.int64), cache, range(len(ids))) * unit)
    return outputs
