"""Averages over rotations: nearer to invariant, still conservative, and a model.pt like any other."""

import json
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mindscaip.cli import app
from mindscaip.contract import EnergyWarning, ExportedModel, load_exported, read_contract
from mindscaip.engines.ase import MindscaipCalculator
from mindscaip.engines.batched import evaluate
from mindscaip.errors import MindscaipError
from mindscaip.export import export_rotated, rotated
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.model.derivatives import forces_from_edge_gradients
from mindscaip.model.rotations import RotationAverage, rotation_grid
from mindscaip.studies.symmetry import rotate_structure, symmetry
from mindscaip.units import EV_TO_KJ_PER_MOL, NM_TO_ANGSTROM
from tests.golden.cases import model_path
from tests.models import random_structure, write_small_model

STRUCTURE = random_structure(8, size=3.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> ExportedModel:
    return load_exported(write_small_model(tmp_path_factory.mktemp("rotations") / "model.pt"))


@pytest.fixture(scope="module")
def averaged_path(base, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("averaged") / "averaged.pt"
    export_rotated(base.path, path, "lebedev:3")
    return path


@pytest.fixture(scope="module")
def averaged(averaged_path) -> ExportedModel:
    return load_exported(averaged_path)


def arguments(structure=STRUCTURE):
    edges = neighbor_list(structure, 4.8)
    return torch.from_numpy(structure.numbers), torch.from_numpy(edges.index), torch.from_numpy(edges.vectors)


# --- grids ---


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("lebedev:3", "lebedev:3x4", 24),
        ("lebedev:3x1", "lebedev:3x1", 6),
        ("lebedev:5x2+inversion", "lebedev:5x2+inversion", 56),
        ("lebedev:7", "lebedev:7x8", 208),
        ("random", "random", 1),
        ("random+inversion", "random+inversion", 1),
    ],
)
def test_names_and_numbers(text, name, count):
    grid = rotation_grid(text)
    assert (grid.name, len(grid)) == (name, count)
    assert grid.random == text.startswith("random")
    if not grid.random:
        assert grid.matrices.shape == (count, 3, 3)
        assert grid.weights.sum() == pytest.approx(1.0, abs=1e-14)
        assert np.allclose(grid.matrices @ grid.matrices.transpose(0, 2, 1), np.eye(3), atol=1e-14)
        determinants = np.linalg.det(grid.matrices)
        assert (determinants < 0).sum() == (count // 2 if grid.inversion else 0)


@pytest.mark.parametrize("text", ["lebedev:3", "lebedev:5", "lebedev:7x8", "lebedev:5x4", "lebedev:9"])
def test_grids_average_every_frequency_up_to_their_order(text):
    grid = rotation_grid(text)
    order, angles = (int(number) for number in grid.name.removeprefix("lebedev:").split("x"))
    exact = min(order, angles - 1)
    rng = np.random.default_rng(0)
    a, b = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    # (a . R b)^p holds the frequencies p, p - 2, ...; over all rotations its mean is that of cos^p over a sphere.
    cosine = np.einsum("a,kab,b->k", a, grid.matrices, b)
    for power in range(1, exact + 1):
        mean = 0.0 if power % 2 else 1.0 / (power + 1)
        assert grid.weights @ cosine**power == pytest.approx(mean, abs=1e-13)
    power = 2 * (exact // 2 + 1)
    assert abs(grid.weights @ cosine**power - 1.0 / (power + 1)) > 1e-8


def test_lebedev_3_is_the_group_of_the_cube():
    rounded = np.round(rotation_grid("lebedev:3").matrices).astype(int)
    assert np.abs(rounded - rotation_grid("lebedev:3").matrices).max() < 1e-15
    group = {tuple(m.ravel()) for m in rounded}
    assert len(group) == 24
    assert {tuple((a @ b).ravel()) for a in rounded for b in rounded} == group


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lebedev", "'lebedev' are not understood; give lebedev:ORDER"),
        ("lebedev:3x", "are not understood"),
        ("lebedev:3 +inversion", "are not understood"),
        ("Random", "are not understood"),
        ("lebedev:4", "no Lebedev grid of order 4; orders are 3, 5, 7"),
        ("lebedev:0", "no Lebedev grid of order 0"),
        ("lebedev:3x0", "no in-plane angle"),
    ],
)
def test_mistakes_are_named(text, sentence):
    with pytest.raises(MindscaipError, match=sentence):
        rotation_grid(text)


# --- averages ---


