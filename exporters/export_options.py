"""What a user may choose for the export of a language model, and what that needs of the model."""

from dataclasses import dataclass

from edgellm.cache_layout import CACHE_LAYOUTS
from edgellm.dtypes import TERNARY_2BIT
from edgellm.errors import ConfigError
from edgellm.exporters.graph import GraphBuilder
from edgellm.exporters.low_bit_export import LowBit
from edgellm.exporters.lowering.inventory import Inventory
from edgellm.exporters.lowering.stored_weights import HEAD_BITS
from edgellm.exporters.smoothing import Smooth
from edgellm.exporters.source import Source
from edgellm.ternary_layouts import TERNARY_LAYOUTS, TernaryLayout

DEFAULT_CONTEXT = 4096
MAX_CONTEXT = 65_535
"""The most positions that Attention sums over."""
LAYOUTS = {layout.alias: layout for layout in TERNARY_LAYOUTS.values()}
DEFAULT_LAYOUT = TERNARY_LAYOUTS[TERNARY_2BIT].alias
DEFAULT_KV_BITS = 8


@dataclass(frozen=True)
class ExportOptions:
    """What a user may choose.

    ``context`` None is the model's own, up to ``DEFAULT_CONTEXT``; ``layout`` is that of ternary
    weights, by its alias; ``head_bits`` are those of a weight of the logits head, ``kv_bits`` those
    of a number in the key/value cache; ``smooth`` finds scales of channels for int8 activations.
    """

    context: int | None = None
    force: bool = False
    layout: str = DEFAULT_LAYOUT
    source: str = ""
    revision: str = ""
    seed: int = 0
    low_bit: LowBit | None = None
    head_bits: int = HEAD_BITS[0]
    kv_bits: int = DEFAULT_KV_BITS
    smooth: Smooth | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without a model."""
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout {self.layout!r} is unknown; known are {', '.join(LAYOUTS)}")
        if self.head_bits not in HEAD_BITS:
            raise ConfigError(f"head bits are {self.head_bits}; allowed are 8 and 4")
        if self.kv_bits not in CACHE_LAYOUTS:
            raise ConfigError(f"cache bits are {self.kv_bits}; allowed are 8 and 4")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; allowed are integers from 0")


def context_of(model: Source, options: ExportOptions) -> int:
    """Return the positions that a bundle is for.

    Raises:
        ConfigError: more were asked for than the model allows, or none.
    """
    longest = min(model.model.config.max_position_embeddings, MAX_CONTEXT)
    context = min(longest, DEFAULT_CONTEXT) if options.context is None else options.context
    if not 1 <= context <= longest:
        raise ConfigError(f"context is {context}; this model allows 1 to {longest}")
    return context


def check_fits(model: Source, options: ExportOptions) -> None:
    """Check what an option needs of the model.

    Raises:
        ConfigError: its head is a linear, it has no key/value cache, or other heads.
    """
    inventory = Inventory()
    model.model.build(inventory)
    if options.head_bits != HEAD_BITS[0] and not inventory.has_table_head:
        raise ConfigError(
            f"head bits are {options.head_bits}; the head of {model.model_type} is one of its "
            "linears and has their bits"
        )
    sizes, layout = model.model.config, CACHE_LAYOUTS[options.kv_bits]
    if options.kv_bits != DEFAULT_KV_BITS and sizes.state_size:
        raise ConfigError(
            f"cache bits are {options.kv_bits}; {model.model_type} keeps a state, and no keys and "
            "values"
        )
    if not sizes.state_size and sizes.head_dim % layout.head_step:
        raise ConfigError(
            f"cache bits are {options.kv_bits}; that takes heads of a multiple of "
            f"{layout.head_step} columns, and this model's have {sizes.head_dim}: leave them at 8"
        )


def layout_of(model: Source, options: ExportOptions) -> TernaryLayout:
    """Return the layout of ternary weights.

    Raises:
        ConfigError: it was chosen, and the model has none.
    """
    if model.quantization is None and options.layout != DEFAULT_LAYOUT:
        raise ConfigError(
            f"layout is {options.layout!r}; it is for ternary weights, and this model has none"
        )
    return LAYOUTS[options.layout]


def check_layout_is_used(layout: TernaryLayout, builder: GraphBuilder) -> None:
    """Check that linears have the layout that was chosen.

    Raises:
        ConfigError: none of them has.
    """
    if layout.alias != DEFAULT_LAYOUT and layout.op_type not in builder.op_types:
        raise ConfigError(
            f"layout is {layout.alias!r}; it is for linears whose outputs are a multiple of "
            f"{layout.block_rows}, and this model has none: export it with {DEFAULT_LAYOUT!r}"
        )
