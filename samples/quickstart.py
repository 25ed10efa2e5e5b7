"""Load a bundle, generate, stream and chat through the Python API.

Without a bundle of yours it exports the embedded checkpoint first.
"""

import argparse
import tempfile
from pathlib import Path

import edgellm

CHECKPOINT = Path(__file__).resolve().parent / "stories-bitnet"


def tell(bundle: Path, tokens: int) -> None:
    """Show the three ways to get text out of a bundle."""
    with edgellm.load(bundle, threads=2) as model:
        print("--- generate: the whole text at once")
        print(model.generate("Once upon a time", max_tokens=tokens, temperature=0))

        print("--- stream: piece by piece, as it is written")
        last = None
        for chunk in model.stream("The little dog", max_tokens=tokens, temperature=0.7, seed=1):
            print(chunk.text, end="", flush=True)
            last = chunk
        print()
        if last is not None and last.stats is not None:
            print(f"    {last.stats.generation_tps:.0f} tokens/s, ended by {last.finish_reason}")

        print("--- chat: messages through the chat template")
        messages = [{"role": "user", "content": "Tell me about a cat who found a ball."}]
        print(model.chat(messages, max_tokens=tokens, temperature=0))


def main() -> None:
    """Run the sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", type=Path, help="bundle (default: export a small one)")
    parser.add_argument("-n", "--tokens", type=int, default=48, help="tokens of each text")
    options = parser.parse_args()
    if options.bundle is not None:
        tell(options.bundle, options.tokens)
        return
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "stories"
        edgellm.export(CHECKPOINT, bundle)
        tell(bundle, options.tokens)


if __name__ == "__main__":
    main()
