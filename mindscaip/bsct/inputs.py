"""Molecules to build scans of: SMILES, lists of SMILES, SDF, extended XYZ, stores, other scans, whatever ASE reads.

What cannot be used is put on record with its reason and the rest goes on. Bonds come from the SMILES or SDF; a geometry
without bonds gets them by :func:`~mindscaip.bsct.bridges.perceive_bonds`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.symbols import Symbols

from mindscaip.bsct.bridges import count_pieces, perceive_bonds
from mindscaip.bsct.dataset import HDF5_SUFFIXES, open_scans, read_scans
from mindscaip.data.formats import STORE_SUFFIXES, XYZ_SUFFIXES, read_structures
from mindscaip.data.molecules import (
    SDF_SUFFIXES,
    atomic_numbers_of,
    bonds_of,
    embed_molecule,
    molecule_from_smiles,
    read_sdf,
)
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError

SMILES_SUFFIXES = (".smi", ".smiles")
OTHER_SUFFIXES = (".pdb", ".mol2", ".cif", ".gen", ".traj", ".json", ".csv", ".txt", ".inp", ".log")
"""What looks like a file, besides what is read here: a missing one is not mistaken for SMILES."""


@dataclass(frozen=True)
class Source:
    """One molecule of the input.

    Attributes:
        name: for records and errors: the SMILES as given, or file and number.
        numbers: atomic numbers, ``[n]``.
        positions: the given geometry in A, ``[n, 3]``; None for SMILES and flat SDF records.
        bonds: pairs of atoms.
        smiles: where the molecule was given as SMILES, or where a scan says so.
        scan: of a molecule taken from a scan, the bond type, the id, and the two atoms of the one bond to scan.
        subset: of a molecule taken from a scan, its subset.
        block: the molecule in RDKit's form, to find a geometry for; empty where there is one.
    """

    name: str
    numbers: np.ndarray
    positions: np.ndarray | None
    bonds: tuple[tuple[int, int], ...]
    smiles: str = ""
    scan: tuple[str, str, tuple[int, int]] | None = None
    subset: str = ""
    block: bytes = b""

    @property
    def formula(self) -> str:
        return Symbols(self.numbers).get_chemical_formula()

    def geometry(self, seed: int) -> np.ndarray:
        """The given geometry, or one from RDKit with this seed; A, ``[n, 3]``.

        Raises:
            MindscaipError: RDKit finds no geometry.
        """
        if self.positions is not None:
            return self.positions
        from rdkit import Chem

        binary: Any = self.block
        return embed_molecule(Chem.Mol(binary), seed, self.name)

    def identity(self, seed: int) -> str:
        """Eight letters that change with the molecule, its geometry and, where one must be found, the seed."""
        if self.positions is None:
            text = f"{self.smiles or self.name} {seed}"
            return hashlib.sha256(text.encode()).hexdigest()[:8]
        digest = hashlib.sha256(np.asarray(self.numbers, np.int64).tobytes())
        digest.update(np.ascontiguousarray(self.positions).tobytes())
        digest.update(repr(self.scan).encode())
        return digest.hexdigest()[:8]


def read_sources(inputs: Sequence[str]) -> tuple[list[Source], list[tuple[str, str]]]:
    """Read every input; return the molecules, each once, and name and reason of what cannot be used.

    Args:
        inputs: SMILES; files: ``.smi`` (a SMILES per line), ``.sdf``/``.mol``, ``.xyz``/``.extxyz``, ``.h5`` (a store,
            or scans, of which the unperturbed geometry and the bond are taken), others through ASE; a folder of
            scans; ``FILE:BOND/ID`` for one scan of many.

    Raises:
        MindscaipError: nothing was given, or a file that was named does not exist.
    """
    sources: dict[str, Source] = {}
    failed: list[tuple[str, str]] = []
    for text in inputs:
        try:
            for source in _read(text, lambda name, reason: failed.append((name, reason))):
                sources.setdefault(source.identity(0), source)
        except _MissingFileError:
            raise
        except MindscaipError as error:
            failed.append((text, str(error)))
    if not inputs:
        raise MindscaipError("no molecule was given; give at least one SMILES such as CCO, or a file")
    return list(sources.values()), failed


class _MissingFileError(MindscaipError):
    """A file that was named does not exist: a slip of the whole command, not of one molecule."""


def _is_there(text: str) -> bool:
    """Whether there is a file or folder of this name; a long SMILES or one with odd characters cannot be a name."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def _read(text: str, fail: Callable[[str, str], None]) -> Iterator[Source]:
    path = Path(text)
    file, colon, key = text.rpartition(":")
    if colon and "/" in key and _is_there(file):
        yield _from_scan(Path(file), key)
        return
    suffix = path.suffix.lower()
    if not _is_there(text):
        known = (*SMILES_SUFFIXES, *SDF_SUFFIXES, *XYZ_SUFFIXES, *STORE_SUFFIXES, *OTHER_SUFFIXES)
        if suffix in known:
            raise _MissingFileError(f"{text} does not exist; give a SMILES or the path of a file")
        yield _from_smiles(text)
    elif path.is_dir():
        yield from _from_scans(path, fail)
    elif suffix in SMILES_SUFFIXES:
        yield from _from_smi(path, fail)
    elif suffix in SDF_SUFFIXES:
        yield from _from_sdf(path, fail)
    elif suffix in HDF5_SUFFIXES and not _is_store(path):
        yield from _from_scans(path, fail)
    else:
        yield from _from_structures(path, suffix, fail)


