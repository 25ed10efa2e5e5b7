"""README.md: the licence in that of a checkpoint, and the model card of a bundle."""

import re
from pathlib import Path

from edgellm.bundle import Manifest

FILE = "README.md"
MAX_CARD_CHARACTERS = 1 << 20
LICENCE_LINE = re.compile(r"^license:[ \t]*([A-Za-z0-9._+-]{1,64})[ \t]*$", re.MULTILINE)


def read_licence(checkpoint: Path) -> str:
    """Return the licence that a checkpoint's README.md names in its front matter, or nothing."""
    card = checkpoint / FILE
    if not card.is_file():
        return ""
    with card.open(encoding="utf-8", errors="replace") as stream:
        text = stream.read(MAX_CARD_CHARACTERS)
    if not text.startswith("---\n"):
        return ""
    found = LICENCE_LINE.search(text[4:].partition("\n---")[0])
    return found.group(1) if found else ""


def render(manifest: Manifest) -> str:
    """Return the model card: YAML front matter, then a table of the manifest's facts."""
    front = ["library_name: edgellm", f"pipeline_tag: {manifest.task}"]
    if manifest.licence:
        front.append(f"license: {manifest.licence}")
    if manifest.source:
        front.append(f'base_model: "{_quoted(manifest.source)}"')
    front.append(f"tags: [edgellm, integer-only, {manifest.model_type}]")
    facts = {
        "source": _quoted(manifest.source) or "not known",
        "revision": _quoted(manifest.revision) or "not known",
        "licence": manifest.licence or "not known: ask the author of the source",
        "architecture": manifest.model_type,
        "parameters": f"{manifest.num_parameters:,}",
        "weights": f"{manifest.quantization}, {manifest.bits_per_weight:g} bits a weight",
        "smoothing": manifest.smoothing or "none",
        "context": f"{manifest.context_length:,} tokens",
        "made by": manifest.created_by,
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join([
        "---", *front, "---", "",
        "# An integer-only bundle", "",
        "All arithmetic from token ids to logits is in integers, so every executor gives the same "
        "bits. Run it with `edgellm run <this directory> -p \"Once upon a time\"`, and prove it "
        "with `edgellm verify <this directory>`.", "",
        "| | |", "|---|---|", *rows, "",
    ])  # fmt: skip


def _quoted(text: str) -> str:
    return re.sub(r"[^\w .:/@,+-]", "_", text)