@pytest.mark.parametrize("head", ["conservative", "direct"])
@pytest.mark.parametrize("edges_per_call", [1, 300, 10**9])  # one by one, in parts, at once
def test_it_is_the_average(base, head, edges_per_call, tmp_path):
    if head == "direct":
        base = load_exported(write_small_model(tmp_path / "direct.pt", head="direct"))
    grid = rotation_grid("lebedev:5x2+inversion")
    module = torch.jit.script(RotationAverage(base.module, grid, head == "conservative", edges_per_call))
    numbers, index, vectors = arguments()
    energies, gradients, forces = (torch.zeros(1).double() for _ in range(3))
    for weight, matrix in zip(grid.weights, torch.from_numpy(grid.matrices), strict=True):
        energy, gradient, force = base.module(numbers, index, vectors @ matrix.T)
        energies = energies + weight * energy
        gradients = gradients + weight * gradient @ matrix
        forces = forces + weight * force @ matrix
    for _ in range(3):  # the executor of TorchScript rewrites the graph after its first calls
        for found, expected in zip(module(numbers, index, vectors), (energies, gradients, forces), strict=True):
            assert found.shape == (expected.shape if expected.numel() else (0, 3))
            assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_finer_grid_lowers_the_spread(base):
    structures = [STRUCTURE, random_structure(5, box=6.0, seed=1)]
    found = [symmetry(base, structures, 4)]
    found += [symmetry(rotated(base, rotation_grid(text)), structures, 4) for text in ("lebedev:3", "lebedev:7")]
    for coarse, fine in pairwise(found):
        assert fine.energy_spread < 0.5 * coarse.energy_spread
        assert fine.energy_range < 0.5 * coarse.energy_range
        assert fine.forces_spread < 0.5 * coarse.forces_spread
    assert found[-1].energy_spread > 0
    assert found[0].rotations == 4
    assert found[0].errors == {}


@pytest.mark.parametrize("inversion", ["", "+inversion"])
def test_exactly_invariant_under_the_group_it_runs_over(base, inversion):
    group = rotation_grid("lebedev:3" + inversion)
    model = rotated(base, group)
    structure = random_structure(7, box=6.0, seed=2)
    elements = group.matrices[[0, 3, 10, 17, 23, -1]]
    reference = evaluate(model, [structure])[0]
    scale = np.abs(reference.forces).max()
    for matrix, found in zip(
        elements, evaluate(model, [rotate_structure(structure, m) for m in elements], 3), strict=True
    ):
        assert found.energy == pytest.approx(reference.energy, rel=1e-13)
        assert np.abs(found.forces @ matrix - reference.forces).max() < 1e-12 * scale
        assert np.abs(matrix.T @ found.stress @ matrix - reference.stress).max() < 1e-12 * scale
    # The model itself, and another rotation than those of the group, show that the test can fail.
    turned = rotate_structure(structure, elements[-2])
    assert abs(evaluate(base, [turned])[0].energy - evaluate(base, [structure])[0].energy) > 1e-4
    if not inversion:
        assert abs(evaluate(model, [rotate_structure(structure, -np.eye(3))])[0].energy - reference.energy) > 1e-6


def test_gradients_are_those_of_the_averaged_energy(averaged):
    numbers, index, vectors = arguments()
    _, gradients, _ = averaged.module(numbers, index, vectors)
    step = 1e-4
    for edge, axis in ((0, 0), (7, 1), (20, 2), (33, 0)):
        shift = torch.zeros_like(vectors)
        shift[edge, axis] = step
        up, down = (averaged.module(numbers, index, vectors + s * shift)[0] for s in (1.0, -1.0))
        # Differences of atom energies, not of their large sums.
        assert (up - down).sum().item() / (2 * step) == pytest.approx(gradients[edge, axis].item(), abs=2e-7)


def test_without_edges_and_with_float32_edges(averaged, base):
    numbers, index, vectors = arguments(random_structure(1))
    energies, gradients, forces = averaged.module(numbers, index, vectors)
    assert torch.allclose(energies, base.module(numbers, index, vectors)[0], rtol=1e-14)
    assert (gradients.shape, forces.shape) == ((0, 3), (0, 3))
    numbers, index, vectors = arguments()
    energies, gradients, _ = averaged.module(numbers, index, vectors.float())
    assert (energies.dtype, gradients.dtype) == (torch.float64, torch.float32)


# --- random rotations ---


