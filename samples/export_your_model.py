"""Export a checkpoint, look at the bundle, and prove it before it goes to a device.

The checkpoint is a Hugging Face directory: config.json, *.safetensors, tokenizer.json.
"""

import argparse
from pathlib import Path

import edgellm

CHECKPOINT = Path(__file__).resolve().parent / "stories-bitnet"


def main() -> None:
    """Export, describe, verify."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", type=Path, default=CHECKPOINT)
    parser.add_argument("bundle", nargs="?", type=Path, default=Path("build/exported"))
    parser.add_argument("--force", action="store_true", help="replace the bundle if it exists")
    options = parser.parse_args()

    bundle = edgellm.export(options.checkpoint, options.bundle, force=options.force)
    facts = bundle.manifest
    print(f"{facts.model_type}: {facts.num_parameters:,} parameters")
    print(f"{facts.bits_per_weight:.2f} bits a weight")
    print(f"{facts.cache_bytes_per_token} bytes of key/value cache a token")

    report = edgellm.verify(options.bundle)
    for check in report.checks:
        print(f"verified: {check.name} ({check.detail})")


if __name__ == "__main__":
    main()
