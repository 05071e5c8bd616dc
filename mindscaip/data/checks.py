"""Is it what it says it is? Units and signs of a data set, tested on the data themselves.

Four tests, none of which needs to know the level of theory:

* **Energy against force.** Between two frames of one molecule or trajectory that are close to each other,
  ``E_b - E_a = -(F_a + F_b)/2 . (x_b - x_a) + V (s_a + s_b)/2 : strain`` up to third order in the displacement. The
  slope of the left side over the right side is 1. It is -1 where gradients were taken for forces, and a ratio of units
  where one of energy, force and length is in another unit than declared. Molecules are first turned onto each other.
* **Distances** to the nearest neighbour over the sum of the covalent radii are close to 1 in A and 1.9 in bohr.
* **Total energies** of all-electron methods are those of the free atoms to within a percent, which the statistical
  (Thomas-Fermi-Scott-Schwinger) model gives for every element: ``E(Z) = -0.768745 Z^(7/3) + Z^2/2 - 0.2699 Z^(5/3)``
  Hartree. So a data set that is consistently in another unit of energy is found out. Energies of pseudopotential and
  semi-empirical methods follow no such law and are not judged.
* **Forces** of sampled structures are of the order of 1 eV/A.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mindscaip.data.distances import typical_ratio
from mindscaip.data.readers.base import FileUnits
from mindscaip.data.structure import MAX_ATOMIC_NUMBER, Structure
from mindscaip.errors import MindscaipError
from mindscaip.units import HARTREE_TO_EV, unit_factor

Level = Literal["ok", "unknown", "warning", "error"]

LARGEST_GROUP = 300
"""Frames of one group that are compared with each other."""
CLOSEST_PART = 0.25
"""Part of the pairs, the closest, that the slope is taken from: the others are too far for third order to vanish."""
FEWEST_PAIRS = 8
SLOPE_TOLERANCE = 0.25
"""Largest |ln slope| that passes; neighbouring MD frames give 0.01. Frames further apart leave a larger residual and
bias the slope by as much, so the residual is the tolerance where it is larger (bohr against A is 0.64)."""
WORST_RESIDUAL = 0.5
"""Sum of |residuals| over sum of |dE| above which pairs are too far apart to tell anything."""
FEWEST_JUDGED = 7
"""Pairs below which a slope is not judged: a line through few points fits them by chance."""
NAMED_WITHIN = 0.1
"""A ratio this close to one of two units names them."""
DISTANCE_RANGE = (0.65, 1.5)
LARGEST_MEDIAN_FORCE = 15.0
"""eV/A. Thermal samples have 0.3 to 3; kcal/mol/A read as eV/A gives 10 to 70."""
BINDING_RANGE = (-20.0, 3.0)
"""eV/atom, energies relative to the isolated atoms."""
_ENERGY_NAMES = ("eV", "hartree", "kcal/mol", "kJ/mol")
_LENGTH_NAMES = ("Angstrom", "bohr", "nm")


@dataclass(frozen=True)
class Finding:
    """The outcome of one test: its level, a sentence, and the numbers behind it."""

    name: str
    level: Level
    message: str
    values: dict[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """For the provenance of a store."""
        return {"level": self.level, "message": self.message, **self.values}


def check_structures(structures: Sequence[Structure], units: FileUnits | None = None) -> list[Finding]:
    """Test units and signs of structures that are already converted, a sample of a file in its order.

    Args:
        structures: some hundreds; neighbours in the file stay neighbours.
        units: what the file was taken to be in, to name what it is instead.
    """
    units = units or FileUnits()
    labelled = [s for s in structures if s.energy is not None and s.forces is not None]
    findings = [check_distances(structures, units)]
    if labelled:
        findings += check_consistency(labelled, units)
        findings.append(check_total_energies(labelled, units))
        findings.append(check_forces(labelled, units))
    return findings


def raise_on_error(findings: Iterable[Finding], where: str) -> None:
    """Refuse data that failed a test.

    Raises:
        MindscaipError: names the tests, their numbers and the cure.
    """
    errors = [finding.message for finding in findings if finding.level == "error"]
    if errors:
        raise MindscaipError(
            f"{where}: {'; also, '.join(errors)} (--no-check takes the data as they are, if you know better)"
        )


def check_isolated(structures: Sequence[Structure], isolated: Mapping[str, float]) -> Finding:
    """Energies of the isolated atoms against those of the structures: the atoms of a structure are bound.

    Args:
        structures: converted, with energies.
        isolated: eV by element symbol.
    """
    name = "isolated atoms"
    bindings = [
        (s.energy - sum(isolated[symbol] for symbol in s.symbols)) / len(s)
        for s in structures
        if s.energy is not None and len(s) > 1 and all(symbol in isolated for symbol in s.symbols)
    ]
    if not bindings:
        return Finding(name, "unknown", "no structure whose elements all have an energy of the isolated atom")
    typical = float(np.median(bindings))
    values = {"median_binding_eV_per_atom": typical}
    if BINDING_RANGE[0] < typical < BINDING_RANGE[1]:
        return Finding(name, "ok", f"structures are bound by {-typical:.2f} eV/atom against isolated atoms", values)
    return Finding(
        name,
        "error",
        f"against the isolated atoms, structures have {typical:.4g} eV/atom (usual: -10 to 0): the isolated atoms are "
        "of another level of theory, or in another unit",
        values,
    )


# Energy against force


def check_consistency(structures: Sequence[Structure], units: FileUnits) -> list[Finding]:
    """Slope of energy differences over the work of the forces, and over that of the stress where cells change."""
    pairs = _close_pairs(structures)
    if len(pairs) == 0:
        return [
            Finding(
                "energy against forces",
                "unknown",
                "no two frames of one molecule or trajectory to compare: the sign of the forces could not be tested",
            )
        ]
    d_energy, by_forces, by_stress, size = pairs.T
    still = np.abs(by_stress) <= 0.2 * np.abs(by_forces)
    findings = [_judge_forces(d_energy[still] - by_stress[still], by_forces[still], size[still], units)]
    strained = np.abs(by_stress) >= 0.5 * np.abs(by_forces)
    if (by_stress != 0).any() and findings[0].level in ("ok", "unknown"):
        findings.append(_judge_stress(d_energy[strained] - by_forces[strained], by_stress[strained], units))
    return findings


def _close_pairs(structures: Sequence[Structure]) -> np.ndarray:
    """Rows (dE, work of the forces, work of the stress, atoms) of the closest pairs of frames, ``[P, 4]``."""
    groups: dict[tuple[str, bytes, bytes], list[int]] = {}
    for i, s in enumerate(structures):
        if len(s) > 1 and np.isfinite(s.energy or 0.0) and s.forces is not None:
            groups.setdefault((s.group, s.numbers.tobytes(), s.pbc.tobytes()), []).append(i)
    candidates: list[tuple[float, int, int]] = []
    for members in groups.values():
        members = members[:LARGEST_GROUP]
        if len(members) < 2:
            continue
        apart = _separations([structures[i] for i in members])
        nearest = apart.argmin(axis=1)
        for a, b in enumerate(nearest):
            if (nearest[b] != a or a < b) and np.isfinite(apart[a, b]):
                candidates.append((float(apart[a, b]), members[a], members[int(b)]))
    candidates.sort()
    kept = candidates[: max(FEWEST_PAIRS, int(len(candidates) * CLOSEST_PART))]
    rows = [_work(structures[a], structures[b]) for distance, a, b in kept if distance > 0]
    return np.array([row for row in rows if row is not None]).reshape(-1, 4)


def _separations(frames: list[Structure]) -> np.ndarray:
    """Root mean square difference of interatomic distances between all pairs of frames in A, infinite diagonal."""
    n = len(frames[0])
    i, j = np.triu_indices(n, 1)
    if len(i) > 200:
        some = np.random.default_rng(0).choice(len(i), 200, replace=False)
        i, j = i[some], j[some]
    vectors = np.stack([s.positions[i] - s.positions[j] for s in frames])
    if frames[0].pbc.any():
        cells = np.stack([s.full_cell() for s in frames])
        fractional = vectors @ np.linalg.inv(cells)
        vectors = (fractional - np.round(fractional) * frames[0].pbc) @ cells
    lengths = np.linalg.norm(vectors, axis=-1)
    square = (lengths**2).sum(1)
    apart = np.maximum(square[:, None] + square[None] - 2.0 * lengths @ lengths.T, 0.0) / lengths.shape[1]
    np.fill_diagonal(apart, np.inf)
    return np.sqrt(apart)


def _work(a: Structure, b: Structure) -> tuple[float, float, float, int] | None:
    """(dE, -mean force . displacement, V mean stress : strain, atoms) from ``a`` to ``b``; None where unknown."""
    if a.forces is None or b.forces is None or a.energy is None or b.energy is None:
        return None
    by_stress = 0.0
    if a.pbc.any():
        cell = 0.5 * (a.full_cell() + b.full_cell())
        step = b.positions @ np.linalg.inv(b.full_cell()) - a.positions @ np.linalg.inv(a.full_cell())
        step -= np.round(step) * a.pbc
        step -= step.mean(axis=0)
        moved = step @ cell
        forces = 0.5 * (a.forces + b.forces)
        if not np.allclose(a.cell, b.cell, rtol=0, atol=1e-7):
            if a.stress is None or b.stress is None:
                return None
            strain = np.linalg.inv(cell) @ (b.full_cell() - a.full_cell())
            volume = abs(np.linalg.det(cell))
            by_stress = float(volume * np.sum(0.5 * (a.stress + b.stress) * 0.5 * (strain + strain.T)))
    else:
        turn = _superpose(a.positions, b.positions)
        moved = (b.positions - b.positions.mean(0)) @ turn - (a.positions - a.positions.mean(0))
        forces = 0.5 * (a.forces + b.forces @ turn)
    return b.energy - a.energy, -float(np.sum(forces * moved)), by_stress, len(a)


def _superpose(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The rotation ``R`` that brings ``(b - mean) @ R`` closest to ``a - mean`` (Kabsch)."""
    u, _, vt = np.linalg.svd((b - b.mean(0)).T @ (a - a.mean(0)))
    u[:, -1] *= np.sign(np.linalg.det(u @ vt))
    return u @ vt


