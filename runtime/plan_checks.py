"""What a step must fulfil beyond its schema, so that no kernel reads or writes outside its arrays.

A file from a stranger may hold any graph. Shapes that the schemas tie together are checked when the
graph is read; this is the rest: sizes that must divide, tables that must be long enough, values
that are used as indices, and the ranges that the operators' definitions state.
"""

from collections.abc import Callable, Mapping

from edgellm.dtypes import (
    PLANE_COLUMNS,
    PLANES_BLOCK,
    TERNARY_LAYOUTS,
    bit_plane_shape,
    packed_columns,
)
from edgellm.errors import PlanError
from edgellm.runtime import encoder_checks
from edgellm.runtime.plan import (
    IDS,
    PAST,
    PAST_LENGTH,
    POSITIONS,
    ROWS,
    TOKENS,
    Dim,
    Step,
    present_name,
)

MAX_CONTEXT = 65_535
"""Attention sums ``2^15 * 127`` a position in 38 bits."""
MAX_HEAD_DIM = 512
MAX_NORM_COLUMNS = 65_536
MAX_INT8_COLUMNS = 133_144
MAX_PLANAR_COLUMNS = 32_768
MAX_PLANE_COLUMNS = 65_536
MAX_PLANES = 8
MAX_TERMS = 8
MAX_TERNARY_COLUMNS = 16_777_215

Sizes = Mapping[str, Dim]

ROW_BYTES = {
    "GatedBitLinear": packed_columns,
    **{layout.op_type: layout.row_bytes for layout in TERNARY_LAYOUTS.values()},
}
"""Bytes of a packed row by operator, a function of its columns."""

ATTRIBUTE_RANGES = {
    "shift": (-4096, 4096),
    "frame": (1, 31),
    "window": (0, 2**31 - 1),
    "mantissa": (0, 2**31 - 1),
    "exponent": (-4096, 4096),
    "Embedding.shift": (1, 62),
    "PlanarEmbedding.shift": (1, 62),
    "top": (0, 0),
    "GroupLinear.shift": (0, 62),
    "ShiftAddLinear.shift": (0, 62),
    "group_size": (8, 65_536),
    **encoder_checks.ATTRIBUTE_RANGES,
}
"""For one operator alone, by name, or by last word of the name."""


def check_attributes(step: Step) -> None:
    """Check that every attribute is in its range.

    Raises:
        PlanError: one is not.
    """
    for name, value in step.attributes.items():
        last_word = name.rpartition("_")[2]
        names = (f"{step.op_type}.{name}", name, last_word)
        bounds = next(ATTRIBUTE_RANGES[key] for key in names if key in ATTRIBUTE_RANGES)
        if not bounds[0] <= value <= bounds[1]:
            raise PlanError(
                f"{step.name}: {name} is {value}; allowed are {bounds[0]} to {bounds[1]}"
            )


def check_step(step: Step, sizes: Sizes, context_length: int) -> None:
    """Check what a step's operator demands of its sizes and inputs.

    Args:
        step: to check.
        sizes: what its schema's letters are.
        context_length: positions that a text may have.

    Raises:
        PlanError: a demand is not fulfilled.
    """
    check = CHECKS.get(step.op_type)
    if check is None:
        return
    for fulfilled, demand in check(step, sizes, context_length):
        if not fulfilled:
            raise PlanError(f"{step.name} ({step.op_type}): {demand}; its sizes are {dict(sizes)}")


Demands = list[tuple[bool, str]]


def _at_most(size: Dim, limit: int) -> bool:
    return isinstance(size, int) and size <= limit


def _divides(divisor: Dim, size: Dim, factor: int = 1) -> bool:
    return isinstance(divisor, int) and isinstance(size, int) and size % (divisor * factor) == 0


def _row_scale(_step: Step, sizes: Sizes, _context: int) -> Demands:
    return [
        (sizes["R"] in (1, sizes["T"]), "its scale has one row, or one for each token"),
        (_at_most(sizes["N"], MAX_NORM_COLUMNS), f"at most {MAX_NORM_COLUMNS} columns"),
    ]


def _packed_linear(step: Step, sizes: Sizes, _context: int) -> Demands:
    columns, packed = sizes["K"], sizes["B"]
    return [
        (_at_most(columns, MAX_TERNARY_COLUMNS), f"at most {MAX_TERNARY_COLUMNS} columns"),
        (
            isinstance(columns, int) and ROW_BYTES[step.op_type](columns) == packed,
            "the packed weight has another number of columns than the activations",
        ),
    ]


