"""Scored runs with known answers, and a page of full size, for the tests of the page about bond scans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline

from mindscaip.bsct.dataset import open_scans
from mindscaip.bsct.path import ScanPath
from mindscaip.bsct.potentials import Potential
from mindscaip.bsct.score import score_scans
from mindscaip.report.bsct_data import Curves, ReportData, Run, ScanView
from mindscaip.report.bsct_molecule import Drawing
from tests.bsct.makers import FIXTURE

PLANTED = "C-O/C2H6O-1-2-15b01e12"
"""The scan with the well."""
WELL_CENTRE, WELL_DEPTH, WELL_WIDTH = 2.21, 0.3, 0.05
"""A, eV, A (full width at half depth)."""
BONDS = {"C-C": 93, "C-N": 90, "C-O": 110, "C-P": 21, "C-S": 97, "N-N": 20, "N-O": 15, "N-P": 19, "O-P": 20}
"""As many scans as the published data set."""

Answer = tuple[np.ndarray, np.ndarray]


class Made(Potential):
    """Changes the reference, interpolated along the path, by a function of path, energy and forces."""

    def __init__(self, name: str, change: Callable[[ScanPath, np.ndarray, np.ndarray], Answer], dense: int) -> None:
        super().__init__(name, {"kind": name})
        self.change, self.dense = change, dense

    def predict(self, path: ScanPath) -> Answer:
        scan = path.scan
        energy = CubicSpline(scan.bond_length, scan.energy)(path.bond_length)
        forces = CubicSpline(scan.bond_length, scan.forces)(path.bond_length)
        return self.change(path, energy, forces)


def half(path: ScanPath, energy: np.ndarray, forces: np.ndarray) -> Answer:
    return 0.5 * energy + 3.0, 0.5 * forces


def zero(path: ScanPath, energy: np.ndarray, forces: np.ndarray) -> Answer:
    return np.zeros_like(energy), np.zeros_like(forces)


def planted(path: ScanPath, energy: np.ndarray, forces: np.ndarray) -> Answer:
    """The reference with a Gaussian well in one scan; its force acts on the bonded atoms, along the bond."""
    if path.scan.key != PLANTED:
        return energy + 0.01 * np.sin(path.bond_length), forces * 1.01
    sigma = WELL_WIDTH / np.sqrt(8 * np.log(2))
    x = path.bond_length - WELL_CENTRE
    well = -WELL_DEPTH * np.exp(-0.5 * (x / sigma) ** 2)
    first, second = path.scan.bond_index
    axis = path.positions[0, second] - path.positions[0, first]
    pull = (-(well * -x / sigma**2))[:, None] * (axis / np.linalg.norm(axis))
    changed = forces.copy()
    changed[:, first] -= pull
    changed[:, second] += pull
    return energy + well, changed


def score(folder: Path, name: str, change: Callable, dense: int = 5, data: Path = FIXTURE) -> Path:
    score_scans(Made(name, change, dense), open_scans(data), folder)
    return folder


def full_size(frames: int = 100, potentials: int = 3) -> ReportData:
    """485 scans of three potentials, made without scoring: what counts is the size."""
    rng = np.random.default_rng(0)
    keys = [f"{bond}/{1000 + 7 * i}" for bond, count in BONDS.items() for i in range(count)]
    runs = tuple(
        Run(Path(f"run-{p}"), f"potential {p}", ("fsd", "energy_mae", "force_mae"), {}, {}, {}, {}, "", "made")
        for p in range(potentials)
    )
    return ReportData(
        name="made.h5",
        provenance={"level_of_theory": "made up"},
        runs=runs,
        metrics=("fsd", "energy_mae", "force_mae"),
        scans=tuple(_view(key, rng, frames, potentials) for key in keys),
        absent=tuple({} for _ in runs),
        unreadable={},
    )


def _view(key: str, rng: np.random.Generator, frames: int, potentials: int) -> ScanView:
    lengths = np.linspace(0.75, 3.0, frames)
    decay = np.exp(-1.8 * (lengths - rng.uniform(1.3, 1.7)))
    energy = 5 * (1 - decay) ** 2
    change = np.abs(18 * (1 - decay) * decay)
    minimum = int(np.argmin(energy))
    atoms = int(rng.integers(8, 50))
    positions = rng.normal(size=(atoms, 3)) * 2.5
    numbers = rng.choice([1, 1, 6, 6, 7, 8], size=atoms)
    values, curves = [], []
    for p in range(potentials):
        worst = int(rng.integers(frames - 1))
        noise = rng.normal(size=frames) * 0.1 * (p + 1)
        curves.append(Curves((energy + noise).astype(np.float32), (change + np.abs(noise)).astype(np.float32), worst))
        values.append(
            {
                "fsd": float(np.exp(rng.normal() + p)),
                "energy_mae": float(np.exp(rng.normal() - 2 + 0.5 * p)),
                "force_mae": float(np.exp(rng.normal() - 3 + p)),
            }
        )
    shift = np.array([0.8, 0.0, 0.0]) * np.where(np.arange(atoms) % 2, 1, -1)[:, None]
    return ScanView(
        key=key,
        formula=f"C{atoms}",
        smiles="C",
        subset="made",
        bond_length=lengths.astype(np.float32),
        num_atoms=atoms,
        num_dropped=0,
        minimum=minimum,
        reference=Curves(energy.astype(np.float32), change.astype(np.float32), -1),
        curves=tuple(curves),
        values=tuple(values),
        drawing=Drawing(
            numbers, positions - shift, positions + shift, [(i, i + 1) for i in range(1, atoms - 1)], (0, 1), None
        ),
    )
