"""The tokenizer of a bundle: copied from the checkpoint, or a byte tokenizer for random weights."""

import json
import logging
import shutil
from pathlib import Path

from edgellm.config import JsonFields
from edgellm.errors import CheckpointError
from edgellm.exporters.checkpoint import Checkpoint

LOG = logging.getLogger(__name__)

TOKENIZER = "tokenizer.json"
OPTIONAL_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
BYTE_VALUES = 256


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer and what belongs to it.

    Raises:
        CheckpointError: there is no tokenizer.json, or one of the files is no JSON object.
    """
    if not (source / TOKENIZER).is_file():
        raise CheckpointError(
            f"{source}: {TOKENIZER} is missing; make it with "
            "transformers.AutoTokenizer.from_pretrained(SOURCE).save_pretrained(SOURCE)"
        )
    for name in (TOKENIZER, *OPTIONAL_FILES, "config.json"):
        if not (source / name).is_file():
            continue
        if name.endswith(".json"):
            JsonFields.read(source / name)
        shutil.copyfile(source / name, target / name)


def special_tokens(checkpoint: Checkpoint, vocab_size: int) -> tuple[int | None, tuple[int, ...]]:
    """Return the id that begins a text and those that end it.

    generation_config.json goes before config.json. Ids outside the vocabulary, which can neither be
    made nor read, are left out with a warning.
    """
    path = checkpoint.path / "generation_config.json"
    configs = [JsonFields.read(path)] if path.is_file() else []
    found: dict[str, tuple[int, ...]] = {"bos_token_id": (), "eos_token_id": ()}
    for fields in (checkpoint.config, *configs):
        for name in found:
            tokens = fields.integers(name)
            if any(token >= vocab_size for token in tokens):
                excess = f"what is not below the {vocab_size} of the vocabulary is left out"
                LOG.warning("%s", fields.fail(name, excess))
            found[name] = tuple(t for t in tokens if t < vocab_size) or found[name]
    return next(iter(found["bos_token_id"]), None), found["eos_token_id"]


def write_byte_tokenizer(target: Path) -> None:
    """Write a tokenizer whose ids 0 to 255 are the bytes; higher ids decode to nothing."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(target / TOKENIZER))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False}
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
