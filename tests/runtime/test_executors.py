"""The executors agree on every value of the graph, for every kind of language model."""

import json

import numpy as np
import pytest

import edgellm.runtime.executors
from edgellm import registry
from edgellm.bundle import Bundle
from edgellm.errors import ConfigError
from edgellm.exporters import architectures
from edgellm.exporters.build import export_random
from edgellm.exporters.components.language_model import LanguageModel
from edgellm.graph_names import IDS, POSITIONS, ROWS
from edgellm.runtime.executors import numba
from edgellm.runtime.feed_engine import FeedEngine
from edgellm.runtime.loader import load_plan
from edgellm.runtime.plan import Plan, cache_shape

EXECUTORS = ("numba", "onnxruntime", "reference")
MODELS = [
    name
    for name in registry.names(architectures)
    if issubclass(registry.load(architectures, name).Model, LanguageModel)
]

RANGES = {"int8": (-127, 128), "int32": (1, 2**20), "int64": (-(2**30), 2**30)}
"""Of codes, of what they are a fraction of, and of recurrent states."""


@pytest.fixture(scope="module", params=MODELS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A random model of each architecture."""
    config = registry.load(architectures, request.param).TINY
    folder = tmp_path_factory.mktemp("executors")
    (folder / "config.json").write_text(json.dumps(config))
    return export_random(folder / "config.json", folder / "bundle")


@pytest.fixture(scope="module")
def plan(bundle: Bundle) -> Plan:
    return load_plan(bundle)


def feeds(plan: Plan, past: int, tokens: int) -> dict[str, np.ndarray]:
    """Return a call in the middle of a text; the cache holds what kernels could have written."""
    generator = np.random.default_rng(past)
    cache = {}
    for name in plan.cache_inputs:
        value = plan.values[name]
        low, high = RANGES[value.dtype]
        cache[name] = generator.integers(low, high, cache_shape(value, past)).astype(value.dtype)
    return {
        IDS: generator.integers(0, plan.vocab_size, tokens),
        POSITIONS: np.arange(past, past + tokens),
        ROWS: np.array([0, tokens - 1]),
        **cache,
    }


def make(name: str, bundle: Bundle, plan: Plan, threads: int = 1):
    module = registry.load(edgellm.runtime.executors, name)
    return module.Executor(bundle, plan, threads=threads)


def test_executors_are_found_by_file_name() -> None:
    assert registry.names(edgellm.runtime.executors) == tuple(EXECUTORS)


@pytest.mark.parametrize("name", ["numba", "onnxruntime"])
@pytest.mark.parametrize(("past", "tokens"), [(0, 20), (13, 1)])
def test_every_value_equals_the_reference(
    bundle: Bundle, plan: Plan, name: str, past: int, tokens: int
) -> None:
    call = feeds(plan, past, tokens)
    expected = make("reference", bundle, plan).run(call, trace=True)
    executor = make(name, bundle, plan)

    traced = executor.run(call, trace=True)
    outputs = executor.run(call)

    assert set(traced) == set(expected)
    assert set(outputs) == set(plan.outputs)
    for step in plan.steps:  # in order, so that the first to differ is named
        for value in step.outputs:
            np.testing.assert_array_equal(traced[value], expected[value], value, strict=True)
    for value, array in outputs.items():
        np.testing.assert_array_equal(array, expected[value], value, strict=True)


def test_text_comes_from_every_executor(bundle: Bundle, plan: Plan) -> None:
    """Greedy, token by token, through the interface of the engine."""
    texts = []
    for name in EXECUTORS:
        engine = FeedEngine(make(name, bundle, plan), plan, 32)
        cache = engine.new_cache()
        token, text = np.array([5, 6]), []
        for _ in range(6):
            token = engine.forward(token, cache).argmax(axis=1)
            text.append(int(token[0]))
        texts.append(text)
    assert texts[0] == texts[1] == texts[2]


def test_positions_must_follow_the_cache(bundle: Bundle, plan: Plan) -> None:
    call = feeds(plan, 4, 2)
    call[POSITIONS] = call[POSITIONS] * 2

    with pytest.raises(ConfigError, match="count on from the"):
        numba.Executor(bundle, plan).run(call)
