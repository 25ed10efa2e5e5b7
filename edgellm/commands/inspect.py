"""Show what a bundle is: model, sizes, quantization, memory; on request operators and tensors."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.commands._output import (
    fields_of,
    human_bytes,
    write,
    write_json,
    write_pairs,
    write_table,
)

if TYPE_CHECKING:
    from edgellm.bundle import Manifest
    from edgellm.runtime.inspection import Inspection
    from edgellm.runtime.placement import Placed

HELP = "show what a bundle is"
EXAMPLE = "edgellm inspect bundle --ops"
DECODER = "text-generation"
ARITHMETICS = {
    "": "sound",
    "ivit": "ivit: the operators of I-ViT as published, scales measured before",
}
"""What a manifest calls its arithmetic, and more about it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bundle", metavar="BUNDLE", help="directory made by edgellm export")
    parser.add_argument("--ops", action="store_true", help="count the operators of the graph")
    parser.add_argument("--map", action="store_true", help="list the linears with their bits")
    parser.add_argument("--bit-map", type=Path, metavar="FILE.png",
        help="draw the linears with their bits (takes Pillow)")  # fmt: skip
    parser.add_argument("--tensors", action="store_true", help="list the weights")
    parser.add_argument("--device", metavar="NAME", help="also where each operator would run")
    parser.add_argument("--json", action="store_true", help="one object with everything")


def run(options: argparse.Namespace) -> int:
    """Show."""
    from edgellm import api

    result = api.inspect(options.bundle)
    if options.bit_map is not None:
        api.draw_bit_map(result, options.bit_map)
    placed = _placed(options)
    if options.json:
        fields = fields_of(result)
        if options.device:
            fields["placement"] = [fields_of(item) for item in placed]
        write_json(fields)
        return 0
    write_pairs(_summary(result))
    if options.ops:
        write()
        write_table([("operator", "count"), *((op.op_type, op.count) for op in result.ops)])
    if options.map:
        write()
        facts = [
            (one.name, one.op_type, one.bits, f"{one.rows}x{one.columns}", f"{one.stored_bits:.2f}")
            for one in result.linears
        ]
        write_table([("linear", "operator", "bits", "shape", "stored bits"), *facts])
    if options.tensors:
        write()
        rows = [
            (tensor.name, tensor.dtype, "x".join(map(str, tensor.shape)), human_bytes(tensor.bytes))
            for tensor in result.tensors
        ]
        write_table([("tensor", "type", "shape", "size"), *rows])
    if options.device:
        write()
        _write_placement(placed)
    return 0


def _placed(options: argparse.Namespace) -> "tuple[Placed, ...]":
    from edgellm import device_api

    return device_api.placement(options.bundle, options.device) if options.device else ()


def _write_placement(placed: "tuple[Placed, ...]") -> None:
    """Write where the operators run, those together that run at one place for one reason."""
    counts: dict[tuple[str, str, str], int] = {}
    for item in placed:
        kind = (item.op_type, item.place, item.reason)
        counts[kind] = counts.get(kind, 0) + 1
    rows = [(name, str(count), place, reason) for (name, place, reason), count in counts.items()]
    write_table([("operator", "count", "runs on", "because"), *rows])


def _summary(result: "Inspection") -> list[tuple[str, object]]:
    facts = result.manifest
    return [
        ("bundle", result.path),
        ("task", facts.task),
        ("model", f"{facts.model_type}, {facts.num_parameters:,} parameters"),
        *(_decoder_facts(result) if facts.task == DECODER else _encoder_facts(facts)),
        ("quantization", f"{facts.quantization}, {facts.bits_per_weight:.2f} bits a weight"),
        ("arithmetic", ARITHMETICS.get(facts.arithmetic, facts.arithmetic)),
        ("on disk", human_bytes(result.total_bytes)),
        ("calibrated on", facts.calibration or "nothing"),
        ("smoothed", facts.smoothing or "no"),
        ("source", " ".join(filter(None, (facts.source, facts.revision))) or "not said"),
        ("licence", facts.licence or "not said"),
        ("made by", facts.created_by or "not said"),
    ]


def _decoder_facts(result: "Inspection") -> list[tuple[str, object]]:
    facts = result.manifest
    attends = f"{_layers(facts)} ({facts.num_key_value_heads} key/value)"
    recurs = (
        f"hidden {facts.hidden_size}, {facts.num_hidden_layers} layers, recurrent states of "
        f"{facts.state_size}"
    )
    size = recurs if facts.state_size else attends
    kept = human_bytes(result.cache_bytes)
    return [
        ("size", f"{size}, vocabulary {facts.vocab_size}"),
        ("layout", _layout(facts)),
        ("context", f"{facts.context_length} tokens"),
        ("read a token", human_bytes(result.weight_bytes_per_token)),
        ("cache", f"{kept} at {'any length' if facts.state_size else 'the full context'}"),
    ]


def _layout(facts: "Manifest") -> str:
    from edgellm.ternary_layouts import TERNARY_LAYOUTS

    if not facts.layout:
        return "none: no weights are packed"
    known = TERNARY_LAYOUTS.get(facts.layout)
    return f"{facts.layout} (export --layout {known.alias})" if known else facts.layout


def _encoder_facts(facts: "Manifest") -> list[tuple[str, object]]:
    frame = f"integers of {facts.logits_frame} fraction bits"
    if not facts.num_labels:
        return [
            ("size", f"{_layers(facts)}, vocabulary {facts.vocab_size}"),
            ("input", f"texts of up to {facts.context_length} tokens"),
            ("output", f"{facts.hidden_size} numbers a text, {frame}"),
        ]
    image = f"{facts.image_height} x {facts.image_width} x {facts.num_channels}"
    patch = f"{facts.patch_height} x {facts.patch_width}"
    return [
        ("size", _layers(facts)),
        ("input", f"images of {image}, patches of {patch}: {facts.context_length} rows each"),
        ("output", f"{facts.num_labels} labels, {frame}"),
    ]


def _layers(facts: "Manifest") -> str:
    heads = f"{facts.num_attention_heads} heads of {facts.head_dim}"
    return f"hidden {facts.hidden_size}, {facts.num_hidden_layers} layers, {heads}"
