"""What molecules can be given as, and what is said of those that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest

from mindscaip.bsct.bridges import perceive_bonds
from mindscaip.bsct.inputs import read_sources
from mindscaip.data.store import write_store
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from tests.bsct.makers import FIXTURE, reference_data

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed: pip install 'mindscaip[label]'")


@pytest.fixture
def ethanol():
    from mindscaip.data.molecules import embed_smiles

    return embed_smiles("CCO", seed=1)


def names(inputs):
    sources, failed = read_sources([str(text) for text in inputs])
    return [source.name for source in sources], dict(failed)


def test_a_mixture_of_inputs(tmp_path, ethanol):
    write_store(tmp_path / "store.h5", [ethanol])
    lines = [f"{s} {x} {y} {z}" for s, (x, y, z) in zip(ethanol.symbols, ethanol.positions, strict=True)]
    (tmp_path / "frames.xyz").write_text("\n".join([str(len(lines)), "", *lines, ""]))
    (tmp_path / "list.smi").write_text("CO methanol\n\n# nothing\nCN\nCO again\n")
    inputs = ["CCO", tmp_path / "store.h5", tmp_path / "frames.xyz", tmp_path / "list.smi", FIXTURE]
    found, failed = names(inputs)
    assert failed == {}
    assert found[:5] == ["CCO", "store.h5#1", "CO", "CN", *found[4:5]]  # the frame is the geometry of the store
    assert all(name.startswith(f"{FIXTURE.name}:") for name in found[4:])
    assert len(found) > 8
    sources, _ = read_sources([str(tmp_path / "frames.xyz"), "CCO"])
    geometry, smiles = sources
    assert {tuple(sorted(b)) for b in geometry.bonds} == {tuple(sorted(b)) for b in smiles.bonds}
    np.testing.assert_allclose(geometry.geometry(0), ethanol.positions)
    np.testing.assert_allclose(smiles.geometry(1), ethanol.positions)
    assert np.abs(smiles.geometry(2) - ethanol.positions).max() > 0.01
    assert smiles.identity(1) != smiles.identity(2)
    assert geometry.identity(1) == geometry.identity(2)


def test_sdf(tmp_path, ethanol):
    spatial = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    from rdkit.Chem import AllChem

    AllChem.EmbedMolecule(spatial, randomSeed=7)
    flat = Chem.MolFromSmiles("CN")
    charged = Chem.MolFromSmiles("C[NH3+]")
    blocks = [Chem.MolToMolBlock(m) for m in (spatial, flat, charged)]
    damaged = blocks[0].replace(" C  ", " Qq ", 1)
    path = tmp_path / "some.sdf"
    path.write_text("$$$$\n".join([blocks[0], damaged, "no record\n", *blocks[1:]]) + "$$$$\n")
    sources, failed = read_sources([str(path)])
    assert [s.name.split()[0] for s in sources] == ["some.sdf#1", "some.sdf#4"]
    assert [name.split()[0] for name, _ in failed] == ["some.sdf#2", "some.sdf#3", "some.sdf#5"]
    assert "RDKit cannot read this record" in failed[0][1]
    assert "charge +1" in failed[2][1]
    np.testing.assert_allclose(sources[0].geometry(0), spatial.GetConformer().GetPositions(), atol=1e-4)
    assert (sources[0].smiles, sources[0].formula) == ("CCO", "C2H6O")
    assert sources[1].formula == "CH5N"  # hydrogens were added
    assert len(perceive_bonds(sources[1].numbers, sources[1].geometry(0))) == 6


def test_what_cannot_be_used(tmp_path):
    (tmp_path / "two.xyz").write_text("4\n\nH 0 0 0\nH 0 0 0.7\nH 9 0 0\nH 9 0 0.7\n")
    (tmp_path / "crystal.xyz").write_text('1\nLattice="3 0 0 0 3 0 0 0 3" pbc="T T T"\nC 0 0 0\n')
    (tmp_path / "empty.smi").write_text("# nothing\n")
    (tmp_path / "text.pdb").write_text("not a structure\n")
    (tmp_path / "torn.h5").write_bytes(b"\x89HDF\r\n")
    (tmp_path / "empty.sdf").write_text("\n")
    found, failed = names(["CC", *sorted(tmp_path.iterdir())])
    assert found == ["CC"]
    reasons = {name.rpartition("/")[2]: reason for name, reason in failed.items()}
    assert "2 molecules by its distances" in reasons["two.xyz#1"]
    assert "is periodic" in reasons["crystal.xyz#1"]
    assert "holds no SMILES" in reasons["empty.smi"]
    assert "holds no atoms" in reasons["text.pdb#1"]
    assert "not a whole HDF5 file" in reasons["torn.h5"]
    assert "holds no record" in reasons["empty.sdf"]
    with pytest.raises(MindscaipError, match=r"gone\.xyz does not exist"):
        read_sources(["CC", "gone.xyz"])


def test_scans_as_input():
    folder = reference_data("upstream-layout")
    sources, failed = read_sources([str(folder)])
    assert (len(sources), failed) == (2, [])
    assert {source.scan[:2] for source in sources} == {tuple(s.name.partition(":")[2].split("/")) for s in sources}
    packed = reference_data("bsct-spice-dev.h5")
    sources, failed = read_sources([f"{packed}:C-O/21541"])
    assert (len(sources), failed) == (1, [])
    assert sources[0].scan == ("C-O", "21541", sources[0].scan[2])
    assert sources[0].subset == "DES370K Monomers"
    sources, failed = read_sources(["CC", f"{packed}:C-O/0"])
    assert "there is no such scan" in failed[0][1]


def test_a_structure_is_told_by_its_geometry():
    numbers, positions = np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 0.74]])
    structure = Structure(numbers=numbers, positions=positions)
    assert perceive_bonds(structure.numbers, structure.positions) == ((0, 1),)
    assert perceive_bonds(numbers, positions * 1.06) == ()  # 1.25 times 0.62 A


def test_smiles_that_are_too_long_for_a_file_name():
    long, wrong = "C" * 300, "C" * 5000 + "("
    found, failed = names([long, wrong, "C\0C", "CO"])
    assert found == [long, "CO"]
    assert set(failed) == {wrong, "C\0C"}
    assert all("not a SMILES" in reason for reason in failed.values())
