"""Scans with known answers, and a writer of the folder layout, for the tests of this room."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ase.data import chemical_symbols

from mindscaip.bsct.dataset import Scan, displace, make_scan

DATA = Path(os.environ.get("MINDSCAIP_DATA", Path(__file__).parents[2].parent / "shared" / "data")) / "bsct"
FIXTURE = Path(__file__).parents[1] / "data_files" / "bsct-gfn2-small.h5"
PYSCF_FIXTURE = FIXTURE.with_name("bsct-pyscf-small.h5")


def reference_data(name: str) -> Path:
    """The path of published data, or a skipped test."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is absent; set MINDSCAIP_DATA to the folder of reference data")
    return path


def diatomic_scan(lengths: np.ndarray, energy: np.ndarray, slope: np.ndarray, **more) -> Scan:
    """Two carbon atoms along x with ``E(L)`` and ``dE/dL`` given; the reference forces are exact."""
    positions = np.zeros((len(lengths), 2, 3))
    positions[:, 1, 0] = lengths
    return make_scan(
        **{
            "bond": "C-C",
            "id": "1",
            "numbers": np.array([6, 6]),
            "positions": positions,
            "bond_length": lengths,
            "energy": energy,
            "forces": diatomic_forces(slope),
            "bond_index": (0, 1),
            "fragment_labels": np.array([0, 1]),
            "source": "test scan",
            **more,
        }
    )


def diatomic_forces(slope: np.ndarray) -> np.ndarray:
    forces = np.zeros((len(slope), 2, 3))
    forces[:, 0, 0] = slope
    forces[:, 1, 0] = -slope
    return forces


def random_scan(
    seed: int, *, bond: str = "C-O", id: str = "7", numbers: tuple[int, ...] = (6, 8, 1, 1), frames: int = 30, **more
) -> Scan:
    """A straight scan with random smooth energies and unrelated random forces."""
    rng = np.random.default_rng(seed)
    n = len(numbers)
    positions0 = rng.normal(size=(n, 3))
    positions0[1] = positions0[0] + [0.9, 0.8, 0.7]
    labels = np.arange(n) % 2
    lengths = np.linspace(0.7, 2.8, frames)
    return make_scan(
        **{
            "bond": bond,
            "id": id,
            "numbers": np.array(numbers),
            "positions": displace(positions0, (0, 1), labels, lengths),
            "bond_length": lengths,
            "energy": -100 + (lengths - 1.4) ** 2,
            "forces": rng.normal(size=(frames, n, 3)) * 5,
            "bond_index": (0, 1),
            "fragment_labels": labels,
            "source": "test scan",
            "smiles": "[H]C[O:1][H]",
            "subset": "made up",
            "positions0": positions0,
            "energy0": -99.5,
            "forces0": rng.normal(size=(n, 3)),
            **more,
        }
    )


def write_folder(root: Path, scan: Scan) -> Path:
    """Write ``scan`` (all frames) in the folder layout and return its folder."""
    folder = root / scan.bond / scan.id
    folder.mkdir(parents=True)
    assert scan.positions0 is not None
    assert scan.forces0 is not None
    frames = [(f"atoms_{k}", scan.positions[k], scan.energy[k], scan.forces[k]) for k in range(len(scan))]
    for name, positions, energy, forces in [*frames, ("unperturbed", scan.positions0, scan.energy0, scan.forces0)]:
        rows = [
            f"{chemical_symbols[z]} " + " ".join(f"{x:.12f}" for x in (*r, *f))
            for z, r, f in zip(scan.numbers, positions, forces, strict=True)
        ]
        comment = (
            f"Properties=species:S:1:pos:R:3:forces:R:3 id={scan.id} bond={scan.bond} "
            f'smiles="{scan.smiles}" dataset="{scan.subset}" energy={float(energy)!r} pbc="F F F"'
        )
        (folder / f"{name}.xyz").write_text("\n".join([str(len(rows)), comment, *rows]) + "\n")
    np.savez(
        folder / "partition.npz",
        bond_index=np.array(scan.bond_index),
        labels=scan.fragment_labels,
        perturb_range=np.array([scan.bond_length[0], scan.bond_length[-1], len(scan)]),
    )
    return folder
