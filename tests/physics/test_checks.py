"""Derivatives, invariances, limits and locality of eager and exported models; the checks fail on what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mindscaip.data.structure import Structure
from tests.models import ELEMENTS, REFERENCES, small_model, write_small_model
from tests.physics.cases import smooth
from tests.physics.checks import CHECKS, forces_are_minus_the_gradient, locality, net_force_and_torque, one
from tests.physics.potentials import Evaluation, ModelPotential, Planted, eager, exported

RANKINGS = ("source", "mutual")


@pytest.fixture(scope="module", params=[*RANKINGS, "exported", "float32"])
def potential(request, tmp_path_factory) -> ModelPotential:
    if request.param in RANKINGS:
        return smooth(request.param)
    dtype = "float64" if request.param == "exported" else "float32"
    return exported(write_small_model(tmp_path_factory.mktemp("models") / "m.pt", ranking="mutual", dtype=dtype))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_check(check, potential):
    figures = check(potential)
    assert figures
    for figure in figures:
        assert figure.passed, str(figure)


class Wrong:
    """A potential with one thing wrong about it."""

    def __init__(self, potential: ModelPotential, what: str) -> None:
        self.potential, self.what = potential, what
        self.name, self.elements, self.cutoff = what, potential.elements, potential.cutoff
        self.interaction_range, self.eps = potential.interaction_range, potential.eps

    def __call__(self, structures: list[Structure]) -> list[Evaluation]:
        out = []
        for structure, value in zip(structures, self.potential(structures), strict=True):
            forces, energy = value.forces.copy(), value.energy
            if self.what == "force":
                forces[0] *= 1 + 1e-5
            else:  # a Coulomb term that its interaction range does not cover
                energy += 1e-6 / np.linalg.norm(structure.positions[0] - structure.positions[-1])
            out.append(Evaluation(energy, forces, value.virial))
        return out


def test_checks_find_a_wrong_force_and_an_interaction_without_end():
    potential = smooth("source")
    wrong = Wrong(potential, "force")
    assert not all(f.passed for f in net_force_and_torque(wrong))
    assert not all(f.passed for f in forces_are_minus_the_gradient(wrong))
    assert not all(f.passed for f in locality(Wrong(potential, "range")))


def test_planted_terms_are_conservative():
    planted = Planted(smooth("source"), (0, 1), 1.0, 3, 5.0)
    assert all(f.passed for f in forces_are_minus_the_gradient(planted)[:1])


def test_no_atoms_at_all():
    model = small_model()
    none = torch.zeros(0, dtype=torch.int64)
    energies, _ = model(none, none.reshape(2, 0), torch.zeros((0, 3), dtype=torch.float64))
    assert energies.shape == (0,)


def test_an_isolated_atom_is_near_its_reference():
    assert abs(one(smooth("source"), Structure([8], [[0.0, 0, 0]])).energy - REFERENCES["O"]) < 20.0


def test_direct_forces_are_an_output_and_not_a_gradient():
    potential = eager(small_model(head="direct"), ELEMENTS, "direct")
    figures = forces_are_minus_the_gradient(potential)
    assert not any(f.passed for f in figures)
