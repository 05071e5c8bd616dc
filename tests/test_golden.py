"""The golden files, in every engine: one energy, one set of forces, one virial."""

import pytest
import torch

from mindscaip.engines.ase import MindscaipCalculator
from mindscaip.engines.batched import evaluate
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.model.derivatives import forces_from_edge_gradients, virial_from_edge_gradients
from mindscaip.units import EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM
from tests.golden.cases import DTYPES, GoldenCase, golden_cases, model_path
from tests.models import energy_forces_virial, small_model

CASES = pytest.mark.parametrize("case", golden_cases(), ids=lambda case: case.name)
BOTH = pytest.mark.parametrize("dtype", DTYPES)


@BOTH
@CASES
def test_eager_model(case: GoldenCase, dtype: str):
    energies, forces, virial = energy_forces_virial(small_model(dtype=getattr(torch, dtype), seed=7), case.structure)
    case.check(dtype, energy=energies.sum(), atom_energies=energies, forces=forces, virial=virial)


@BOTH
@CASES
def test_exported_module(case: GoldenCase, dtype: str):
    module = torch.jit.load(model_path(dtype))
    edges = neighbor_list(case.structure, 4.8)
    index, vectors = torch.from_numpy(edges.index), torch.from_numpy(edges.vectors)
    energies, gradients, _ = module(torch.from_numpy(case.structure.numbers), index, vectors)
    case.check(
        dtype,
        energy=energies.sum().item(),
        atom_energies=energies.numpy(),
        forces=forces_from_edge_gradients(gradients, index, len(case.structure)).numpy(),
        virial=virial_from_edge_gradients(gradients, vectors).numpy(),
    )


@BOTH
@CASES
def test_ase(case: GoldenCase, dtype: str):
    atoms = case.structure.to_ase()
    atoms.calc = MindscaipCalculator(model_path(dtype))
    virial = None
    if case.structure.pbc.all():
        virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
    case.check(
        dtype,
        energy=atoms.get_potential_energy(),
        atom_energies=atoms.get_potential_energies(),
        forces=atoms.get_forces(),
        virial=virial,
    )


@BOTH
def test_batches(dtype: str):
    cases = golden_cases()
    for case, prediction in zip(cases, evaluate(model_path(dtype), [c.structure for c in cases], 4), strict=True):
        case.check(
            dtype,
            energy=prediction.energy,
            atom_energies=prediction.atom_energies,
            forces=prediction.forces,
            virial=prediction.virial,
        )


@BOTH
@CASES
@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_openmm(case: GoldenCase, dtype: str, platform: str):
    openmm = pytest.importorskip("openmm")
    pytest.importorskip("openmmtorch")
    from mindscaip.engines.openmm import openmm_box, torch_force

    structure = case.structure
    system = openmm.System()
    for _ in structure.numbers:
        system.addParticle(1.0)
    periodic = bool(structure.pbc.all())
    if periodic:
        # The golden cells stand in OpenMM's reduced form already: no rotation enters.
        box, rotation = openmm_box(structure.cell)
        assert abs(rotation - [[1, 0, 0], [0, 1, 0], [0, 0, 1]]).max() < 1e-12
        system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in box / NM_TO_ANGSTROM))
    system.addForce(torch_force(model_path(dtype), structure.numbers, periodic=periodic))
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform))
    context.setPositions(structure.positions / NM_TO_ANGSTROM)
    state = context.getState(getEnergy=True, getForces=True)
    case.check(
        dtype,
        energy=state.getPotentialEnergy()._value / EV_TO_KJ_PER_MOL,
        forces=state.getForces(asNumpy=True)._value / EV_TO_KJ_PER_MOL / NM_TO_ANGSTROM,
    )


@BOTH
@CASES
@pytest.mark.parametrize("units", ["metal", "real"])
def test_lammps(case: GoldenCase, dtype: str, units: str, tmp_path, plugin):
    from mindscaip.engines.lammps import evaluate as lammps_evaluate

    result = lammps_evaluate(model_path(dtype), case.structure, units=units, work=tmp_path)
    case.check(
        dtype,
        energy=result.energy,
        atom_energies=result.atom_energies,
        forces=result.forces,
        virial=result.virial,
    )
