"""Tiny files in the layouts of published data sets, from structures whose energies and forces belong together."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.data import chemical_symbols
from ase.io.jsonio import encode

from mindscaip.data.structure import Structure
from mindscaip.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV, KCAL_PER_MOL_TO_EV, unit_factor


def springs(frames: int = 40, *, seed: int = 0, group: str = "ethane", step: float = 0.02) -> list[Structure]:
    """A walk of eight atoms with springs between all pairs: a trajectory with exact forces, at all-electron energy."""
    rng = np.random.default_rng(seed)
    numbers = np.array([6, 6, 1, 1, 1, 1, 1, 1])
    rest = np.array(
        [
            [0.0, 0.0, 0.76],
            [0.0, 0.0, -0.76],
            [1.02, 0.0, 1.16],
            [-0.51, 0.88, 1.16],
            [-0.51, -0.88, 1.16],
            [-1.02, 0.0, -1.16],
            [0.51, 0.88, -1.16],
            [0.51, -0.88, -1.16],
        ]
    )
    lengths = np.linalg.norm(rest[:, None] - rest[None], axis=-1)
    positions, made = rest + rng.normal(0, 0.05, rest.shape), []
    for _ in range(frames):
        positions = positions + rng.normal(0, step, rest.shape) - 0.05 * (positions - rest)
        difference = positions[:, None] - positions[None]
        distance = np.linalg.norm(difference, axis=-1) + np.eye(len(rest))
        stretch = np.where(np.eye(len(rest)) > 0, 0.0, distance - lengths)
        energy = -79.8 * HARTREE_TO_EV + 0.25 * 15.0 * float((stretch**2).sum())
        forces = -15.0 * (stretch / distance)[..., None] * difference
        made.append(Structure(numbers, positions.copy(), energy=energy, forces=forces.sum(axis=1), group=group))
    return made


def crystals(frames: int = 40, seed: int = 0) -> list[Structure]:
    """A trajectory of a Lennard-Jones crystal with changing cell: energies, forces and stresses belong together."""
    rng = np.random.default_rng(seed)
    base = Atoms(
        "Al4", scaled_positions=[[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], cell=np.eye(3) * 4.05
    )
    base.pbc = True
    made = []
    strain, shift = np.zeros((3, 3)), rng.normal(0, 0.05, (4, 3))
    for _ in range(frames):
        strain = 0.95 * strain + rng.normal(0, 0.004, (3, 3))
        shift = 0.95 * shift + rng.normal(0, 0.003, (4, 3))
        atoms = Atoms(base.numbers, cell=base.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), pbc=True)
        atoms.set_scaled_positions(base.get_scaled_positions())
        atoms.positions += shift
        atoms.calc = LennardJones(sigma=2.55, epsilon=0.4, rc=6.0, smooth=True)
        atoms.get_potential_energy(), atoms.get_stress()
        made.append(Structure.from_ase(atoms, group="mp-134"))
    return made


def write_sgdml(path: Path, structures: Sequence[Structure], **other: object) -> Path:
    """MD17's layout."""
    arrays = {
        "z": structures[0].numbers.astype(np.uint8),
        "R": np.stack([s.positions for s in structures]),
        "E": np.array([[s.energy] for s in structures]) / KCAL_PER_MOL_TO_EV,
        "F": np.stack([s.forces for s in structures]) / KCAL_PER_MOL_TO_EV,
        "name": np.array(b"ethane"),
        **other,
    }
    np.savez(path, **arrays)
    return path


def write_rmd17(path: Path, structures: Sequence[Structure]) -> Path:
    """rMD17's names for the same."""
    np.savez(
        path,
        nuclear_charges=structures[0].numbers.astype(np.uint8),
        coords=np.stack([s.positions for s in structures]),
        energies=np.array([s.energy for s in structures]) / KCAL_PER_MOL_TO_EV,
        forces=np.stack([s.forces for s in structures]) / KCAL_PER_MOL_TO_EV,
        old_indices=np.arange(len(structures)),
    )
    return path


