"""Three-dimensional geometries of molecules given as SMILES (RDKit: distance geometry, then a force field).

What comes out is a starting point: relax it with the reference calculator before anything is measured on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError

MAX_FORCE_FIELD_STEPS = 2000


def embed_smiles(smiles: str, seed: int = 0) -> Structure:
    """One conformer of a molecule, hydrogens added; the same ``smiles`` and ``seed`` give the same geometry.

    Atoms stand in the order of RDKit: heavy atoms as written in ``smiles``, then the hydrogens. The coordinates come
    from ETKDG (version 3), improved with MMFF94, or with UFF where MMFF94 lacks parameters. A single atom is put on
    the origin.

    Args:
        smiles: one molecule, such as ``"CCO"``; ``group`` of the result is this string as given.
        seed: seed of the embedding, 0 or larger.

    Raises:
        MindscaipError: the string is empty or not SMILES, holds several molecules, unpaired electrons or a net charge
            (neither travels with a :class:`~mindscaip.data.structure.Structure`), or RDKit finds no geometry.
    """
    molecule = molecule_from_smiles(smiles)
    if seed < 0:
        raise MindscaipError(f"seed {seed} is negative; give 0 or larger")
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    if molecule.GetNumAtoms() > 1:
        parameters: Any = rdDistGeom.ETKDGv3()
        parameters.randomSeed = seed
        if rdDistGeom.EmbedMolecule(molecule, parameters) != 0:
            # Random starting coordinates help with crowded cages, at the price of some speed.
            parameters.useRandomCoords = True
            if rdDistGeom.EmbedMolecule(molecule, parameters) != 0:
                raise MindscaipError(f"RDKit finds no geometry for SMILES {smiles!r}; give a structure file instead")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
            rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=MAX_FORCE_FIELD_STEPS)
        elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
            rdForceFieldHelpers.UFFOptimizeMolecule(molecule, maxIters=MAX_FORCE_FIELD_STEPS)
        positions = np.asarray(molecule.GetConformer().GetPositions(), dtype=np.float64)
    else:
        positions = np.zeros((1, 3))
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.int64)
    return Structure(numbers=numbers, positions=positions, group=smiles)


def molecule_from_smiles(smiles: str) -> Any:
    """Parse ``smiles`` into an RDKit molecule with explicit hydrogens, refusing what a ``Structure`` cannot hold.

    Raises:
        MindscaipError: as :func:`embed_smiles`; also when RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
    except ImportError:
        raise MindscaipError("SMILES need RDKit, which is not installed; run: pip install 'mindscaip[label]'") from None

    if not smiles.strip():
        raise MindscaipError("an empty SMILES was given; give a molecule such as 'CCO'")
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise MindscaipError(f"{smiles!r} is not a SMILES that RDKit understands; check brackets, rings and valences")
    molecule = Chem.AddHs(molecule)
    if molecule.GetNumAtoms() == 0:
        raise MindscaipError("an empty SMILES was given; give a molecule such as 'CCO'")
    pieces = len(Chem.GetMolFrags(molecule))
    if pieces > 1:
        raise MindscaipError(f"SMILES {smiles!r} holds {pieces} molecules; give them one by one")
    charge = Chem.GetFormalCharge(molecule)
    if charge != 0:
        raise MindscaipError(f"SMILES {smiles!r} has charge {charge:+d}; only neutral molecules can be labelled")
    radicals = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    if radicals:
        raise MindscaipError(f"SMILES {smiles!r} has {radicals} unpaired electrons; only closed shells can be labelled")
    wild = [atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetAtomicNum() == 0]
    if wild:
        raise MindscaipError(f"SMILES {smiles!r} has the wildcard '*' in place of an element; write the element")
    return molecule
