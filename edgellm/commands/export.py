"""Turn a checkpoint into a bundle: integers only, with golden cases to verify it by anywhere."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.commands._generation import positive
from edgellm.commands._output import (
    human_bytes,
    note,
    progress_bar,
    write,
    write_json,
    write_pairs,
    write_table,
)
from edgellm.errors import ConfigError

if TYPE_CHECKING:
    from edgellm.api import Quantization

HELP = "turn a checkpoint into a bundle"
EXAMPLE = "edgellm export path/to/checkpoint -o bundle"

TRY = {
    "text-generation": 'run {} -p "..."',
    "image-classification": "classify {} --image FILE",
    "sentence-embedding": "embed {} --text TEXT",
}
"""What to do with a bundle, by its task."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("source", nargs="?", metavar="SRC",
        help="directory in the layout of Hugging Face, or a name such as org/model")  # fmt: skip
    source.add_argument("--random", type=Path, metavar="CONFIG_JSON",
        help="no checkpoint: random weights of this config's shape, for benchmarks")  # fmt: skip
    add = parser.add_argument
    add("-o", "--output", type=Path, metavar="OUT", help="the bundle's directory")
    add("--dry-run", action="store_true",
        help="with --budget: say what would be chosen, and why; write nothing")  # fmt: skip
    add("--context", type=positive, metavar="N",
        help="most tokens of a text; default: the model's own, up to 4096")  # fmt: skip
    add("--quant", metavar="SCHEME",
        help="of the linears of a float checkpoint: int8; w2a8 to w8a8, with a scale and a zero "
        "point a group; shiftadd, sums of powers of two; codebook, any levels; trellis, codes that "
        "overlap, which lose least of all but take longer to find and to run")  # fmt: skip
    add("--bits", type=float, metavar="N",
        help="of shiftadd, 1 to 4, codebook, 2 to 4, and trellis, 1.5 to 4, whole or not; "
        "default 3")  # fmt: skip
    add("--group-size", type=group_size, metavar="N",
        help="columns with a scale of their own, times 8, or 'row'; default 128; of codebook, with "
        "levels of their own, times 64; default 128, 256, 512 for 2, 3, 4 bits")  # fmt: skip
    add("--outliers", type=share, default=0.0, metavar="SHARE",
        help="of codebook: weights stored apart, such as 0.45%%; default none")  # fmt: skip
    add("--budget", type=float, metavar="BITS",
        help="bits a weight of all linears together, with scales: each linear, and each block of "
        "its rows, gets those that serve best; with --quant group, shiftadd, codebook, trellis, or "
        "auto for all (the default)")  # fmt: skip
    add("--no-refine", action="store_true",
        help="of --budget: do not check by evolution, which models of more than 32 million weights "
        "never are")  # fmt: skip
    add("--tune", type=positive, default=0, metavar="STEPS",
        help="of --quant and --budget: tune all codes together by gradients from the model's "
        "answers on --calib; for up to 32 million weights")  # fmt: skip
    add("--calib", type=Path, metavar="FILE",
        help="to calibrate on: text like those that the model will read, UTF-8 or .gz; images of a "
        "classifier; default: a small built-in text, which is short for --quant")  # fmt: skip
    add("--arithmetic", choices=("sound", "ivit"), default="sound",
        help="of encoders: sound, or ivit as I-ViT published it, which --calib is needed for: a "
        "folder of images, an IDX or .npz file, or sentences, a line each")  # fmt: skip
    add("--calib-range", choices=("minmax", "percentile", "mse"), default="mse",
        help="of --arithmetic ivit: where values are clipped; default: mse")  # fmt: skip
    add("--smooth", choices=("auto", "on", "off"), default="auto",
        help="scale channels by powers of two where int8 activations then lose less on the inputs "
        "of --calib; auto: of int8 exports with --calib")  # fmt: skip
    add("--layout", default="2bit", metavar="L",
        help="of ternary weights: 2bit; 5trit (smaller; for AVX-512 VBMI); lookup (AVX2, and Arm "
        "without dot products). up_proj and down_proj of squared ReLU, and with lookup what has no "
        "multiple of 64 outputs, keep two bits. edgellm doctor says which suits a machine; another "
        "is packed again at load")  # fmt: skip
    add("--head-bits", type=int, choices=(8, 4), default=8,
        help="of a weight of the logits head; default 8. 4 halves what a token reads of it, and "
        "loses against the checkpoint. A tied embedding stays at 8: two tables then")  # fmt: skip
    add("--kv-bits", type=int, choices=(8, 4), default=8,
        help="of a number in the key/value cache; default 8. 4 halves the cache and what long "
        "texts read of it, and loses; for heads of a multiple of 64 columns")  # fmt: skip
    add("--revision", metavar="R", help="version to download: branch, tag or commit")
    add("--force", action="store_true", help="replace OUT if it is a bundle")
    add("--json", action="store_true", help="one object: the bundle's manifest")


