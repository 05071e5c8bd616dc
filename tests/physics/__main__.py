"""``python -m tests.physics MODEL.pt [--quick]``: the whole suite on one exported potential, as a table."""

from __future__ import annotations

import argparse
import sys

import torch

from tests.physics.checks import CHECKS, continuity
from tests.physics.detector import TOLERANCES
from tests.physics.paths import all_paths
from tests.physics.potentials import exported


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.physics", description=__doc__)
    parser.add_argument("model", help="a model.pt; float64 (mindscaip export --dtype float64) shows most")
    parser.add_argument("--quick", action="store_true", help="shorter random paths")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    potential = exported(arguments.model)
    failed = 0
    for check in CHECKS:
        for figure in check(potential):
            failed += not figure.passed
            print(figure, flush=True)
    print("jumps of derivatives 0 to 4 along paths, relative to the derivative; allowed", *TOLERANCES)
    for path in all_paths(potential, quick=arguments.quick):
        result = continuity(potential, path)
        failed += not result.smooth
        print(f"{path.name}: {'smooth' if result.smooth else 'NOT SMOOTH'}: {result}", flush=True)
    print("all passed" if failed == 0 else f"{failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