def test_a_random_rotation_at_every_call(base):
    model = rotated(base, rotation_grid("random"))
    assert (model.contract.conservative, model.contract.smooth) == (False, False)
    numbers, index, vectors = arguments()
    energies, found = [], []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        energies.append(model.module(numbers, index, vectors)[0])
        found.append(model.module(numbers, index, vectors)[2])
    assert torch.equal(energies[0], energies[1])
    assert not torch.allclose(energies[0], energies[2], rtol=1e-9)
    assert torch.equal(found[0], found[1])

    torch.manual_seed(5)
    matrix = RotationAverage(base.module, rotation_grid("random"), True).random_rotation(vectors)[0]
    assert torch.allclose(matrix @ matrix.T, torch.eye(3).double(), atol=1e-14)
    assert torch.linalg.det(matrix).item() == pytest.approx(1.0)
    energy, gradient, _ = base.module(numbers, index, vectors @ matrix.T)
    torch.manual_seed(5)
    at_once = model.module(numbers, index, vectors)
    assert torch.allclose(at_once[0], energy, rtol=1e-13)
    assert torch.allclose(at_once[2], forces_from_edge_gradients(gradient @ matrix, index, 8), atol=1e-12)


def test_random_rotations_are_uniform(base):
    like = torch.zeros(1, dtype=torch.float64)
    torch.manual_seed(0)
    for text in ("random", "random+inversion"):
        module = RotationAverage(base.module, rotation_grid(text), True)
        matrices = torch.cat([module.random_rotation(like) for _ in range(4000)])
        # Means of R and of R (x) R over all rotations: 0 and delta delta / 3; standard errors are about 0.01.
        assert matrices.mean(0).abs().max() < 0.05
        second = torch.einsum("kab,kcd->abcd", matrices, matrices) / len(matrices)
        expected = torch.einsum("ac,bd->abcd", torch.eye(3), torch.eye(3)) / 3
        assert (second - expected).abs().max() < 0.05
        improper = (torch.linalg.det(matrices) < 0).double().mean().item()
        assert improper == pytest.approx(0.5 if "inversion" in text else 0.0, abs=0.05)


# --- files and engines ---


def test_the_file_says_what_it_is(averaged_path, base):
    contract, metadata = read_contract(averaged_path)
    assert (contract.conservative, contract.smooth, contract.staged) == (True, True, False)
    assert contract.parameters == base.contract.parameters
    assert contract.sha256 not in ("", base.contract.sha256)
    record = {"grid": "lebedev:3x4", "evaluations": 24, "base_sha256": base.contract.sha256}
    assert metadata == {"kind": "random weights", "rotations": record}
    assert not hasattr(load_exported(averaged_path).module, "select_edges")
    # Files from before the key have their stages.
    assert "staged" not in (text := base.contract.to_text().replace("staged true\n", ""))
    assert type(base.contract).from_text(text, "text").staged


def test_an_average_is_not_averaged_again(averaged_path, tmp_path):
    with pytest.raises(MindscaipError, match=r"averaged over lebedev:3x4 already; give the model"):
        export_rotated(averaged_path, tmp_path / "twice.pt", "lebedev:3")
    assert not list(tmp_path.iterdir())


def test_ase(averaged_path, averaged):
    atoms = STRUCTURE.to_ase()
    atoms.calc = MindscaipCalculator(averaged_path)
    numbers, index, vectors = arguments()
    energies, gradients, _ = averaged.module(numbers, index, vectors)
    assert atoms.get_potential_energy() == pytest.approx(energies.sum().item(), abs=1e-9)
    assert np.abs(atoms.get_forces() - forces_from_edge_gradients(gradients, index, 8).numpy()).max() < 1e-10


@pytest.mark.parametrize("name", ["lebedev:3", "random"])
def test_openmm(base, averaged_path, name, tmp_path):
    openmm = pytest.importorskip("openmm")
    pytest.importorskip("openmmtorch")
    from mindscaip.engines.openmm import torch_force

    path = averaged_path
    if name == "random":
        path = tmp_path / "random.pt"
        export_rotated(base.path, path, name)
        with pytest.warns(EnergyWarning, match="not the gradient of its energy"):
            force = torch_force(path, STRUCTURE.numbers)
    else:
        force = torch_force(path, STRUCTURE.numbers)
    system = openmm.System()
    for _ in STRUCTURE.numbers:
        system.addParticle(1.0)
    system.addForce(force)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(STRUCTURE.positions / NM_TO_ANGSTROM)

    def energy_and_forces() -> tuple[float, np.ndarray]:
        state = context.getState(getEnergy=True, getForces=True)
        return (
            state.getPotentialEnergy()._value / EV_TO_KJ_PER_MOL,
            state.getForces(asNumpy=True)._value / EV_TO_KJ_PER_MOL / NM_TO_ANGSTROM,
        )

    torch.manual_seed(3)
    energy, forces = energy_and_forces()
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EnergyWarning)
        prediction = evaluate(path, [STRUCTURE])[0]
    assert energy == pytest.approx(prediction.energy, abs=1e-9)
    assert np.abs(forces - prediction.forces).max() < 1e-9


