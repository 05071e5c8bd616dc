"""What is in a store: counts, elements, ranges, histograms, duplicates, outliers."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from mindscaip.data.collection import Collection
from mindscaip.data.distances import nearest_neighbors
from mindscaip.data.readers.base import molecule_of, subset_of
from mindscaip.data.reference import reference_energies
from mindscaip.data.store import Store
from mindscaip.errors import MindscaipError
from mindscaip.units import EV_TO_MEV

OUTLIER_Z = 10.0
"""Robust z-scores above this are outliers: a normal distribution has none in any data set."""
LISTED = 20
"""Outliers and duplicates that are named; all are counted."""
DISTANCE_SAMPLE = 20_000
"""Structures, evenly spread, whose nearest distances are looked at."""
BINS = 20


@dataclass(frozen=True)
class Distribution:
    """A quantity over the data set.

    Attributes:
        unit: of the values.
        count: number of values.
        minimum, low, median, high, maximum: the lowest, the 1st percentile, the median, the 99th, the highest.
        rms: root mean square.
        edges, counts: histogram between the percentiles 0.1 and 99.9 (what is beyond is in the outermost bins).
    """

    unit: str
    count: int
    minimum: float
    low: float
    median: float
    high: float
    maximum: float
    rms: float
    edges: list[float]
    counts: list[int]

    @classmethod
    def of(cls, values: np.ndarray, unit: str) -> Distribution | None:
        """The distribution of ``values``; None where there are none."""
        values = values[np.isfinite(values)]
        if len(values) == 0:
            return None
        inner = np.percentile(values, [0.1, 99.9])
        if inner[0] == inner[1]:
            inner = inner + np.array([-0.5, 0.5]) * max(abs(inner[0]) * 1e-6, 1e-6)
        counts, edges = np.histogram(np.clip(values, *inner), bins=BINS, range=(inner[0], inner[1]))
        minimum, low, median, high, maximum = (float(q) for q in np.percentile(values, [0, 1, 50, 99, 100]))
        return cls(
            unit=unit,
            count=len(values),
            minimum=minimum,
            low=low,
            median=median,
            high=high,
            maximum=maximum,
            rms=float(np.sqrt(np.mean(values**2))),
            edges=edges.tolist(),
            counts=counts.tolist(),
        )


@dataclass(frozen=True)
class Outlier:
    """A structure that stands apart: its index, in what, the value, and its robust z-score."""

    index: int
    quantity: str
    value: float
    z: float


@dataclass
class DataInfo:
    """What :func:`describe` finds. Counts of duplicates and outliers are of all, lists of the first or worst."""

    path: str
    structures: int
    atoms: int
    periodic: int
    labels: dict[str, int]
    elements: dict[str, dict[str, int]]
    subsets: dict[str, int]
    molecules: int
    largest_molecules: dict[str, int]
    reference_energies: dict[str, float]
    reference_source: str
    distributions: dict[str, Distribution]
    num_duplicates: int = 0
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    num_outliers: int = 0
    outliers: list[Outlier] = field(default_factory=list)
    sampled_distances: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def describe(path: str | Path, outlier_z: float = OUTLIER_Z) -> DataInfo:
    """Read through a store and sum it up; memory grows by a few numbers per structure and one per atom.

    Energies are per atom and relative to the reference energies of the elements: those of the isolated atoms where the
    store has them for all its elements, else a least-squares fit.

    Raises:
        MindscaipError: not a store.
    """
    if outlier_z <= 0:
        raise MindscaipError(f"--outlier-z {outlier_z}: a score to call a structure an outlier from is above 0")
    with Store(path) as store:
        data = Collection([store])
        known = bool(store.isolated_energies) and set(store.elements) <= set(store.isolated_energies)
        has_energies = bool(np.isfinite(store.energies).any())
        references: dict[str, float] = {}
        if known:
            references = {symbol: store.isolated_energies[symbol] for symbol in store.elements}
        elif has_energies:
            labelled = data.select(np.flatnonzero(np.isfinite(store.energies)))
            references = reference_energies(labelled)
        per_element = np.zeros(len(chemical_symbols))
        per_element[[chemical_symbols.index(symbol) for symbol in references]] = list(references.values())

        atoms_of, structures_with = np.zeros((2, len(chemical_symbols)), dtype=np.int64)
        energy, largest, hashes = [], [], []
        forces_sample: list[np.ndarray] = []
        for rows in data.rows():
            counts = rows.compositions()
            atoms_of += counts.sum(axis=0)
            structures_with += (counts > 0).sum(axis=0)
            energy.append((rows.energies - counts @ per_element) / rows.num_atoms)
            norms = np.linalg.norm(rows.forces, axis=1)
            starts = np.cumsum(rows.num_atoms) - rows.num_atoms
            largest.append(np.maximum.reduceat(norms, starts))
            forces_sample.append(norms.astype(np.float32))
            hashes.append(rows.geometry_hashes())
        distances, ratios, looked_at = _nearest(data)
        energies, largest_force = np.concatenate(energy), np.concatenate(largest)
        num_atoms = data.num_atoms
        distributions = {
            "atoms": Distribution.of(num_atoms.astype(float), ""),
            "energy - reference": Distribution.of(energies, "eV/atom"),
            "force on an atom": Distribution.of(np.concatenate(forces_sample).astype(float), "eV/A"),
            "largest force": Distribution.of(largest_force, "eV/A"),
            "nearest distance": Distribution.of(distances, "A"),
        }
        if store.has_stress:
            stress = store.stresses[np.isfinite(store.stresses[:, 0, 0])]
            pressure = -np.trace(stress, axis1=1, axis2=2) / 3 * EV_TO_MEV
            distributions["pressure"] = Distribution.of(pressure, "meV/A^3")
        # A little spread is not an outlier in data without any (one composition, one minimum).
        scores = {
            "energy - reference (eV/atom)": (energies, _robust_z(energies, 1e-3)),
            "largest force (eV/A)": (largest_force, _robust_z(np.log(np.maximum(largest_force, 1e-3)), 0.1)),
            "nearest distance over covalent radii": (ratios, np.minimum(_robust_z(np.log(ratios), 0.05), 0.0)),
        }
        outliers, duplicates = _outliers(scores, looked_at, outlier_z), _duplicates(np.concatenate(hashes))
        groups = store.groups
        subsets = Counter(subset_of(group) for group in groups)
        molecules = Counter(molecule_of(group) for group in groups)
        return DataInfo(
            path=str(path),
            structures=len(store),
            atoms=int(num_atoms.sum()),
            periodic=int(store.pbc.any(axis=1).sum()),
            labels={
                "energy": int(np.isfinite(store.energies).sum()),
                "forces": int(np.isfinite(largest_force).sum()),
                "stress": int(np.isfinite(store.stresses[:, 0, 0]).sum()) if store.has_stress else 0,
            },
            elements={
                chemical_symbols[z]: {"atoms": int(atoms_of[z]), "structures": int(structures_with[z])}
                for z in np.flatnonzero(atoms_of)
            },
            subsets=dict(subsets.most_common()),
            molecules=len(molecules.keys() - {""}),
            largest_molecules=dict(molecules.most_common(10)),
            reference_energies=references,
            reference_source="isolated atoms" if known else "least squares" if references else "none",
            distributions={name: found for name, found in distributions.items() if found is not None},
            num_duplicates=len(duplicates),
            duplicates=duplicates[:LISTED],
            num_outliers=len(outliers),
            outliers=outliers[:LISTED],
            sampled_distances=len(looked_at),
            provenance=store.provenance,
        )


def _nearest(data: Collection) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shortest distance, shortest over covalent radii, and index, of the structures that are looked at."""
    looked_at = np.unique(np.linspace(0, len(data) - 1, min(len(data), DISTANCE_SAMPLE)).astype(np.int64))
    distances, ratios = np.full((2, len(looked_at)), np.nan)
    for row, index in enumerate(looked_at):
        structure = data[int(index)]
        if len(structure) > 1:
            distance, ratio = nearest_neighbors(structure)
            distances[row], ratios[row] = distance.min(), ratio.min()
    data.release()
    return distances, ratios, looked_at


def _robust_z(values: np.ndarray, least: float) -> np.ndarray:
    """Distance from the median over the spread that a normal distribution of the same median deviation has."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return np.zeros_like(values)
    median = np.median(finite)
    spread = max(1.4826 * float(np.median(np.abs(finite - median))), least)
    return np.where(np.isfinite(values), (values - median) / spread, 0.0)


def _outliers(
    scores: dict[str, tuple[np.ndarray, np.ndarray]], looked_at: np.ndarray, threshold: float
) -> list[Outlier]:
    """Those above the threshold, worst first."""
    found = []
    for quantity, (values, z) in scores.items():
        for row in np.flatnonzero(np.abs(z) > threshold):
            index = int(looked_at[row]) if "distance" in quantity else int(row)
            found.append(Outlier(index, quantity, float(values[row]), float(z[row])))
    return sorted(found, key=lambda outlier: -abs(outlier.z))


def _duplicates(hashes: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (structure, the first that it is a copy of), by index."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    original = first[inverse.reshape(-1)]
    return [(int(i), int(original[i])) for i in np.flatnonzero(original != np.arange(len(hashes)))]