def _column_bit_linear(_step: Step, sizes: Sizes, _context: int) -> Demands:
    fixed = all(isinstance(sizes[letter], int) for letter in "SKW")
    return [
        (fixed, "its packed weight has a fixed size"),
        (_at_most(sizes["K"], MAX_TERNARY_COLUMNS), f"at most {MAX_TERNARY_COLUMNS} columns"),
        (_divides(16, sizes["W"]), "an input has 16 bytes for every 64 outputs"),
    ]


def _look_up_bit_linear(_step: Step, sizes: Sizes, _context: int) -> Demands:
    columns, octets = sizes["K"], sizes["C"]
    return [
        (isinstance(sizes["B"], int), "its packed weight has a fixed size"),
        (_at_most(columns, MAX_TERNARY_COLUMNS), f"at most {MAX_TERNARY_COLUMNS} columns"),
        (
            isinstance(columns, int) and octets == -(-columns // PLANE_COLUMNS),
            "the packed weight has another number of columns than the activations",
        ),
    ]


def _bit_planes(step: Step, sizes: Sizes, _context: int) -> Demands:
    columns, rows, planes = sizes["K"], sizes["N"], sizes["P"]
    if not isinstance(columns, int) or not isinstance(rows, int) or not isinstance(planes, int):
        return [(False, "its weight has a fixed size")]
    size = step.attributes["group_size"]
    blocks, octets, _, _ = bit_plane_shape(rows, columns, planes)
    return [
        (columns <= MAX_PLANE_COLUMNS, f"at most {MAX_PLANE_COLUMNS} columns"),
        (1 <= planes <= MAX_PLANES, f"1 to {MAX_PLANES} planes"),
        (size % PLANE_COLUMNS == 0, f"a group is a multiple of {PLANE_COLUMNS} columns"),
        (
            (sizes["B"], sizes["C"]) == (blocks, octets),
            "its planes have another number of rows or columns than scales and activations",
        ),
        (sizes["G"] == -(-columns // size), "it has one scale for each group"),
    ]


def _shift_add_linear(step: Step, sizes: Sizes, context: int) -> Demands:
    return [
        *_bit_planes(step, sizes, context),
        (_at_most(sizes["S"], MAX_TERMS), f"at most {MAX_TERMS} terms"),
    ]


def _int8_linear(_step: Step, sizes: Sizes, _context: int) -> Demands:
    return [(_at_most(sizes["K"], MAX_INT8_COLUMNS), f"at most {MAX_INT8_COLUMNS} columns")]


def _logits_head(step: Step, sizes: Sizes, context: int) -> Demands:
    return [
        *_int8_linear(step, sizes, context),
        (step.inputs[4] == ROWS and sizes["T"] == TOKENS, f"its rows are the input {ROWS}"),
    ]


def _embedding(step: Step, sizes: Sizes, _context: int) -> Demands:
    return [
        (step.inputs[0] == IDS, f"its ids are the input {IDS}"),
        (isinstance(sizes["V"], int), "its table has a fixed size"),
    ]


def _planar(sizes: Sizes, columns: Dim) -> Demands:
    high, low = sizes["H"], sizes["B"]
    fits = isinstance(high, int) and isinstance(low, int) and columns == 2 * high == 8 * low
    return [
        (_at_most(columns, MAX_PLANAR_COLUMNS), f"at most {MAX_PLANAR_COLUMNS} columns"),
        (_divides(PLANES_BLOCK, columns), f"its columns are a multiple of {PLANES_BLOCK}"),
        (fits, "its planes have as many columns as the codes"),
        (isinstance(sizes["V"], int), "its table has a fixed size"),
    ]


def _planar_logits_head(step: Step, sizes: Sizes, _context: int) -> Demands:
    return [
        *_planar(sizes, sizes["K"]),
        (step.inputs[6] == ROWS and sizes["T"] == TOKENS, f"its rows are the input {ROWS}"),
    ]


def _int4_logits_head(step: Step, sizes: Sizes, _context: int) -> Demands:
    columns, half = sizes["K"], sizes["H"]
    fits = isinstance(half, int) and columns == 2 * half
    return [
        (_at_most(columns, MAX_PLANAR_COLUMNS), f"at most {MAX_PLANAR_COLUMNS} columns"),
        (_divides(PLANES_BLOCK, columns), f"its columns are a multiple of {PLANES_BLOCK}"),
        (fits, "its weights have as many columns as the codes"),
        (step.inputs[4] == ROWS and sizes["T"] == TOKENS, f"its rows are the input {ROWS}"),
    ]


def _planar_embedding(step: Step, sizes: Sizes, context: int) -> Demands:
    high = sizes["H"]
    columns = 2 * high if isinstance(high, int) else high
    return [*_planar(sizes, columns), *_embedding(step, sizes, context)]


def _rotary_embedding(step: Step, sizes: Sizes, context: int) -> Demands:
    rows = sizes["C"]
    return [
        (step.inputs[1] == POSITIONS, f"its positions are the input {POSITIONS}"),
        (isinstance(rows, int) and rows >= context, f"its tables have {context} positions or more"),
        (_divides(sizes["P"], sizes["M"], 2), "a row is whole heads of two halves"),
    ]


def _head_rms_norm(_step: Step, sizes: Sizes, _context: int) -> Demands:
    return [(_divides(sizes["D"], sizes["M"]), "a row is whole heads")]


def _cache_append(step: Step, sizes: Sizes, _context: int) -> Demands:
    heads, dim = sizes["H"], sizes["D"]
    in_place = tuple(present_name(name) for name in step.inputs[1:])
    return [
        (sizes["T"] == TOKENS and sizes["S"] == PAST_LENGTH, "it appends the tokens to the past"),
        (step.outputs == in_place, f"its outputs are {', '.join(in_place)}"),
        (
            isinstance(heads, int) and isinstance(dim, int) and sizes["M"] == heads * dim,
            "a row is one vector for each key/value head",
        ),
    ]


def _attention(_step: Step, sizes: Sizes, _context: int) -> Demands:
    heads, dim = sizes["H"], sizes["D"]
    whole = isinstance(heads, int) and _divides(dim, sizes["M"], heads)
    length = f"{PAST_LENGTH}+{TOKENS}"
    return [
        (sizes["T"] == TOKENS and sizes["L"] == length, "its keys are the past and the tokens"),
        (_at_most(dim, MAX_HEAD_DIM), f"heads have at most {MAX_HEAD_DIM} columns"),
        (whole, "the query heads are a multiple of the key/value heads"),
    ]


def _gated_recurrence(step: Step, sizes: Sizes, _context: int) -> Demands:
    return [
        (sizes["T"] == TOKENS, "it goes through the tokens of the call"),
        (step.inputs[3].startswith(PAST), "its state is an input of the graph"),
        (step.outputs[1] == present_name(step.inputs[3]), "its last output is the state after it"),
        (isinstance(sizes["N"], int), "it has a fixed number of channels"),
    ]


def _take_rows(step: Step, sizes: Sizes, _context: int) -> Demands:
    return [
        (step.inputs[2] == ROWS and sizes["T"] == TOKENS, f"its rows are the input {ROWS}"),
    ]


CHECKS: Mapping[str, Callable[[Step, Sizes, int], Demands]] = {
    "AbsmaxQuantize": _row_scale,
    "Attention": _attention,
    "BitLinear": _packed_linear,
    "CacheAppend": _cache_append,
    "ColumnBitLinear": _column_bit_linear,
    "Embedding": _embedding,
    "GatedBitLinear": _packed_linear,
    "GatedRecurrence": _gated_recurrence,
    "GroupLinear": _bit_planes,
    "HeadRmsNorm": _head_rms_norm,
    "Int4LogitsHead": _int4_logits_head,
    "Int8Linear": _int8_linear,
    "LogitsHead": _logits_head,
    "LookUpBitLinear": _look_up_bit_linear,
    "PlanarEmbedding": _planar_embedding,
    "PlanarLogitsHead": _planar_logits_head,
    "RmsNorm": _row_scale,
    "RmsNormQuantize": _row_scale,
    "RotaryEmbedding": _rotary_embedding,
    "ShiftAddLinear": _shift_add_linear,
    "TakeRows": _take_rows,
    "TritLinear": _packed_linear,
    **encoder_checks.CHECKS,
}
