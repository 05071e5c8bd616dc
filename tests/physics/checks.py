"""The checks besides continuity: each takes a potential and returns figures with the bounds that they have to keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers

from mindscaip.data.structure import Structure
from tests.physics.detector import TOLERANCES, Continuity, examine
from tests.physics.paths import Path, packed
from tests.physics.potentials import Evaluation, Potential

EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Figure:
    """One number of one check; ``bound`` is None where the number is only reported."""

    check: str
    value: float
    bound: float | None
    unit: str = ""

    @property
    def passed(self) -> bool:
        return self.bound is None or bool(self.value <= self.bound)

    def __str__(self) -> str:
        bound = "reported" if self.bound is None else f"{'<=' if self.passed else 'EXCEEDS'} {self.bound:.1e}"
        return f"{self.check}: {self.value:.1e} {self.unit} {bound}".replace("  ", " ")


def one(potential: Potential, structure: Structure) -> Evaluation:
    return potential([structure])[0]


def cluster(potential: Potential, num_atoms: int = 20, seed: int = 0) -> Structure:
    """Random atoms in vacuum, 30 within the cutoff."""
    rng = np.random.default_rng(seed)
    edge = potential.cutoff * (4.19 / 30 * num_atoms) ** (1 / 3)
    positions = packed(num_atoms, edge, 0.22 * potential.cutoff, rng, False)
    return Structure(_numbers(potential, num_atoms, rng), positions)


def liquid(potential: Potential, num_atoms: int, edge: float, seed: int = 0) -> Structure:
    """Random atoms in a skewed periodic cell; ``edge`` in units of the cutoff."""
    rng = np.random.default_rng(seed)
    edge = edge * potential.cutoff
    positions = packed(num_atoms, edge, 0.22 * potential.cutoff, rng, True)
    skew = np.array([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.1, 0.15, 1.0]])
    return Structure(_numbers(potential, num_atoms, rng), positions @ skew, edge * skew, [True] * 3)


def _numbers(potential: Potential, count: int, rng: np.random.Generator) -> np.ndarray:
    return np.array([atomic_numbers[e] for e in rng.choice(list(potential.elements), count)])


def systems(potential: Potential) -> dict[str, Structure]:
    """A cluster, a cell wider than the cutoff and one smaller than it."""
    return {
        "cluster": cluster(potential),
        "liquid": liquid(potential, 20, 1.5),
        "cell below the cutoff": liquid(potential, 4, 0.75),
    }


def energy_rounding(potential: Potential, value: Evaluation) -> float:
    """Energies are summed in float64 (a few ulp of the total), the network's part has the potential's own rounding."""
    return 16 * EPS * abs(value.energy) + 50 * potential.eps * len(value.forces)


def force_rounding(potential: Potential, value: Evaluation) -> float:
    """Forces pass through the network and back: some hundred operations deep, each with relative error eps."""
    return 500 * potential.eps * max(1.0, float(np.abs(value.forces).max()))


def sixth_order(energy: Callable[[float], float], h: float) -> float:
    """Derivative at 0 by central differences at ``h``, ``2h`` and ``3h``."""
    d1, d2, d3 = ((energy(n * h) - energy(-n * h)) / (2 * n * h) for n in (1, 2, 3))
    return 1.5 * d1 - 0.6 * d2 + 0.1 * d3


def _difference_bound(potential: Potential) -> float:
    # Steps of 1e-3 A: truncation below 1e-8; rounding of the energy over the step is 1e-8 in float64, 1e-3 in float32.
    return 1e-7 if potential.eps < 1e-12 else 2e-2


def forces_are_minus_the_gradient(potential: Potential) -> list[Figure]:
    """Directional derivatives of the energy along three random directions, relative to the length of the force."""
    figures = []
    for name, structure in systems(potential).items():
        value = one(potential, structure)
        worst = 0.0
        for rng in np.random.default_rng(1).spawn(3):
            direction = rng.normal(size=value.forces.shape)
            direction /= np.linalg.norm(direction)

            def energy(h: float, direction=direction, structure=structure) -> float:
                positions = structure.positions + h * direction
                return one(potential, Structure(structure.numbers, positions, structure.cell, structure.pbc)).energy

            error = abs(sixth_order(energy, 2e-3) + (value.forces * direction).sum())
            worst = max(worst, error / np.linalg.norm(value.forces))
        figures.append(Figure(f"force against gradient, {name}", worst, _difference_bound(potential)))
    return figures


def virial_is_minus_the_strain_derivative(potential: Potential) -> list[Figure]:
    """Six symmetric strains, relative to the size of the virial."""
    figures = []
    for name, structure in systems(potential).items():
        if not structure.pbc.any():
            continue
        virial = one(potential, structure).virial
        assert virial is not None
        worst = 0.0
        for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
            strain = np.zeros((3, 3))
            strain[a, b] += 0.5
            strain[b, a] += 0.5

            def energy(h: float, strain=strain, structure=structure) -> float:
                deform = np.eye(3) + h * strain
                moved = Structure(
                    structure.numbers, structure.positions @ deform, structure.cell @ deform, structure.pbc
                )
                return one(potential, moved).energy

            error = abs(sixth_order(energy, 5e-4) + (virial * strain).sum())
            worst = max(worst, error / np.linalg.norm(virial))
        figures.append(Figure(f"virial against strain derivative, {name}", worst, _difference_bound(potential)))
    return figures


def net_force_and_torque(potential: Potential) -> list[Figure]:
    """Of a molecule in vacuum. The torque vanishes only for a rotationally invariant potential."""
    structure = cluster(potential, 12)
    value = one(potential, structure)
    arms = structure.positions - structure.positions.mean(0)
    torque = np.linalg.norm(np.cross(arms, value.forces).sum(0))
    return [
        # A sum of N forces, each of which is a sum over edges that cancels pairwise.
        Figure("net force", float(np.abs(value.forces.sum(0)).max()), force_rounding(potential, value), "eV/A"),
        Figure("torque", float(torque), None, "eV"),
    ]


def _difference(potential: Potential, name: str, value: Evaluation, other: Evaluation) -> list[Figure]:
    figures = [
        Figure(f"{name}, energy", abs(other.energy - value.energy), energy_rounding(potential, value), "eV"),
        Figure(
            f"{name}, forces",
            float(np.abs(other.forces - value.forces).max()),
            force_rounding(potential, value),
            "eV/A",
        ),
    ]
    if value.virial is not None and other.virial is not None:
        arm = potential.cutoff * len(value.forces)
        error = float(np.abs(other.virial - value.virial).max())
        figures.append(Figure(f"{name}, virial", error, force_rounding(potential, value) * arm, "eV"))
    return figures


def permutation_and_translations(potential: Potential) -> list[Figure]:
    """Order of atoms, rigid translation, and atoms moved by lattice vectors."""
    figures = []
    rng = np.random.default_rng(2)
    for name, structure in systems(potential).items():
        value = one(potential, structure)
        order = rng.permutation(len(structure))
        back = np.argsort(order)
        shuffled = one(
            potential,
            Structure(structure.numbers[order], structure.positions[order], structure.cell, structure.pbc),
        )
        shuffled = Evaluation(shuffled.energy, shuffled.forces[back], shuffled.virial)
        figures += _difference(potential, f"permutation, {name}", value, shuffled)
        moved = Structure(
            structure.numbers, structure.positions + np.array([0.31, -7.13, 2.27]), structure.cell, structure.pbc
        )
        figures += _difference(potential, f"translation, {name}", value, one(potential, moved))
        if structure.pbc.any():
            shifts = rng.integers(-2, 3, (len(structure), 3)) @ structure.cell
            moved = Structure(structure.numbers, structure.positions + shifts, structure.cell, structure.pbc)
            figures += _difference(potential, f"lattice translation, {name}", value, one(potential, moved))
    return figures


def supercell(potential: Potential) -> list[Figure]:
    """Eight copies of a small cell have eight times its energy and the same forces."""
    cell = liquid(potential, 4, 0.75)
    value = one(potential, cell)
    offsets = np.array([[x, y, z] for x in range(2) for y in range(2) for z in range(2)]) @ cell.cell
    positions = np.concatenate([cell.positions + o for o in offsets])
    larger = one(potential, Structure(np.tile(cell.numbers, 8), positions, 2 * cell.cell, cell.pbc))
    wanted = Evaluation(
        8 * value.energy, np.tile(value.forces, (8, 1)), None if value.virial is None else 8 * value.virial
    )
    return _difference(potential, "supercell", wanted, larger)


def batch(potential: Potential) -> list[Figure]:
    """Structures evaluated together give what they give alone."""
    structures = list(systems(potential).values())
    figures = []
    for structure, together in zip(structures, potential(structures), strict=True):
        figures += _difference(potential, f"batch, {len(structure)} atoms", one(potential, structure), together)
    return figures


def isolated_atoms(potential: Potential) -> list[Figure]:
    """One atom has a finite energy and no force; atoms out of reach of each other have the sum of their energies."""
    numbers = [atomic_numbers[element] for element in potential.elements]
    alone = [one(potential, Structure([z], [[0.3, -0.2, 5.0]])) for z in numbers]
    assert all(np.isfinite(value.energy) for value in alone)
    force = max(float(np.abs(value.forces).max()) for value in alone)
    spread = np.arange(len(numbers))[:, None] * [potential.interaction_range + 1.0, 0.0, 0.0]
    together = one(potential, Structure(numbers, spread))
    force = max(force, float(np.abs(together.forces).max()))
    error = abs(together.energy - sum(value.energy for value in alone))
    return [
        Figure("isolated atoms, force", force, 0.0, "eV/A"),
        Figure("isolated atoms, energy", error, energy_rounding(potential, together), "eV"),
    ]


def unknown_element(potential: Potential) -> list[Figure]:
    """An element that the potential does not know is refused with an error that names it."""
    unknown = next(e for e in ("Kr", "Rn", "Lr") if e not in potential.elements)
    structure = Structure([atomic_numbers[potential.elements[0]], atomic_numbers[unknown]], [[0.0, 0, 0], [1.0, 0, 0]])
    try:
        one(potential, structure)
    except Exception as error:
        named = unknown in str(error)
        return [Figure(f"unknown element ({error})", 0.0 if named else 1.0, 0.0)]
    return [Figure("unknown element (no error)", 1.0, 0.0)]


def locality(potential: Potential) -> list[Figure]:
    """Moving an atom beyond the interaction range changes nothing, to the last bit."""
    near = cluster(potential, 12)
    away = near.positions.max(0) + potential.interaction_range
    far = [
        Structure(np.append(near.numbers, near.numbers[0]), np.vstack([near.positions, p])) for p in (away, 3.7 * away)
    ]
    one_place, other_place = (one(potential, structure) for structure in far)
    figures = [
        Figure("distant atom moved, energy", abs(one_place.energy - other_place.energy), 0.0, "eV"),
        Figure("distant atom moved, forces", float(np.abs(one_place.forces - other_place.forces).max()), 0.0, "eV/A"),
    ]
    # Whether it is there at all changes the shapes of arrays, and with them the rounding.
    without = one(potential, near)
    error = float(np.abs(one_place.forces[:-1] - without.forces).max())
    return [*figures, Figure("distant atom added, forces", error, force_rounding(potential, without), "eV/A")]


CHECKS: tuple[Callable[[Potential], list[Figure]], ...] = (
    forces_are_minus_the_gradient,
    virial_is_minus_the_strain_derivative,
    net_force_and_torque,
    permutation_and_translations,
    supercell,
    batch,
    isolated_atoms,
    unknown_element,
    locality,
)


def continuity(potential: Potential, path: Path, *, derivatives: int = 4, levels: int = 9) -> Continuity:
    """Jumps of the energy and of its first derivatives (four of them unless told otherwise) along ``path``."""
    tolerances = TOLERANCES[: derivatives + 1]
    return examine(path.sample(potential), path.start, path.stop, step=path.step, tolerances=tolerances, levels=levels)
