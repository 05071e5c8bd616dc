"""Three-dimensional geometries of molecules given as SMILES or SDF (RDKit: distance geometry, then a force field).

What comes out is a starting point: relax it with the reference calculator before anything is measured on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError

MAX_FORCE_FIELD_STEPS = 2000
SDF_SUFFIXES = (".sdf", ".sd", ".mol")
RECORD_END = "$$$$"


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
    positions = embed_molecule(molecule, seed, f"SMILES {smiles!r}")
    return Structure(numbers=atomic_numbers_of(molecule), positions=positions, group=smiles)


def embed_molecule(molecule: Any, seed: int, name: str) -> np.ndarray:
    """Positions in A, ``[n, 3]``, for an RDKit molecule with explicit hydrogens; ``name`` is for errors.

    Raises:
        MindscaipError: RDKit finds no geometry.
    """
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    if molecule.GetNumAtoms() == 1:
        return np.zeros((1, 3))
    _, rdBase = _rdkit("geometries")
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    with rdBase.BlockLogs():  # a force field that lacks an element says so on stderr
        if rdDistGeom.EmbedMolecule(molecule, parameters) != 0:
            # Random starting coordinates help with crowded cages, at the price of some speed.
            parameters.useRandomCoords = True
            if rdDistGeom.EmbedMolecule(molecule, parameters) != 0:
                raise MindscaipError(f"RDKit finds no geometry for {name}; give a structure file instead")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
            rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=MAX_FORCE_FIELD_STEPS)
        elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
            rdForceFieldHelpers.UFFOptimizeMolecule(molecule, maxIters=MAX_FORCE_FIELD_STEPS)
    return np.asarray(molecule.GetConformer().GetPositions(), dtype=np.float64)


def atomic_numbers_of(molecule: Any) -> np.ndarray:
    """Atomic numbers of an RDKit molecule, int64 ``[n]``."""
    return np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()], dtype=np.int64)


def bonds_of(molecule: Any) -> tuple[tuple[int, int], ...]:
    """The bonds of an RDKit molecule as pairs of atoms."""
    return tuple((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds())


def molecule_from_smiles(smiles: str) -> Any:
    """Parse ``smiles`` into an RDKit molecule with explicit hydrogens, refusing what a ``Structure`` cannot hold.

    Raises:
        MindscaipError: as :func:`embed_smiles`; also when RDKit is not installed.
    """
    Chem, rdBase = _rdkit("SMILES")
    if not smiles.strip():
        raise MindscaipError("an empty SMILES was given; give a molecule such as 'CCO'")
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise MindscaipError(f"{smiles!r} is not a SMILES that RDKit understands; check brackets, rings and valences")
    molecule = Chem.AddHs(molecule)
    if molecule.GetNumAtoms() == 0:
        raise MindscaipError("an empty SMILES was given; give a molecule such as 'CCO'")
    check_molecule(molecule, f"SMILES {smiles!r}")
    return molecule


def check_molecule(molecule: Any, name: str) -> None:
    """Refuse what a ``Structure`` cannot hold.

    Raises:
        MindscaipError: several molecules, a charge, unpaired electrons, a wildcard.
    """
    Chem, _ = _rdkit("SMILES")
    pieces = len(Chem.GetMolFrags(molecule))
    if pieces > 1:
        raise MindscaipError(f"{name} holds {pieces} molecules; give them one by one")
    charge = Chem.GetFormalCharge(molecule)
    if charge != 0:
        raise MindscaipError(f"{name} has charge {charge:+d}; only neutral molecules can be labelled")
    radicals = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    if radicals:
        raise MindscaipError(f"{name} has {radicals} unpaired electrons; only closed shells can be labelled")
    if any(atom.GetAtomicNum() == 0 for atom in molecule.GetAtoms()):
        raise MindscaipError(f"{name} has the wildcard '*' in place of an element; write the element")


def read_sdf(path: Path) -> Iterator[tuple[str, Any | MindscaipError]]:
    """The records of an SDF or MOL file: name (``file.sdf#1 title``), and RDKit molecule or what is wrong with it.

    Hydrogens are explicit in what comes out. Where a record has three-dimensional coordinates they are kept (hydrogens
    that were left out are placed by their bonds); others have no conformer.

    Raises:
        MindscaipError: RDKit is not installed; no record at all.
    """
    Chem, rdBase = _rdkit("SDF files")
    text = path.read_text(encoding="utf-8", errors="replace")
    # Split here and not by RDKit: after a damaged record its reader may lose the next one.
    blocks = [block for block in text.split(f"{RECORD_END}\n") if block.strip() not in ("", RECORD_END)]
    if not blocks:
        raise MindscaipError(f"{path} holds no record; an SDF file has one per molecule, each ending in {RECORD_END}")
    for number, block in enumerate(blocks, start=1):
        title = block.splitlines()[0].strip()
        name = f"{path.name}#{number}" + (f" {title}" if title else "")
        with rdBase.BlockLogs():
            molecule = Chem.MolFromMolBlock(block, removeHs=False)
        if molecule is None or molecule.GetNumAtoms() == 0:
            yield name, MindscaipError(f"{name}: RDKit cannot read this record; check its atoms, bonds and valences")
            continue
        spatial = molecule.GetNumConformers() > 0 and molecule.GetConformer().Is3D()
        molecule = Chem.AddHs(molecule, addCoords=spatial)
        if not spatial:
            molecule.RemoveAllConformers()
        try:
            check_molecule(molecule, name)
        except MindscaipError as error:
            yield name, error
            continue
        yield name, molecule


def _rdkit(what: str) -> tuple[Any, Any]:
    try:
        from rdkit import Chem, rdBase
    except ImportError:
        raise MindscaipError(
            f"{what} need RDKit, which is not installed; run: pip install 'mindscaip[label]'"
        ) from None
    return Chem, rdBase