def test_lammps(averaged_path, plugin, tmp_path):
    from mindscaip.engines.lammps import evaluate as lammps_evaluate

    found = lammps_evaluate(averaged_path, STRUCTURE, work=tmp_path)
    expected = evaluate(averaged_path, [STRUCTURE])[0]
    assert found.energy == pytest.approx(expected.energy, abs=1e-8)
    assert np.abs(found.forces - expected.forces).max() < 1e-8
    assert np.abs(found.virial - expected.virial).max() < 1e-7


# --- warnings ---


def test_engines_warn_of_what_does_not_conserve_energy(base, tmp_path):
    for settings, sentence in (({"head": "direct"}, "not the gradient"), ({"kind": "knn"}, "smooth false")):
        path = write_small_model(tmp_path / "model.pt", **settings)
        with pytest.warns(EnergyWarning, match=sentence):
            MindscaipCalculator(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MindscaipCalculator(base.path)


def test_md_says_it_once(tmp_path):
    path = write_small_model(tmp_path / "model.pt", kind="knn")
    STRUCTURE.to_ase().write(tmp_path / "start.xyz")
    done = CliRunner().invoke(
        app, f"md {path} {tmp_path / 'start.xyz'} --engine ase --steps 2 --no-relax -o {tmp_path / 'md'}".split()
    )
    assert done.exit_code == 0, done.output
    assert done.stderr.count("its energy jumps when neighbours change") == 1
    assert done.stderr.count("arning") == 1


# --- commands ---


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_export_and_evaluate_commands(base, tmp_path):
    averaged = tmp_path / "averaged.pt"
    done = run("export", base.path, "-o", averaged, "--rotations", "lebedev:3x1+inversion")
    assert done.exit_code == 0, done.output
    assert "lebedev:3x1+inversion (12 evaluations per call)" in " ".join(done.stderr.split())
    assert json.loads(run("info", averaged, "--json").stdout)["metadata"]["rotations"]["evaluations"] == 12

    data = tmp_path / "data.xyz"
    atoms = STRUCTURE.to_ase()
    atoms.calc = MindscaipCalculator(averaged)
    atoms.get_forces()
    atoms.write(data)
    answer = json.loads(run("evaluate", averaged, data, "--rotations", 2, "--json").stdout)
    assert answer["forces_mae"] < 1e-3
    assert list(answer["symmetry"]) == ["model"]
    words = ("evaluate", base.path, data, "--rotations", 2, "--average", "lebedev:3")
    answer = json.loads(run(*words, "--json").stdout)["symmetry"]
    assert list(answer) == ["model", "lebedev:3x4"]
    assert answer["lebedev:3x4"]["energy_spread"] < answer["model"]["energy_spread"]
    assert answer["model"]["errors"]["forces_mae"] > 0
    printed = run(*words).stdout
    assert "2 random orientations" in printed
    assert "lebedev:3x4" in printed


def test_wrong_use_of_the_commands(base, tmp_path):
    out = tmp_path / "out.pt"
    for words, sentence in (
        (("export", base.path, "-o", out), "exported already; give --rotations"),
        (("export", base.path, "-o", out, "--rotations", "cube"), "are not understood"),
        (("export", base.path, "-o", out, "--rotations", "random", "--dtype", "float64"), "are for runs"),
        (("export", tmp_path / "nowhere", "-o", out, "--rotations", "random"), "no such checkpoint"),
        (("evaluate", base.path, "x.xyz", "--rotations", 1), "at least 2"),
        (("evaluate", base.path, "x.xyz", "--average", "lebedev:3"), "give --rotations"),
    ):
        done = run(*words)
        assert isinstance(done.exception, MindscaipError)
        assert sentence in str(done.exception)
    assert not out.exists()


def test_golden_files_are_from_before_the_key_or_have_stages():
    assert read_contract(model_path("float64"))[0].staged
