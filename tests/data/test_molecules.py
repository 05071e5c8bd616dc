from __future__ import annotations

import numpy as np
import pytest
from ase.data import covalent_radii

pytest.importorskip("rdkit", reason="RDKit is not installed")

from mindscaip.data.molecules import embed_smiles, molecule_from_smiles
from mindscaip.errors import MindscaipError


def test_geometry_has_the_bonds_of_the_smiles():
    structure = embed_smiles("CC(=O)N", seed=3)
    assert structure.symbols == ["C", "C", "O", "N", "H", "H", "H", "H", "H"]
    assert structure.group == "CC(=O)N"
    assert not structure.pbc.any()
    distances = np.linalg.norm(structure.positions[:, None] - structure.positions[None], axis=2)
    sums = covalent_radii[structure.numbers][:, None] + covalent_radii[structure.numbers][None]
    bonded = {tuple(sorted(map(int, pair))) for pair in np.argwhere(np.triu(distances < 1.25 * sums, k=1))}
    graph = molecule_from_smiles("CC(=O)N")
    assert bonded == {tuple(sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx()))) for b in graph.GetBonds()}


def test_the_seed_decides():
    one, same, other = (embed_smiles("CCCCO", seed=seed).positions for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_a_single_atom():
    structure = embed_smiles("[He]")
    assert structure.symbols == ["He"]
    np.testing.assert_array_equal(structure.positions, [[0, 0, 0]])


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("", "empty SMILES"),
        ("C(C", "is not a SMILES"),
        ("CXC", "is not a SMILES"),
        ("CC.O", "holds 2 molecules"),
        ("C[NH3+]", r"has charge \+1"),
        ("C[CH2]", "1 unpaired electrons"),
        ("C*", "wildcard"),
    ],
)
def test_what_is_refused(smiles, reason):
    with pytest.raises(MindscaipError, match=reason):
        embed_smiles(smiles)


def test_negative_seed():
    with pytest.raises(MindscaipError, match="seed -1 is negative"):
        embed_smiles("CC", seed=-1)