def write_spice(path: Path, molecules: dict[str, tuple[str, Sequence[Structure]]], units: bool = True) -> Path:
    """SPICE's layout: ``{molecule: (subset, conformers)}``."""
    with h5py.File(path, "w") as file:
        for name, (subset, structures) in molecules.items():
            group = file.create_group(name)
            group["atomic_numbers"] = structures[0].numbers.astype(np.int16)
            group["subset"] = np.array([subset.encode()], dtype=object)
            group["conformations"] = np.stack([s.positions for s in structures]) / BOHR_TO_ANGSTROM
            group["dft_total_energy"] = np.array([s.energy for s in structures]) / HARTREE_TO_EV
            group["dft_total_gradient"] = -np.stack([s.forces for s in structures]) / unit_factor(
                "forces", "hartree/bohr"
            )
            if units:
                group["conformations"].attrs["units"] = "bohr"
                group["dft_total_energy"].attrs["units"] = "hartree"
                group["dft_total_gradient"].attrs["units"] = "hartree/bohr"
    return path


def write_chgnet(path: Path, structures: Sequence[Structure]) -> Path:
    """The layout of CHGNet's MPtrj: material -> frame -> structure and labels; stress in kbar, VASP's sign."""
    materials: dict[str, dict] = {}
    for number, s in enumerate(structures):
        fractional = s.positions @ np.linalg.inv(s.cell)
        frame = {
            "structure": {
                "@module": "pymatgen.core.structure",
                "@class": "Structure",
                "charge": 0,
                "lattice": {"matrix": s.cell.tolist(), "pbc": [True, True, True], "volume": abs(np.linalg.det(s.cell))},
                "sites": [
                    {
                        "species": [{"element": chemical_symbols[z], "occu": 1}],
                        "abc": abc.tolist(),
                        "xyz": xyz.tolist(),
                        "label": chemical_symbols[z],
                        "properties": {},
                    }
                    for z, abc, xyz in zip(s.numbers, fractional, s.positions, strict=True)
                ],
            },
            "uncorrected_total_energy": s.energy,
            "corrected_total_energy": (s.energy or 0.0) - 2.7,
            "energy_per_atom": 0.0,
            "force": np.asarray(s.forces).tolist(),
            "stress": (-np.asarray(s.stress) / unit_factor("stress", "kbar")).tolist(),
            "magmom": None,
            "mp_id": s.group,
        }
        materials.setdefault(s.group, {})[f"{s.group}-0-{number}"] = frame
    text = json.dumps(materials).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def write_lmdb(path: Path, structures: Sequence[Structure], names: Sequence[str] = ("elytes",)) -> Path:
    """The layout of OMat and OMol: rows of ASE as JSON under zlib, keyed by number."""
    import lmdb

    environment = lmdb.open(str(path), subdir=False, map_size=1 << 26, lock=False)
    with environment.begin(write=True) as transaction:

        def put(key: str, value: object) -> None:
            transaction.put(key.encode(), zlib.compress(encode(value).encode()))

        for number, s in enumerate(structures, start=1):
            row = {
                "numbers": s.numbers,
                "positions": s.positions,
                "cell": s.cell,
                "pbc": s.pbc,
                "energy": s.energy,
                "forces": s.forces,
                "unique_id": f"{number:032x}",
                "ctime": 1.0,
                "mtime": 1.0,
                "user": "u",
                "data": {"data_id": names[number % len(names)], "charge": 0, "spin": 1, "composition": "C2H6"},
            }
            if s.stress is not None:
                row["stress"] = s.stress.flat[[0, 4, 8, 5, 2, 1]]
            put(str(number), row)
        put("nextid", len(structures) + 1)
        put("deleted_ids", [])
        put("metadata", {})
    environment.close()
    return path


def same(read: Sequence[Structure], made: Sequence[Structure], tolerance: float = 1e-9) -> None:
    """Assert that two lists hold the same atoms and labels."""
    assert len(read) == len(made) > 0
    for a, b in zip(read, made, strict=True):
        assert np.array_equal(a.numbers, b.numbers)
        assert np.array_equal(a.pbc, b.pbc)
        assert a.energy is not None
        assert abs(a.energy - b.energy) < 1e-8 * abs(b.energy)
        for name in ("positions", "cell", "forces", "stress"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None), name
            if x is not None:
                assert np.allclose(x, y, rtol=0, atol=tolerance), name
