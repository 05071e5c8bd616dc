"""What is needed to draw the molecule of a scan: its frames, its bonds, and the structural formula of its SMILES."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import chemical_symbols, covalent_radii

from mindscaip.bsct.dataset import Scan

BOND_FACTOR = 1.25
"""Atoms closer than this times the sum of their covalent radii are drawn as bonded."""


@dataclass(frozen=True)
class Sketch:
    """A structural formula, hydrogen atoms on carbon left out.

    Attributes:
        atoms: for each atom ``(x, y, label)`` in bond lengths, the label empty for a carbon atom in a chain or ring.
        bonds: for each bond ``(first, second, order, scanned)``.
        smiles: short, without hydrogen atoms and map numbers.
    """

    atoms: list[tuple[float, float, str]] = field(default_factory=list)
    bonds: list[tuple[int, int, int, bool]] = field(default_factory=list)
    smiles: str = ""


@dataclass(frozen=True)
class Drawing:
    """The molecule of a scan.

    Attributes:
        numbers: atomic numbers ``[n]``.
        first, last: A, ``[n, 3]``, the frames of the shortest and longest bond, about their common centre; the frames
            between stand on straight lines.
        bonds: pairs of atoms, the scanned bond left out.
        bond_index: the scanned bond.
        sketch: from the SMILES; None when there is none, it does not fit the atoms, or RDKit is not installed.
    """

    numbers: np.ndarray
    first: np.ndarray
    last: np.ndarray
    bonds: list[tuple[int, int]]
    bond_index: tuple[int, int]
    sketch: Sketch | None


def draw_molecule(scan: Scan, frame: int) -> Drawing:
    """Prepare the drawing of a scan; bonds are those of the unperturbed geometry, or of ``frame`` without one."""
    positions = scan.positions[frame] if scan.positions0 is None else scan.positions0
    radii = covalent_radii[scan.numbers]
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    first, second = np.nonzero(np.triu(distance < BOND_FACTOR * (radii[:, None] + radii[None]), 1))
    ends = scan.bond_index
    bonds = [(i, j) for i, j in zip(first.tolist(), second.tolist(), strict=True) if {i, j} != set(ends)]
    centre = 0.5 * (scan.positions[0] + scan.positions[-1]).mean(axis=0)
    return Drawing(
        numbers=scan.numbers,
        first=scan.positions[0] - centre,
        last=scan.positions[-1] - centre,
        bonds=bonds,
        bond_index=ends,
        sketch=sketch(scan.smiles, scan.numbers, [*bonds, ends], ends),
    )


def sketch(
    smiles: str, numbers: np.ndarray, bonds: list[tuple[int, int]], bond_index: tuple[int, int]
) -> Sketch | None:
    """The structural formula of ``smiles`` with the scanned bond found in it.

    Atom ``i`` of the scan is the one with map number ``i + 1`` when every atom has one (as in SPICE); otherwise the
    SMILES is laid over the bonds of the geometry.

    Returns:
        None when RDKit is absent, or the SMILES cannot be read or is not this molecule.
    """
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import rdDepictor
    except ImportError:
        return None
    if not smiles:
        return None
    with rdBase.BlockLogs():
        parser: Any = Chem.SmilesParserParams()
        parser.removeHs = False
        molecule = Chem.MolFromSmiles(smiles, parser)
        if molecule is None:
            return None
        molecule = Chem.AddHs(molecule)
        places = _places(molecule, numbers, bonds)
        if places is None:
            return None
        for atom, place in zip(molecule.GetAtoms(), places, strict=True):
            atom.SetAtomMapNum(0)
            atom.SetIntProp("place", place)
        shown = Chem.RemoveHs(molecule)
        plain = Chem.MolToSmiles(shown)
        Chem.Kekulize(shown, clearAromaticFlags=True)
        rdDepictor.SetPreferCoordGen(False)
        rdDepictor.Compute2DCoords(shown, canonOrient=True)
    where = [atom.GetIntProp("place") for atom in shown.GetAtoms()]
    if not set(bond_index) <= set(where):
        return None
    layout = np.asarray(shown.GetConformer().GetPositions())[:, :2] / 1.5
    return Sketch(
        atoms=[(float(x), float(y), _label(atom)) for (x, y), atom in zip(layout, shown.GetAtoms(), strict=True)],
        bonds=[
            (
                bond.GetBeginAtomIdx(),
                bond.GetEndAtomIdx(),
                round(bond.GetBondTypeAsDouble()),
                {where[bond.GetBeginAtomIdx()], where[bond.GetEndAtomIdx()]} == set(bond_index),
            )
            for bond in shown.GetBonds()
        ],
        smiles=plain,
    )


def _places(molecule: Any, numbers: np.ndarray, bonds: list[tuple[int, int]]) -> list[int] | None:
    """For each atom of the RDKit molecule its number in the scan; None when it is another molecule."""
    from rdkit import Chem

    if molecule.GetNumAtoms() != len(numbers):
        return None
    maps = [atom.GetAtomMapNum() - 1 for atom in molecule.GetAtoms()]
    if sorted(maps) == list(range(len(numbers))):
        same = all(atom.GetAtomicNum() == numbers[i] for atom, i in zip(molecule.GetAtoms(), maps, strict=True))
        return maps if same else None
    graph = Chem.RWMol()
    for number in numbers:
        graph.AddAtom(Chem.Atom(int(number)))
    for i, j in bonds:
        graph.AddBond(i, j, Chem.BondType.SINGLE)
    pattern = Chem.RWMol()  # elements and neighbours only: geometry knows no bond orders
    for atom in molecule.GetAtoms():
        pattern.AddAtom(Chem.Atom(atom.GetAtomicNum()))
    for bond in molecule.GetBonds():
        pattern.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), Chem.BondType.SINGLE)
    match = graph.GetSubstructMatch(pattern)
    return list(match) or None


def _label(atom: Any) -> str:
    """Element, hydrogen atoms and charge; a carbon atom with neighbours has no label."""
    symbol = chemical_symbols[atom.GetAtomicNum()]
    charge = atom.GetFormalCharge()
    if symbol == "C" and charge == 0 and atom.GetDegree() > 0 and atom.GetNumRadicalElectrons() == 0:
        return ""
    hydrogens = atom.GetTotalNumHs()
    sign = "" if charge == 0 else ("+" if charge > 0 else "−") if abs(charge) == 1 else f"{charge:+d}".replace("-", "−")
    return symbol + ("" if hydrogens == 0 else "H" if hydrogens == 1 else f"H{hydrogens}") + sign
