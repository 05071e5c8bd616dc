"""Constant-energy dynamics of a molecule in OpenMM with a model.pt, and how well its energy is conserved.

python examples/openmm/nve_molecule.py model.pt molecule.xyz [steps]
"""

from __future__ import annotations

import sys

from ase.io import read

from mindscaip.data.structure import Structure
from mindscaip.engines.openmm import run_nve
from mindscaip.errors import MindscaipError
from mindscaip.studies.nve import initial_velocities


def main(model: str, file: str, steps: int = 2000) -> None:
    """300 K, 0.5 fs: print the total energy along the run and its drift per atom."""
    structure = Structure.from_ase(read(file))
    velocities = initial_velocities(structure, 300.0, seed=0)
    record = run_nve(model, structure, velocities, 0.5, steps, every=max(1, steps // 10))
    for time, kelvin, total in zip(record.time_fs, record.temperature, record.total_eV, strict=True):
        print(f"{time:10.1f} fs  {kelvin:7.1f} K  {total:16.8f} eV")
    drift = 1000 * (record.total_eV[-1] - record.total_eV[0]) / len(structure)
    print(f"{record.engine}: energy drift {drift:.5f} meV/atom over {record.time_fs[-1] / 1000:g} ps")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
    except MindscaipError as error:
        sys.exit(f"error: {error}")
