"""What a step of an encoder must fulfil beyond its schema; see ``plan_checks``.

Rows of sequences are those of the tokens of a text, or of the images of a call, each of which has
as many as the manifest's context: the engine makes ``sequence_ends`` for these and no others.
"""

from collections.abc import Callable, Mapping

from edgellm.runtime.encoder_contract import ENDS, IMAGES, PIXELS, TYPES
from edgellm.runtime.plan import IDS, POSITIONS, TOKENS, Dim, Step

MAX_COLUMNS = 65_536
MAX_HEAD_DIM = 512
MAX_PATCH_BYTES = 131_071
MAX_EXPONENTIAL = 2**31 - 1
"""Of Shiftmax: of one row it is the sum, which is clamped there."""

Sizes = Mapping[str, Dim]
Demands = list[tuple[bool, str]]

ATTRIBUTE_RANGES = {
    "activation": (0, 2),
    "group": (1, MAX_COLUMNS),
    "heads": (1, MAX_COLUMNS),
    "row": (0, 65_534),
    "LayerNormQuantize.shift": (1, 62),
    "LayerNormQuantize.frame": (1, 31),
    "ImageTokens.shift": (1, 62),
    "TextEmbedding.shift": (1, 62),
    "DyadicAdd.x_shift": (1, 62),
    "DyadicAdd.y_shift": (1, 62),
    "DyadicRequantize.shift": (1, 62),
    "DyadicRequantizeWide.shift": (1, 62),
    "DyadicRequantizeWide.bits": (2, 32),
    "DyadicAdd.bits": (2, 32),
    "ShiftmaxAttention.shift": (1, 62),
    "low": (-127, 0),
    "bits": (2, 16),
    "unit": (1, 65_535),
    "n": (1, 30),
    "half_bit": (0, 1),
}


def _at_most(size: Dim, limit: int) -> bool:
    return isinstance(size, int) and size <= limit


def _sequences(step: Step, sizes: Sizes, context: int) -> Demands:
    own = (TOKENS, IMAGES if context == 1 else f"{IMAGES}*{context}")
    return [
        (step.inputs[-1] == ENDS, f"its sequences end where {ENDS} says"),
        (sizes["T"] in own, f"its rows are all those that {ENDS} counts"),
    ]


def _columns(_step: Step, sizes: Sizes, _context: int) -> Demands:
    return [(_at_most(sizes["N"], MAX_COLUMNS), f"at most {MAX_COLUMNS} columns")]


def _encoder_attention(step: Step, sizes: Sizes, context: int) -> Demands:
    width, heads = sizes["M"], step.attributes["heads"]
    whole = isinstance(width, int) and width % heads == 0
    return [
        *_sequences(step, sizes, context),
        (whole, "a row is whole heads"),
        (whole and _at_most(width, MAX_HEAD_DIM * heads), f"heads of at most {MAX_HEAD_DIM}"),
    ]


def _exponential(step: Step) -> tuple[bool, str]:
    largest = step.attributes["unit"] << step.attributes["n"]
    return largest <= MAX_EXPONENTIAL, f"unit * 2^n is at most {MAX_EXPONENTIAL}"


def _shiftmax(step: Step, _sizes: Sizes, _context: int) -> Demands:
    return [_exponential(step)]


def _shiftmax_attention(step: Step, sizes: Sizes, context: int) -> Demands:
    width, heads = sizes["M"], sizes["H"]
    whole = isinstance(width, int) and isinstance(heads, int) and width % heads == 0
    widest = isinstance(width, int) and isinstance(heads, int) and width <= MAX_HEAD_DIM * heads
    return [
        *_sequences(step, sizes, context),
        (whole, "a row is whole heads"),
        (widest, f"heads of at most {MAX_HEAD_DIM}"),
        _exponential(step),
    ]


def _sequence_quantize(step: Step, sizes: Sizes, context: int) -> Demands:
    width = sizes["M"]
    whole = isinstance(width, int) and width % step.attributes["group"] == 0
    return [*_sequences(step, sizes, context), (whole, "a row is whole groups of columns")]


def _select_rows(step: Step, sizes: Sizes, context: int) -> Demands:
    shortest = 1 if sizes["T"] == TOKENS else context
    inside = step.attributes["row"] < shortest
    return [*_sequences(step, sizes, context), (inside, f"every sequence has {shortest} rows")]


def _extract_patches(step: Step, sizes: Sizes, _context: int) -> Demands:
    height, width = sizes["P"], sizes["K"]
    small = isinstance(height, int) and _at_most(width, MAX_PATCH_BYTES // height)
    return [
        (step.inputs[0] == PIXELS, f"its images are the input {PIXELS}"),
        (small, f"a patch has at most {MAX_PATCH_BYTES} bytes"),
    ]


def _image_tokens(step: Step, sizes: Sizes, context: int) -> Demands:
    first, patches = sizes["F"], sizes["P"]
    if not isinstance(first, int) or not isinstance(patches, int):
        return [(False, "an image has a fixed number of patches")]
    rows = IMAGES if patches == 1 else f"{IMAGES}*{patches}"
    return [
        (step.inputs[1] == ENDS, f"its images are counted by {ENDS}"),
        (sizes["T"] == rows, "it has a position for each patch of an image"),
        (first + patches == context, f"an image has {context} rows"),
    ]


def _text_embedding(step: Step, sizes: Sizes, context: int) -> Demands:
    positions = sizes["C"]
    return [
        (step.inputs[:3] == (IDS, TYPES, POSITIONS), f"it reads {IDS}, {TYPES}, {POSITIONS}"),
        (isinstance(sizes["V"], int) and isinstance(sizes["Y"], int), "its tables are fixed"),
        (isinstance(positions, int) and positions >= context, f"it has {context} positions"),
    ]


CHECKS: Mapping[str, Callable[[Step, Sizes, int], Demands]] = {
    "ActivationQuantize": _columns,
    "EncoderAttention": _encoder_attention,
    "ExtractPatches": _extract_patches,
    "ImageTokens": _image_tokens,
    "ILayerNorm": _columns,
    "L2Normalize": _columns,
    "LayerNormQuantize": _columns,
    "MeanPool": _sequences,
    "SelectRows": _select_rows,
    "SequenceQuantize": _sequence_quantize,
    "Shiftmax": _shiftmax,
    "ShiftmaxAttention": _shiftmax_attention,
    "TextEmbedding": _text_embedding,
}
