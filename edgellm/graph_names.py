"""Names that a graph's inputs, outputs and dynamic sizes have; ARCHITECTURE.md lists them."""

IDS = "input_ids"
POSITIONS = "position_ids"
ROWS = "logit_rows"
LOGITS = "logits"
PAST = "past_key_values."
PRESENT = "present."

PIXELS = "pixel_values"
TYPES = "token_type_ids"
ENDS = "sequence_ends"
EMBEDDINGS = "embeddings"

TOKENS = "tokens"
PAST_LENGTH = "past"
LOGIT_COUNT = "logits"
IMAGES = "images"
SEQUENCES = "sequences"
"""Names of the dynamic sizes; ``past+tokens`` is the length after the call."""


def present_name(past: str) -> str:
    """Return the graph output that continues the cache input ``past``."""
    return PRESENT + past.removeprefix(PAST)
