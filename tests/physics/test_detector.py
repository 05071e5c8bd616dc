"""The detector finds planted jumps of known size in each derivative, and nothing where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.lj import LennardJones

from mindscaip.data.structure import Structure
from tests.physics import paths
from tests.physics.cases import smooth
from tests.physics.checks import continuity
from tests.physics.detector import ORDERS, TOLERANCES, examine
from tests.physics.potentials import CalculatorPotential, Planted

PLACE = 0.6137


def wave(t: np.ndarray, jump: float, order: int) -> tuple[np.ndarray, np.ndarray]:
    """A sum of sines, and a jump of derivative ``order`` of its energy."""
    beyond = np.maximum(t - PLACE, 0.0)
    factorial = np.prod(np.arange(1, order + 1))
    energy = np.sin(3 * t) + 0.2 * np.cos(11 * t) + jump * np.where(t > PLACE, beyond**order, 0.0) / factorial
    slope = 3 * np.cos(3 * t) - 2.2 * np.sin(11 * t)
    if order > 0:
        slope = slope + jump * order * np.where(t > PLACE, beyond ** (order - 1), 0.0) / factorial
    return energy, slope


def test_a_smooth_function_has_no_jump_and_differences_converge_at_their_order():
    found = examine(lambda t: wave(t, 0.0, 0), 0.0, 1.5, step=0.05)
    assert found.smooth
    for n, derivative in enumerate(found.derivatives[1:], start=1):
        coarse, fine = derivative.halving[:2]
        assert np.log2(coarse / fine) > 8.5 - n - 1


@pytest.mark.parametrize("order", range(ORDERS))
@pytest.mark.parametrize("times", [5.0, 500.0])
def test_a_planted_jump_is_found_with_its_place_and_size(order, times):
    size = examine(lambda t: wave(t, 0.0, 0), 0.0, 1.5).derivatives[order].size
    jump = times * TOLERANCES[order] * size
    found = examine(lambda t: wave(t, jump, order), 0.0, 1.5)
    broken = found.derivatives[order]
    assert broken.breaks == 1
    assert 0.5 * jump < broken.jump < 15 * jump
    assert broken.place == pytest.approx(PLACE, abs=0.02)
    assert found.lowest_jump == order


@pytest.mark.parametrize("order", range(ORDERS))
def test_a_jump_far_below_the_tolerance_is_not_claimed(order):
    size = examine(lambda t: wave(t, 0.0, 0), 0.0, 1.5).derivatives[order].size
    assert examine(lambda t: wave(t, 0.02 * TOLERANCES[order] * size, order), 0.0, 1.5).derivatives[order].breaks == 0


@pytest.mark.parametrize("order", range(ORDERS))
def test_a_jump_planted_into_a_model_is_found(order):
    """A pair term of one distance, ten times the tolerance, on top of a smooth model."""
    model = smooth("source")
    structure = Structure([6, 8, 1], [[0.0, 0, 0], [1.6, 0.2, 0], [0.4, 1.3, 0.3]])
    velocities = np.array([[0.0, 0, 0], [1.0, 0, 0], [0, 0, 0]])
    path = paths.straight("three atoms", structure, velocities, 0.0, 1.0)
    plain = continuity(model, path)
    assert plain.smooth
    jump = 10 * TOLERANCES[order] * plain.derivatives[order].size
    found = continuity(Planted(model, (0, 1), 2.2, order, jump), path)
    assert found.derivatives[order].breaks == 1
    distance = np.hypot(1.6 + found.derivatives[order].place, 0.2)
    assert distance == pytest.approx(2.2, abs=0.01)


def test_an_ase_calculator_goes_through_the_same_interface():
    """Lennard-Jones cut off by a shift of the energy: smooth inside, with a kink at the cutoff."""
    structure = Structure([18, 18], [[0.0, 0, 0], [3.5, 0, 0]])
    velocities = np.array([[0.0, 0, 0], [1.0, 0, 0]])
    path = paths.straight("two atoms", structure, velocities, 0.0, 1.0)

    def potential(cutoff: float) -> CalculatorPotential:
        return CalculatorPotential(LennardJones(sigma=3.0, epsilon=0.1, rc=cutoff), ["Ar"], cutoff)

    assert continuity(potential(9.0), path).smooth
    kink = continuity(potential(4.0), path)
    assert kink.lowest_jump == 1
    assert kink.derivatives[1].place == pytest.approx(0.5, abs=0.01)
