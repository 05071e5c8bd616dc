"""Langevin dynamics with a calculator, whose state can be saved: how reference geometries are sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from mindscaip.data.point import CalculationError, single_point
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.units import AMU_ANGSTROM2_PER_FS2_TO_EV, KELVIN_TO_EV

MAX_FORCE = 100.0
"""eV/A; beyond it atoms have collided and the trajectory is over. Bonds at 5000 K stay below 50 eV/A."""


@dataclass(frozen=True)
class Sampling:
    """How each molecule is sampled.

    Attributes:
        temperature: of the Langevin dynamics in K.
        frames: labelled frames per molecule.
        trajectories: independent trajectories per molecule, each with its own conformer (from SMILES) and velocities.
        timestep: fs.
        interval: steps between frames.
        equilibration: steps before the first frame.
        friction: 1/fs.
        relax_steps: at most so many steps of relaxation before the dynamics.
        seed: the same seed gives the same frames, whatever the number of workers.
    """

    temperature: float = 500.0
    frames: int = 200
    trajectories: int = 4
    timestep: float = 1.0
    interval: int = 10
    equilibration: int = 200
    friction: float = 0.02
    relax_steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("trajectories", 1), ("interval", 1)):
            if getattr(self, name) < least:
                raise MindscaipError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("equilibration", "relax_steps", "seed", "friction", "temperature"):
            if not getattr(self, name) >= 0:
                raise MindscaipError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 < self.timestep <= 10:
            raise MindscaipError(f"timestep is {self.timestep} fs; it must lie in (0, 10], 0.5 to 1 is usual")


def forget_history(calculator: BaseCalculator) -> None:
    """Make the next result independent of the calculations before, as far as the calculator can."""
    forget = getattr(calculator, "forget", None) or getattr(calculator, "reset", None)
    if forget is not None:
        forget()


class Langevin:
    """Langevin dynamics by the BAOAB splitting (Leimkuhler and Matthews 2013), with a state that can be saved.

    ``dv = F/m dt - gamma v dt + sqrt(2 gamma kT/m) dW``; one step of length h is::

        B  v += h/2 F/m
        A  x += h/2 v
        O  v  = c v + sqrt((1 - c^2) kT/m) R,  c = exp(-gamma h)
        A  x += h/2 v
        B  v += h/2 F/m

    Units: A, fs, eV, amu, K. The calculator forgets its history at the start, so that a run from a saved state repeats
    one that was not interrupted.
    """

    def __init__(
        self,
        atoms: Atoms,
        velocities: np.ndarray,
        calculator: BaseCalculator,
        sampling: Sampling,
        rng: np.random.Generator,
        step: int,
    ) -> None:
        self.atoms = atoms.copy()
        self.atoms.calc = None
        self.velocities = velocities
        self.calculator = calculator
        self.rng = rng
        self.step = step
        self.timestep = sampling.timestep
        masses = self.atoms.get_masses()[:, None] * AMU_ANGSTROM2_PER_FS2_TO_EV  # eV fs^2 / A^2
        self.inverse_masses = 1.0 / masses
        self.thermal_speed = np.sqrt(KELVIN_TO_EV * sampling.temperature / masses)
        self.damping = float(np.exp(-sampling.friction * sampling.timestep))
        forget_history(calculator)
        self.energy, self.forces = self._evaluate()

    @classmethod
    def from_rest(
        cls, atoms: Atoms, calculator: BaseCalculator, sampling: Sampling, rng: np.random.Generator
    ) -> Langevin:
        """Start with Maxwell-Boltzmann velocities."""
        dynamics = cls(atoms, np.zeros((len(atoms), 3)), calculator, sampling, rng, step=0)
        dynamics.velocities = dynamics.thermal_speed * rng.standard_normal((len(atoms), 3))
        return dynamics

    @classmethod
    def from_state(cls, calculator: BaseCalculator, sampling: Sampling, state: dict[str, Any]) -> Langevin:
        """Go on from :meth:`state`."""
        atoms = Atoms(state["numbers"], np.array(state["positions"]), cell=state["cell"], pbc=state["pbc"])
        rng = np.random.default_rng()
        rng.bit_generator.state = state["rng"]
        return cls(atoms, np.array(state["velocities"]), calculator, sampling, rng, state["step"])

    def state(self) -> dict[str, Any]:
        """All that the next step needs, as JSON can hold it without loss."""
        return {
            "numbers": self.atoms.numbers.tolist(),
            "cell": np.asarray(self.atoms.cell).tolist(),
            "pbc": self.atoms.pbc.tolist(),
            "positions": self.atoms.positions.tolist(),
            "velocities": self.velocities.tolist(),
            "rng": self.rng.bit_generator.state,
            "step": self.step,
        }

    def run(self, steps: int) -> None:
        """Advance by ``steps``.

        Raises:
            CalculationError: no answer from the calculator, or a force beyond what bonds can exert.
        """
        h, c = self.timestep, self.damping
        noise = np.sqrt(1.0 - c * c) * self.thermal_speed
        x, v = self.atoms.positions, self.velocities
        for _ in range(steps):
            v += 0.5 * h * self.forces * self.inverse_masses
            x += 0.5 * h * v
            v *= c
            v += noise * self.rng.standard_normal(v.shape)
            x += 0.5 * h * v
            self.step += 1
            self.energy, self.forces = self._evaluate()
            v += 0.5 * h * self.forces * self.inverse_masses

    def _evaluate(self) -> tuple[float, np.ndarray]:
        try:
            energy, forces = single_point(self.calculator, self.atoms)
        except CalculationError as error:
            raise CalculationError(f"step {self.step}: {error}") from error
        largest = float(np.abs(forces).max())
        if largest > MAX_FORCE:
            raise CalculationError(
                f"step {self.step}: a force of {largest:.0f} eV/A, the trajectory explodes; lower the temperature "
                "or the time step"
            )
        return energy, forces

    def frame(self, group: str) -> Structure:
        """The present geometry with its labels."""
        stress = None
        if self.atoms.pbc.all() and "stress" in getattr(self.calculator, "implemented_properties", ()):
            xx, yy, zz, yz, xz, xy = self.calculator.get_property("stress", self.atoms)
            stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        return Structure(
            numbers=self.atoms.numbers,
            positions=self.atoms.positions.copy(),
            cell=np.array(self.atoms.cell),
            pbc=self.atoms.pbc.copy(),
            energy=self.energy,
            forces=self.forces,
            stress=stress,
            group=group,
        )
