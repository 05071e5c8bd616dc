"""The golden files through the ASE calculator and the batched evaluation."""

import numpy as np
import pytest

from mindscaip.engines.ase import MindscaipCalculator
from mindscaip.engines.batched import evaluate
from tests.golden.cases import DTYPES, GoldenCase, golden_cases, model_path

CASES = golden_cases()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_calculator(case: GoldenCase, dtype: str) -> None:
    atoms = case.structure.to_ase()
    atoms.calc = MindscaipCalculator(model_path(dtype))
    case.check(
        dtype,
        energy=atoms.get_potential_energy(),
        atom_energies=atoms.get_potential_energies(),
        forces=atoms.get_forces(),
    )
    if case.structure.pbc.all():
        case.check(dtype, virial=-atoms.get_stress(voigt=False) * atoms.get_volume())


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_batch(dtype: str) -> None:
    predictions = evaluate(model_path(dtype), [case.structure for case in CASES], len(CASES))
    for case, prediction in zip(CASES, predictions, strict=True):
        assert prediction.virial is not None
        case.check(
            dtype,
            energy=prediction.energy,
            atom_energies=prediction.atom_energies,
            forces=prediction.forces,
            virial=prediction.virial,
        )
        assert np.isfinite(prediction.forces).all()
