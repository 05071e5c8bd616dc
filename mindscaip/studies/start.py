"""Where a study starts: a structure file or a SMILES string."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms
from ase.io import read
from ase.io.formats import UnknownFileTypeError

from mindscaip.data.molecules import embed_smiles
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError


def read_start(text: str, seed: int = 0) -> Structure:
    """The first frame of a structure file (any format of ASE), or an embedded SMILES.

    Raises:
        MindscaipError: neither a readable file nor a SMILES.
    """
    path = Path(text)
    if path.is_file():
        try:
            atoms = read(path, index=0)
        except (UnknownFileTypeError, ValueError, IndexError, KeyError, OSError, StopIteration) as error:
            raise MindscaipError(f"{path}: ASE cannot read a structure from it ({error})") from None
        assert isinstance(atoms, Atoms)  # one frame was asked for
        atoms.calc = None
        return Structure.from_ase(atoms, group=path.stem)
    if path.suffix in (".xyz", ".extxyz", ".cif", ".pdb", ".vasp", ".traj"):
        raise MindscaipError(f"{path}: no such structure file")
    return embed_smiles(text, seed)
