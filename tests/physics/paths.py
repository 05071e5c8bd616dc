"""Paths of structures along which a potential is examined.

A path gives the structure at ``t`` with its velocity in two parts: ``dx/dt = x L + v``, where ``L`` (strain rate) moves
cell and atoms together and ``v`` moves atoms. The slope of the energy is then ``dE/dt = -F . v - W : L``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase.build import bulk
from ase.data import atomic_numbers

from mindscaip.data.structure import Structure
from tests.physics.detector import Sample
from tests.physics.potentials import Potential


@dataclass(frozen=True)
class Point:
    """Structure, velocities of its atoms ``[N, 3]`` and strain rate ``[3, 3]`` at one place of a path."""

    structure: Structure
    velocities: np.ndarray
    strain_rate: np.ndarray


@dataclass(frozen=True)
class Path:
    """A named path from ``start`` to ``stop`` (A; the fastest atom moves about 1 A per unit)."""

    name: str
    at: Callable[[float], Point]
    start: float
    stop: float
    step: float = 0.02

    def sample(self, potential: Potential) -> Sample:
        """Energies and slopes of ``potential`` along the path."""

        def sample(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            points = [self.at(float(x)) for x in t]
            energies, slopes = np.zeros(len(t)), np.zeros(len(t))
            for n, (point, value) in enumerate(zip(points, potential([p.structure for p in points]), strict=True)):
                energies[n] = value.energy
                slopes[n] = -(value.forces * point.velocities).sum()
                if point.strain_rate.any():
                    assert value.virial is not None, f"{potential.name} gives no virial: leave out the crystals"
                    slopes[n] -= (value.virial * point.strain_rate).sum()
            return energies, slopes

        return sample


def packed(num_atoms: int, edge: float, closest: float, rng: np.random.Generator, periodic: bool) -> np.ndarray:
    """Random positions at least ``closest`` apart in a cube, by rejection."""
    positions: list[np.ndarray] = []
    while len(positions) < num_atoms:
        candidate = rng.uniform(0.0, edge, 3)
        difference = np.array(positions).reshape(-1, 3) - candidate
        if periodic:
            difference -= edge * np.round(difference / edge)
        if (np.linalg.norm(difference, axis=1) > closest).all():
            positions.append(candidate)
    return np.array(positions)


def _numbers(elements: Sequence[str], count: int, rng: np.random.Generator) -> np.ndarray:
    return np.array([atomic_numbers[e] for e in rng.choice(list(elements), count)])


def wandering(
    name: str, potential: Potential, *, num_atoms: int, density: float, periodic: bool, length: float, seed: int
) -> Path:
    """Every atom on a smooth random path of its own: three sines per coordinate, of about 1 A per unit.

    Args:
        density: atoms per A^3.
    """
    spacing = density ** (-1 / 3)
    edge = num_atoms ** (1 / 3) * spacing
    times = np.linspace(0.0, length, 21)[:, None, None]
    # Of a few random paths the one that keeps atoms farthest apart: near-collisions are not what is examined.
    best, chosen = -1.0, None
    for rng in np.random.default_rng(seed).spawn(40):
        start = packed(num_atoms, edge, 0.7 * spacing, rng, periodic)
        frequency = rng.uniform(0.5, 1.5, (3, num_atoms, 3))
        phase = rng.uniform(0.0, 2 * np.pi, (3, num_atoms, 3))
        x = start + sum((0.45 / f) * (np.sin(f * times + p) - np.sin(p)) for f, p in zip(frequency, phase, strict=True))
        difference = x[:, :, None] - x[:, None]
        if periodic:
            difference -= edge * np.round(difference / edge)
        closest = np.linalg.norm(difference[:, ~np.eye(num_atoms, dtype=bool)], axis=2).min()
        if closest > best:
            best, chosen = closest, (start, frequency, phase)
    assert chosen is not None
    start, frequency, phase = chosen
    amplitude = 0.45 / frequency
    start = start - (amplitude * np.sin(phase)).sum(0)
    numbers = _numbers(potential.elements, num_atoms, np.random.default_rng(seed))
    cell = np.eye(3) * (edge if periodic else 0.0)

    def at(t: float) -> Point:
        angle = frequency * t + phase
        structure = Structure(numbers, start + (amplitude * np.sin(angle)).sum(0), cell, [periodic] * 3)
        return Point(structure, (amplitude * frequency * np.cos(angle)).sum(0), np.zeros((3, 3)))

    return Path(name, at, 0.0, length)


def strained_crystal(name: str, potential: Potential, lattice: str, spacing: float, strain: np.ndarray) -> Path:
    """A perfect crystal under ``I + t strain``: at ``t = 0`` whole shells of neighbours are tied.

    Args:
        spacing: lattice constant of the cubic cell, A.
        strain: symmetric ``[3, 3]``, divided by the reach of the potential so that ``t`` is in A at its cutoff.
    """
    crystal = bulk(potential.elements[0], lattice, a=spacing, cubic=True)
    strain = strain / potential.cutoff

    def at(t: float) -> Point:
        deform = np.eye(3) + t * strain
        structure = Structure(
            crystal.numbers, crystal.positions @ deform, np.asarray(crystal.cell) @ deform, [True] * 3
        )
        return Point(structure, np.zeros((len(crystal), 3)), np.linalg.solve(deform, strain))

    # Off the middle, so that the tie stands between two samples of no level.
    return Path(name, at, -0.2501, 0.2499)


def straight(name: str, structure: Structure, velocities: np.ndarray, start: float, stop: float) -> Path:
    """Atoms in uniform motion."""

    def at(t: float) -> Point:
        moved = Structure(structure.numbers, structure.positions + t * velocities, structure.cell, structure.pbc)
        return Point(moved, velocities, np.zeros((3, 3)))

    return Path(name, at, start, stop)


def leaving_a_surface(potential: Potential) -> Path:
    """An atom goes straight up from a slab that is periodic in two directions, until nothing reaches it."""
    spacing = 0.55 * potential.cutoff
    layer = np.array([[x, y, 0.0] for x in range(2) for y in range(2)]) * spacing
    slab = np.concatenate([layer, layer + np.array([0.5, 0.5, -0.6]) * spacing])
    positions = np.concatenate([slab, [[0.5 * spacing, 0.45 * spacing, 0.5 * spacing]]])
    numbers = np.array([atomic_numbers[potential.elements[n % len(potential.elements)]] for n in range(9)])
    cell = np.diag([2 * spacing, 2 * spacing, 0.0])
    velocities = np.zeros((9, 3))
    velocities[8, 2] = 1.0
    stop = 1.4 * potential.cutoff - 0.5 * spacing
    return straight(
        "atom leaves a surface", Structure(numbers, positions, cell, [True, True, False]), velocities, 0, stop
    )


def separating_fragments(potential: Potential) -> Path:
    """Two clusters of six atoms pulled apart until neither feels the other."""
    rng = np.random.default_rng(6)
    edge = 0.6 * potential.cutoff
    one = packed(6, edge, 0.25 * potential.cutoff, rng, False)
    two = packed(6, edge, 0.25 * potential.cutoff, rng, False) + np.array([edge + 0.25 * potential.cutoff, 0.0, 0.0])
    velocities = np.concatenate([np.zeros((6, 3)), np.tile([1.0, 0.0, 0.0], (6, 1))])
    structure = Structure(_numbers(potential.elements, 12, rng), np.concatenate([one, two]))
    return straight("fragments separate", structure, velocities, 0.0, potential.cutoff)


def grazing(potential: Potential) -> Path:
    """One atom passes a cluster: closest approach to each at, or 1e-4 A off, a radius that matters."""
    c = potential.cutoff
    radii = [c, c - 1e-4, c + 1e-4, getattr(potential, "list_cutoff", c), 0.8 * c]
    # The atoms stand on the axis x = 0 at different heights below the line of flight, each a radius away from it.
    cluster = np.array([[0.1 * n, -r * np.cos(0.25 * n), -r * np.sin(0.25 * n)] for n, r in enumerate(radii)])
    partners = cluster * 0.75 + np.array([0.3, 0.1, 0.2])
    positions = np.concatenate([cluster, partners, [[0.0, 0.0, 0.0]]])
    numbers = np.array([atomic_numbers[potential.elements[n % len(potential.elements)]] for n in range(len(positions))])
    velocities = np.zeros_like(positions)
    velocities[-1, 0] = 1.0
    return straight("atom grazes cutoffs", Structure(numbers, positions), velocities, -0.4 * c, 0.4 * c)


def dense(potential: Potential, length: float = 0.7) -> Path:
    """A liquid in a small periodic cell: about 27 atoms within the cutoff."""
    return wandering(
        "dense liquid",
        potential,
        num_atoms=24,
        density=27 / (4.19 * potential.cutoff**3),
        periodic=True,
        length=length,
        seed=1,
    )


def sparse(potential: Potential, length: float = 1.6) -> Path:
    """A gas of clusters in vacuum: about 6 atoms within the cutoff, many atoms with two or three."""
    return wandering(
        "sparse gas",
        potential,
        num_atoms=40,
        density=7 / (4.19 * potential.cutoff**3),
        periodic=False,
        length=length,
        seed=2,
    )


def crystals(potential: Potential) -> list[Path]:
    """fcc, bcc and diamond through their perfect lattice, under a general strain and (fcc) along the Bain path."""
    general = np.array([[0.9, 0.3, -0.2], [0.3, -0.5, 0.4], [-0.2, 0.4, 0.3]])
    bain = np.diag([0.5, 0.5, -1.0])
    c = potential.cutoff
    return [
        strained_crystal("fcc under strain", potential, "fcc", 0.9 * c, general),
        strained_crystal("fcc, tetragonal", potential, "fcc", 0.9 * c, bain),
        strained_crystal("bcc under strain", potential, "bcc", 0.75 * c, general),
        strained_crystal("diamond under strain", potential, "diamond", 1.1 * c, general),
    ]


def all_paths(potential: Potential, *, quick: bool = False) -> list[Path]:
    """Every path; ``quick`` shortens the two random ones."""
    return [
        dense(potential, 0.2 if quick else 0.7),
        sparse(potential, 0.5 if quick else 2.0),
        separating_fragments(potential),
        grazing(potential),
        leaving_a_surface(potential),
        *crystals(potential),
    ]


@dataclass(frozen=True)
class Events:
    """Neighbours that enter and leave along a path."""

    list_entries: int
    list_exits: int
    window_entries: int
    window_exits: int
    widest_window: int


def count_events(path: Path, potential, samples: int = 81) -> Events:
    """Compare lists and windows at successive places (what enters and leaves in between is not counted)."""
    counts = np.zeros(4, dtype=int)
    widest = 0
    before = None
    for t in np.linspace(path.start, path.stop, samples):
        structure = path.at(float(t)).structure
        now = potential.window_edges(structure)
        if before is not None:
            counts += [
                len(now[0] - before[0]),
                len(before[0] - now[0]),
                len(now[1] - before[1]),
                len(before[1] - now[1]),
            ]
        if now[1]:
            widest = max(widest, int(np.bincount([edge[0] for edge in now[1]]).max()))
        before = now
    return Events(*counts.tolist(), widest)
