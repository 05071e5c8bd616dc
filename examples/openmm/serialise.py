"""Write system.xml and state.xml of a molecule with a model.pt, to run where mindscaip is not installed.

python examples/openmm/serialise.py model.pt molecule.xyz [folder]

Then ``run_elsewhere.py`` (Python with torch, openmm and openmmtorch) or ``mindscaip_run`` (C++, plugins/openmm).
"""

from __future__ import annotations

import sys
from pathlib import Path

import openmm
from ase.io import read
from openmm import unit

from mindscaip.data.structure import Structure
from mindscaip.engines.openmm import create_system, read_system, write_system
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path
from mindscaip.units import ANGSTROM_TO_NM


def main(model: str, file: str, folder: str = ".") -> None:
    """300 K velocities; checks that what was written holds this very model."""
    structure = Structure.from_ase(read(file))
    # TorchForce by name: with the other backend the file would need mindscaip.
    system = create_system(structure.numbers, model, backend="torch")
    context = openmm.Context(system, openmm.VerletIntegrator(0.0005), openmm.Platform.getPlatformByName("CPU"))
    context.setPositions(structure.positions * ANGSTROM_TO_NM)
    context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    write_system(system, place / "system.xml")
    with atomic_path(place / "state.xml") as temporary:
        temporary.write_text(openmm.XmlSerializer.serialize(context.getState(positions=True, velocities=True)))
    read_system(place / "system.xml", model)
    print(f"wrote {place / 'system.xml'} and {place / 'state.xml'}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except MindscaipError as error:
        sys.exit(f"error: {error}")