def _from_smiles(smiles: str) -> Source:
    molecule = molecule_from_smiles(smiles)
    return Source(
        name=smiles,
        numbers=atomic_numbers_of(molecule),
        positions=None,
        bonds=bonds_of(molecule),
        smiles=smiles,
        block=molecule.ToBinary(),
    )


def _from_smi(path: Path, fail: Callable[[str, str], None]) -> Iterator[Source]:
    found = False
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        found = True
        try:
            yield _from_smiles(words[0])
        except MindscaipError as error:
            fail(f"{path.name} line {number}", str(error))
    if not found:
        raise MindscaipError(f"{path} holds no SMILES; it should have one per line")


def _from_sdf(path: Path, fail: Callable[[str, str], None]) -> Iterator[Source]:
    for name, molecule in read_sdf(path):
        if isinstance(molecule, MindscaipError):
            fail(name, str(molecule))
            continue
        spatial = molecule.GetNumConformers() > 0
        yield Source(
            name=name,
            numbers=atomic_numbers_of(molecule),
            positions=np.asarray(molecule.GetConformer().GetPositions(), np.float64) if spatial else None,
            bonds=bonds_of(molecule),
            smiles=_smiles_of(molecule),
            block=b"" if spatial else molecule.ToBinary(),
        )


def _smiles_of(molecule: Any) -> str:
    from rdkit import Chem

    return Chem.MolToSmiles(Chem.RemoveHs(molecule))


def _from_structures(path: Path, suffix: str, fail: Callable[[str, str], None]) -> Iterator[Source]:
    structures = read_structures(path, labels="ignored") if suffix in XYZ_SUFFIXES + STORE_SUFFIXES else _by_ase(path)
    number = 0
    for number, structure in enumerate(structures, start=1):
        name = f"{path.name}#{number}"
        try:
            yield _from_structure(name, structure)
        except MindscaipError as error:
            fail(name, str(error))
    if number == 0:
        raise MindscaipError(f"{path} holds no structure")


def _by_ase(path: Path) -> Iterator[Structure]:
    import ase.io

    try:
        images = ase.io.read(path, index=":")
    except Exception as error:
        raise MindscaipError(f"{path} cannot be read as a structure file: {error}") from error
    for image in images:
        yield Structure(image.numbers, image.positions, np.asarray(image.cell), image.pbc)


def _from_structure(name: str, structure: Structure) -> Source:
    if structure.pbc.any():
        raise MindscaipError(f"{name} is periodic; scans are of molecules")
    if len(structure) == 0:
        raise MindscaipError(f"{name} holds no atoms")
    bonds = perceive_bonds(structure.numbers, structure.positions)
    pieces = count_pieces(len(structure), bonds)
    if pieces != 1:
        raise MindscaipError(f"{name} holds {pieces} molecules by its distances; give them one by one")
    return Source(name=name, numbers=structure.numbers, positions=structure.positions, bonds=bonds)


def _is_store(path: Path) -> bool:
    import h5py

    from mindscaip.data.store import FORMAT

    try:
        with h5py.File(path, "r") as file:
            return file.attrs.get("format") == FORMAT
    except OSError:
        return False


def _from_scan(path: Path, key: str) -> Source:
    return _source_of(path, open_scans(path).load(key))


def _from_scans(path: Path, fail: Callable[[str, str], None]) -> Iterator[Source]:
    for scan in read_scans(path, on_skip=fail):
        try:
            yield _source_of(path, scan)
        except MindscaipError as error:
            fail(f"{path.name}:{scan.key}", str(error))


def _source_of(path: Path, scan: Any) -> Source:
    if scan.positions0 is None:
        raise MindscaipError(f"scan {scan.key} of {path} has no unperturbed geometry to start from")
    bonds = perceive_bonds(scan.numbers, scan.positions0)
    atoms = scan.bond_index
    if (min(atoms), max(atoms)) not in bonds:
        raise MindscaipError(
            f"scan {scan.key} of {path}: its atoms {atoms[0]} and {atoms[1]} are not bonded at the start"
        )
    return Source(
        name=f"{path.name}:{scan.key}",
        numbers=scan.numbers,
        positions=scan.positions0,
        bonds=bonds,
        smiles=scan.smiles,
        scan=(scan.bond, scan.id, (int(atoms[0]), int(atoms[1]))),
        subset=scan.subset,
    )