def group_size(text: str) -> int:
    """Read a group size; "row" is 0."""
    return 0 if text == "row" else positive(text)


def share(text: str) -> float:
    """Read a share: 0.45% or 0.0045."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no share such as 0.45%") from error


def run(options: argparse.Namespace) -> int:
    """Export."""
    from edgellm import api

    _check(options)
    chosen = _quantization(options)
    if options.dry_run:
        return _plan(options, chosen)
    with progress_bar(options, "exporting", "weight") as advance:
        done = 0

        def progress(now: int, _total: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        if options.random:
            bundle = api.export_random(
                options.random,
                options.output,
                context=options.context,
                quantization=chosen,
                layout=options.layout,
                head_bits=options.head_bits,
                kv_bits=options.kv_bits,
                arithmetic=options.arithmetic,
                calibration_range=options.calib_range,
                force=options.force,
                progress=progress,
            )
        else:
            bundle = api.export(
                options.source,
                options.output,
                context=options.context,
                revision=options.revision,
                calibration=options.calib,
                smooth=options.smooth,
                quantization=chosen,
                layout=options.layout,
                head_bits=options.head_bits,
                kv_bits=options.kv_bits,
                arithmetic=options.arithmetic,
                calibration_range=options.calib_range,
                force=options.force,
                progress=progress,
            )
    manifest = bundle.manifest
    if options.json:
        write_json(manifest)
    size = sum(entry.size for entry in manifest.files.values())
    note(
        options,
        f"{options.output}: {manifest.model_type}, {manifest.num_parameters:,} parameters, "
        f"{manifest.quantization}, {manifest.bits_per_weight:.2f} bits a weight with embeddings, "
        f"{human_bytes(size)}; try: edgellm {TRY[manifest.task].format(options.output)}",
    )
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.random and options.calib:
        raise ConfigError("--calib needs a checkpoint: random weights are not calibrated")
    if options.random and options.revision:
        raise ConfigError("--revision needs a checkpoint to download: random weights have none")
    if options.dry_run and (options.random or options.budget is None):
        raise ConfigError("--dry-run needs a checkpoint and --budget: else nothing is chosen")
    if options.output is None and not options.dry_run:
        raise ConfigError("-o OUT is missing: where to write the bundle")


def _quantization(options: argparse.Namespace) -> "Quantization | None":
    from edgellm import api

    quant = options.quant or ("int8" if options.budget is None else "auto")
    if quant != "int8":
        return api.Quantization(
            name=quant,
            bits=options.bits,
            group_size=options.group_size,
            outliers=options.outliers,
            budget=options.budget,
            refine=not options.no_refine,
            tune=options.tune,
        )
    if options.bits is not None or options.budget is not None or options.outliers or options.tune:
        raise ConfigError(
            "--bits, --budget, --outliers and --tune do not belong to --quant int8, which is the "
            "default; choose another --quant"
        )
    return None


def _plan(options: argparse.Namespace, chosen: "Quantization | None") -> int:
    """Show what would be chosen, beside what each scheme alone would take and lose."""
    from edgellm import api

    if chosen is None:
        raise ConfigError("--dry-run needs --quant group, shiftadd, codebook, trellis or auto")
    plan = api.plan_export(
        options.source, chosen, calibration=options.calib, revision=options.revision
    )
    if options.json:
        write_json(plan)
        return 0
    schemes = [
        (one.scheme, f"{one.bits_per_weight:.3f}", f"{one.loss:.4f}", one.linears)
        for one in plan.schemes
    ]
    write_table([("scheme of all", "bits", "expected loss", "linears that get it"), *schemes])
    write()
    linears = [
        (one.path, one.scheme, f"{one.bits_per_weight:.3f}", f"{one.loss:.5f}")
        for one in plan.linears
    ]
    write_table([("linear", "scheme", "bits", "loss by it alone"), *linears])
    write()
    write_pairs(
        [
            ("bits a weight", f"{plan.bits_per_weight:.3f}"),
            ("all weights", human_bytes(plan.weight_bytes)),
            ("expected loss", f"{plan.loss:.4f}"),
            ("tokens/s", f"{plan.tokens_per_second:.0f} at most, by the bandwidth of the memory"),
        ]
    )
    return 0
