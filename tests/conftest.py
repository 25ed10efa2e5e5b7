"""What all tests share: settings of the property tests, and small bundles, exported once."""

import fcntl
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from edgellm import api
from edgellm.config import JsonFields
from edgellm.exporters.architectures import bitnet, llama
from edgellm.exporters.lowering.encoder_inventory import EncoderInventory
from edgellm.exporters.lowering.inventory import Inventory
from edgellm.exporters.source import load_model
from edgellm.exporters.tokenizer_files import write_byte_tokenizer
from edgellm.runtime import kernels
from edgellm.runtime.kernels._compiler import compile_missing

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
# Widths, heads and modules of all-MiniLM-L6-v2; fewer layers, a small vocabulary, short texts.
SENTENCE_CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 258,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
SENTENCE_LIMIT = 24

# A time limit an example would make slow or busy machines fail.
settings.register_profile("any-machine", settings(), deadline=None)
settings.load_profile("any-machine")


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels(request: pytest.FixtureRequest) -> None:
    """Compile the kernels of the chosen tests first, on all cores: one by one takes minutes.

    Of several processes that run tests one does it, with all cores, while the others wait.
    """
    chosen = (getattr(item, "callspec", None) for item in request.session.items)
    parameters = [spec.params for spec in chosen if spec is not None]
    wanted = {
        (each["module"].SCHEMA.name, each["variant"])
        for each in parameters
        if each.keys() >= {"module", "variant"}
    }
    if wanted:
        with open(Path(tempfile.gettempdir()) / "edgellm-tests.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            compile_missing(kernels.find(*pair) for pair in sorted(wanted))


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random weights, exported once."""
    folder = tmp_path_factory.mktemp("random")
    (folder / "config.json").write_text(json.dumps(bitnet.TINY))
    return api.export_random(folder / "config.json", folder / "bundle").path


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded classifier of handwritten digits."""
    return api.export(SAMPLES / "digits-vit", tmp_path_factory.mktemp("digits") / "bundle").path


@pytest.fixture(scope="session")
def sentence_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers directory of random weights, in the shape of MiniLM."""
    folder = tmp_path_factory.mktemp("sentences") / "random-minilm"
    (folder / "1_Pooling").mkdir(parents=True)
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": number, "type": f"sentence_transformers.models.{kind}", "path": path}
        for number, (kind, path) in enumerate(kinds.items())
    ]
    for name, content in {
        "config.json": SENTENCE_CONFIG,
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": SENTENCE_LIMIT},
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
    }.items():
        (folder / name).write_text(json.dumps(content))
    save_file(random_tensors(SENTENCE_CONFIG, EncoderInventory()), folder / "model.safetensors")
    sentence_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def llama_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small language model of random weights."""
    folder = tmp_path_factory.mktemp("checkpoint") / "random-llama"
    folder.mkdir()
    config = llama.TINY | {"num_hidden_layers": 1, "intermediate_size": 64}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(random_tensors(config, Inventory()), folder / "model.safetensors")
    write_byte_tokenizer(folder)
    return folder


def random_tensors(
    config: dict[str, object], inventory: Inventory | EncoderInventory
) -> dict[str, np.ndarray]:
    """Linears that keep the variance, embeddings that differ, norms near 1."""
    load_model(JsonFields(config, "config.json")).build(inventory)
    rng = np.random.default_rng(0)
    tensors = {}
    for parameter in inventory.parameters:
        name, shape = parameter.name, parameter.shape
        if len(shape) == 1:
            wide = rng.uniform(-0.1, 0.1, shape) + ("norm.weight" in name.lower())
        else:
            wide = rng.standard_normal(shape) / np.sqrt(shape[1])
        tensors[name] = wide.astype(np.float32)
    return tensors


def sentence_tokenizer() -> Tokenizer:
    """Byte by byte, between [CLS] and [SEP]."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = [("[CLS]", len(alphabet)), ("[SEP]", len(alphabet) + 1)]
    vocabulary = {piece: number for number, piece in enumerate(alphabet)} | dict(specials)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens([name for name, _ in specials])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=specials
    )
    return tokenizer


@pytest.fixture(scope="session")
def sentence_bundle(sentence_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder in the shape of MiniLM, with golden cases."""
    return api.export(sentence_checkpoint, tmp_path_factory.mktemp("encoder") / "bundle").path