def _slope(y: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    """Slope through the origin that minimises the sum of |y - slope x|, and that sum over the sum of |y|."""
    x = np.where(np.abs(x) < 1e-12, 1e-12, x)
    ratios, weights = y / x, np.abs(x)
    order = np.argsort(ratios)
    cumulative = np.cumsum(weights[order])
    slope = float(ratios[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
    return slope, float(np.abs(y - slope * x).sum() / max(np.abs(y).sum(), 1e-300))


def _surely_not_one(y: np.ndarray, x: np.ndarray, tolerance: float) -> bool:
    """Whether the slope stays beyond the tolerance of 1 in 98 % of resampled sets of pairs (bootstrap, seeded).

    Few pairs that are far apart are fitted by any slope; a wrong unit or sign shows in every pair.
    """
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(y), (200, len(y)))
    slopes = np.array([_slope(y[draw], x[draw])[0] for draw in draws])
    return bool(np.mean((slopes > 0) & (np.abs(np.log(np.abs(slopes) + 1e-300)) <= tolerance)) <= 0.02)


def _is_one(y: np.ndarray, x: np.ndarray) -> tuple[bool | None, dict[str, float]]:
    """Whether ``y`` is ``x`` (None: the pairs do not tell), with ``slope``, ``residual`` and number of ``pairs``."""
    slope, residual = _slope(y, x)
    values = {"slope": slope, "residual": residual, "pairs": float(len(y))}
    tolerance = max(SLOPE_TOLERANCE, residual)
    informative = residual <= WORST_RESIDUAL and slope != 0.0
    if informative and slope > 0 and abs(np.log(slope)) <= tolerance:
        return True, values
    return (False if informative and _surely_not_one(y, x, tolerance) else None), values


def _judge_forces(y: np.ndarray, x: np.ndarray, sizes: np.ndarray, units: FileUnits) -> Finding:
    name = "energy against forces"
    if len(y) < FEWEST_JUDGED:
        return Finding(name, "unknown", "too few neighbouring frames to test the sign of the forces")
    consistent, values = _is_one(y, x)
    slope, residual = values["slope"], values["residual"]
    if consistent:
        return Finding(name, "ok", f"energies change by {slope:.3f} times the work of the forces", values)
    if consistent is None:
        return Finding(
            name,
            "unknown",
            f"neighbouring frames are too far apart to compare energies with forces ({residual:.0%} unexplained): the "
            "sign of the forces could not be tested",
            values,
        )
    said = (
        f"between neighbouring frames the energy changes by {slope:.4g} times the work of the forces ({len(y)} pairs)"
    )
    causes = _named_ratio(abs(slope), float(np.median(sizes)), units)
    if slope < 0:
        other = units.forces_are_gradients
        said += ": the forces have the wrong sign; " + (
            "they are forces, not gradients" if other else "they are gradients: give --forces-are-gradients"
        )
        if other:
            said += ": give --forces-are-forces"
        if abs(np.log(-slope)) <= SLOPE_TOLERANCE:
            return Finding(name, "error", said, values)
        said += ", and besides"
    if causes:
        return Finding(name, "error", f"{said}: it looks as if {', or '.join(causes)}", values)
    return Finding(
        name,
        "error",
        f"{said}: energies and forces do not belong together (another level of theory, another column?)",
        values,
    )


def _named_ratio(ratio: float, atoms: float, units: FileUnits) -> list[str]:
    """Which other unit of energy, forces or length explains a slope of ``ratio``, likeliest first."""
    found: list[tuple[float, int, str]] = []

    def consider(predicted: float, order: int, sentence: str) -> None:
        off = abs(np.log(ratio / predicted))
        if off <= NAMED_WITHIN and abs(np.log(predicted)) > SLOPE_TOLERANCE:
            found.append((round(off, 2), order, sentence))

    energy, length, forces = (unit_factor(q, getattr(units, q)) for q in ("energy", "length", "forces"))
    for unit in _ENERGY_NAMES:
        consider(
            energy / unit_factor("energy", unit),
            0,
            f"energies are in {unit}, not {units.energy} (--units energy={unit})",
        )
    for unit in _LENGTH_NAMES:
        consider(
            unit_factor("length", unit) / length,
            1,
            f"positions are in {unit}, not {units.length} (--units length={unit})",
        )
    for one in _ENERGY_NAMES:
        for per in _LENGTH_NAMES[:2]:
            unit = f"{one}/{per}"
            consider(
                unit_factor("forces", unit) / forces,
                2,
                f"forces are in {unit}, not {units.forces} (--units forces={unit})",
            )
    if atoms > 1:
        consider(1.0 / atoms, 3, "energies are per atom, not total")
    return [sentence for _, _, sentence in sorted(found)[:3]]


def _judge_stress(y: np.ndarray, x: np.ndarray, units: FileUnits) -> Finding:
    name = "energy against stress"
    if len(y) < FEWEST_JUDGED:
        return Finding(name, "unknown", "too few neighbouring frames with different cells to test the stress")
    consistent, values = _is_one(y, x)
    slope = values["slope"]
    if consistent:
        return Finding(name, "ok", f"energies change by {slope:.3f} times the work of the stress", values)
    if consistent is None:
        return Finding(name, "unknown", "neighbouring frames are too far apart to test the stress", values)
    cause = "it has the opposite sign (positive under compression)" if slope < 0 else "its unit is another"
    if units.stress_is_pressure and slope < 0:
        cause = "it already is positive under tension"
    return Finding(
        name,
        "error",
        f"between neighbouring frames the energy changes by {slope:.4g} times the work of the stress ({len(y)} pairs): "
        f"{cause}, not {units.stress} (--units stress=...)",
        values,
    )


# Ranges


def check_distances(structures: Sequence[Structure], units: FileUnits) -> Finding:
    """Nearest distances against covalent radii: finds a mix-up of bohr, nm and A."""
    name = "distances"
    # Two atoms may be any distance apart: pairs of ions, scans of a bond.
    several = [structure for structure in structures if len(structure) > 2]
    some = several[:: max(1, len(several) // 200)]
    medians = [ratio for structure in some if (ratio := typical_ratio(structure)) is not None]
    if not medians:
        return Finding(name, "unknown", "no structure of three atoms or more to test distances on")
    typical = float(np.median(medians))
    values = {"typical": typical}
    if DISTANCE_RANGE[0] <= typical <= DISTANCE_RANGE[1]:
        return Finding(name, "ok", f"nearest neighbours at {typical:.2f} times their covalent radii", values)
    declared = unit_factor("length", units.length)
    others = [u for u in _LENGTH_NAMES if abs(np.log(typical * unit_factor("length", u) / declared)) < 0.3]
    cause = (
        f"they look as if they were in {others[0]} (--units length={others[0]})" if others else "their unit is another"
    )
    return Finding(
        name,
        "error",
        f"nearest neighbours are at {typical:.2f} times the sum of their covalent radii (usual: 0.9 to 1.2), with "
        f"positions read in {units.length}: {cause}",
        values,
    )


def atomic_energies() -> np.ndarray:
    """Statistical-model energy of the free atom in eV by atomic number, ``[119]``; within a few percent."""
    z = np.arange(MAX_ATOMIC_NUMBER + 1, dtype=np.float64)
    energies = HARTREE_TO_EV * (-0.768745 * z ** (7 / 3) + 0.5 * z**2 - 0.2699 * z ** (5 / 3))
    energies[1] = -0.5 * HARTREE_TO_EV
    energies[2] = -2.86 * HARTREE_TO_EV
    return energies


def check_total_energies(structures: Sequence[Structure], units: FileUnits) -> Finding:
    """Total energies against those of free atoms: finds all-electron energies in another unit."""
    name = "total energies"
    free = atomic_energies()
    ratios = np.array([(s.energy or 0.0) / free[s.numbers].sum() for s in structures])
    low, typical, high = np.percentile(ratios, [5, 50, 95])
    per_atom = [(s.energy or 0.0) / len(s) for s in structures]
    values = {"over_free_atoms": float(typical), "lowest_per_atom": min(per_atom), "highest_per_atom": max(per_atom)}
    if typical <= 0 or high - low > 0.06 * typical:
        return Finding(
            name, "unknown", "not all-electron total energies: their unit is not tested by themselves", values
        )
    if abs(np.log(typical)) < 0.06:
        return Finding(name, "ok", f"all-electron total energies, {typical:.3f} times those of the free atoms", values)
    compositions = {np.sort(s.numbers).tobytes() for s in structures}
    small_forces = _median_force(structures) < 0.3
    declared = unit_factor("energy", units.energy)
    for unit in _ENERGY_NAMES:
        predicted = declared / unit_factor("energy", unit)
        # Far above the free atoms nothing but a unit can be; below, a valence-only energy may happen to be.
        sure = predicted > 5 or (unit in ("eV", "hartree") and (len(compositions) >= 3 or small_forces))
        if abs(np.log(typical / predicted)) < 0.06 and abs(np.log(predicted)) > 0.5 and sure:
            return Finding(
                name,
                "error",
                f"energies are {typical:.4g} times those of the free atoms, read in {units.energy}: it looks as if "
                f"they are in {unit} (--units energy={unit}, and look at the unit of the forces)",
                values,
            )
    return Finding(name, "unknown", "not all-electron total energies: their unit is not tested by themselves", values)


def _median_force(structures: Sequence[Structure]) -> float:
    norms = [np.linalg.norm(s.forces, axis=1) for s in structures if s.forces is not None and len(s) > 1]
    return float(np.median(np.concatenate(norms))) if norms else 0.0


def check_forces(structures: Sequence[Structure], units: FileUnits) -> Finding:
    """Typical size of the forces."""
    name = "forces"
    typical = _median_force(structures)
    values = {"median_norm_eV_per_A": typical}
    if typical > LARGEST_MEDIAN_FORCE:
        return Finding(
            name,
            "error",
            f"half of the atoms feel more than {typical:.3g} eV/A with forces read in {units.forces} (usual: 0.1 to "
            "3): their unit is another (name it with --units forces=...)",
            values,
        )
    if typical == 0.0 and any(len(s) > 1 for s in structures):
        return Finding(name, "warning", "half of the forces are exactly zero; is the column the right one?", values)
    return Finding(name, "ok", f"typical force on an atom {typical:.3g} eV/A", values)
