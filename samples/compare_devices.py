"""Ask several simulated devices what a model costs on them, and find a better design of one.

Nothing is measured: the figures come from the devices' descriptions (`edgellm devices NAME`).
"""

import argparse

from edgellm import api, sweep
from edgellm.devices._simulation import Request

DEVICES = ("raspberry-pi-5", "snapdragon-8-gen-3", "i7-13700h", "mixpe")


def compare(subject: api.Subject, request: Request) -> None:
    """Print a line for each device."""
    print(f"{subject.shape}, {request.prompt} + {request.new} tokens, simulated")
    for name in DEVICES:
        result = api.simulate(subject, name, request)
        left_out = f", without {', '.join(result.uncounted)}" if result.uncounted else ""
        print(
            f"{name:20} first token {result.time_to_first_token_s:6.2f} s, "
            f"{result.tokens_per_s:6.1f} tokens/s, "
            f"{result.joules_per_token:6.3f} J a token{left_out}"
        )


def explore(subject: api.Subject, request: Request) -> None:
    """Print the designs of MixPE that nothing beats."""
    settings = ("array.n=32,64,128,256", "memory.bw_gbs=32,64,128")
    jobs = [
        sweep.Job(subject=subject, device="mixpe", request=request, changes=changes)
        for changes in sweep.combinations(settings)
    ]
    print(f"--- {len(jobs)} designs of mixpe; those of the Pareto front:")
    for design in sweep.sweep(jobs, processes=1):
        if design.pareto:
            print(f"{' '.join(design.changes):40} {design.tokens_per_s:6.1f} tokens/s")


def main() -> None:
    """Run the sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="bitnet-2b-4t", help="a published model")
    parser.add_argument("--precision", default="w2a8", help="bits of weights and activations")
    options = parser.parse_args()
    subject = api.Subject(shape=options.shape, precision=options.precision)
    request = Request(prompt=64, new=64)
    compare(subject, request)
    explore(subject, request)


if __name__ == "__main__":
    main()
