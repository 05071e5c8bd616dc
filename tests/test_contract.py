"""The exported file: equal to the eager model, self-contained, and refused with one sentence when it is not whole."""

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mindscaip.contract import Contract, check_elements, load_exported, read_contract, write_exported
from mindscaip.errors import MindscaipError
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.model.attention import fold_norms
from mindscaip.model.exported import ExportedPotential
from tests.models import ELEMENTS, energy_forces_virial, random_structure, small_model, write_small_model
from tests.toys import write_toy


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("model") / "model.pt")


def arguments(structure, contract: Contract):
    edges = neighbor_list(structure, contract.list_cutoff)
    return torch.from_numpy(structure.numbers), torch.from_numpy(edges.index), torch.from_numpy(edges.vectors)


def test_contract_says_what_the_model_is(model_file):
    contract, metadata = read_contract(model_file)
    assert contract.elements == tuple(ELEMENTS)
    assert (contract.cutoff, contract.list_cutoff, contract.k, contract.num_layers) == (4.0, 4.8, 8, 2)
    assert (contract.dtype, contract.conservative, contract.smooth, contract.ranking) == (
        "float64",
        True,
        True,
        "source",
    )
    # As it stands in the file: weights of norms are part of the maps that follow them.
    assert contract.parameters == sum(p.numel() for p in fold_norms(small_model()).parameters())
    assert metadata == {"kind": "random weights"}
    assert Contract.from_text(contract.to_text(), "text") == contract


@pytest.mark.parametrize("settings", [{"kind": "knn"}, {"rank_function": "sigmoid"}])
def test_a_graph_that_is_not_smooth_says_so(settings, tmp_path):
    assert not read_contract(write_small_model(tmp_path / "model.pt", **settings))[0].smooth


@pytest.mark.parametrize("settings", [{}, {"ranking": "mutual"}, {"kind": "knn"}, {"head": "direct"}])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_exported_equals_eager(settings, dtype, tmp_path):
    exported = load_exported(write_small_model(tmp_path / "model.pt", dtype=dtype, **settings))
    eager = ExportedPotential(small_model(dtype=getattr(torch, dtype), **settings))
    structure = random_structure(15, box=7.0)
    tolerance = 1e-11 if dtype == "float64" else 1e-4
    for _ in range(3):  # the executor of TorchScript rewrites the graph after its first calls
        for ours, theirs in zip(
            eager(*arguments(structure, exported.contract)),
            exported.module(*arguments(structure, exported.contract)),
            strict=True,
        ):
            assert ours.shape == theirs.shape
            assert ours.dtype == theirs.dtype
            assert torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_stages_compose_to_the_whole(model_file):
    exported = load_exported(model_file)
    structure = random_structure(15, box=7.0)
    numbers, index, vectors = arguments(structure, exported.contract)
    module = exported.module
    graph = module.select_edges(15, index, vectors)
    source, target = module.windows(15, graph)
    tokens = module.embed(numbers, graph)
    for layer in range(exported.contract.num_layers):
        tokens = module.target_stage(layer, module.source_stage(layer, tokens, source), target)
    energies, _ = module.readout(numbers, tokens[:15])
    assert torch.allclose(energies, module(numbers, index, vectors)[0], rtol=1e-12)


def test_float32_edges_are_accepted(model_file):
    exported = load_exported(model_file)
    numbers, index, vectors = arguments(random_structure(5), exported.contract)
    energies, gradients, _ = exported.module(numbers, index, vectors.float())
    assert energies.dtype == torch.float64
    assert gradients.dtype == torch.float32


def test_with_gradients_off_it_refuses_instead_of_giving_zero_forces(model_file):
    exported = load_exported(model_file)
    numbers, index, vectors = arguments(random_structure(5), exported.contract)
    for _ in range(3):
        with torch.no_grad(), pytest.raises(torch.jit.Error, match="call the model with gradients on"):
            exported.module(numbers, index, vectors)
    for _ in range(3):
        assert exported.module(numbers, index, vectors)[1].abs().max() > 0


def test_weights_of_the_exported_file_carry_no_gradient(model_file):
    assert not any(p.requires_grad for p in load_exported(model_file).module.parameters())


def test_it_runs_where_mindscaip_is_not_importable(model_file):
    structure = random_structure(7)
    numbers, index, vectors = arguments(structure, read_contract(model_file)[0])
    script = f"""
import sys
sys.modules["mindscaip"] = None
import torch
module = torch.jit.load({str(model_file)!r})
numbers = torch.tensor({numbers.tolist()})
index = torch.tensor({index.tolist()})
vectors = torch.tensor({vectors.tolist()}, dtype=torch.float64)
print(repr(module(numbers, index, vectors)[0].sum().item()))
"""
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert float(printed) == pytest.approx(energy_forces_virial(small_model(), structure)[0].sum(), abs=1e-9)


def test_a_missing_file(tmp_path):
    with pytest.raises(MindscaipError, match=r"nowhere\.pt: no such file"):
        load_exported(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("keep", [0, 10, 1000, 0.5, 0.999])
def test_a_truncated_file(model_file, tmp_path, keep):
    whole = model_file.read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(MindscaipError, match="truncated, damaged or of another kind"):
        load_exported(tmp_path / "cut.pt")


def test_a_damaged_weight(model_file, tmp_path):
    with zipfile.ZipFile(model_file) as archive:
        weights = [member for member in archive.infolist() if "debug_pkl" not in member.filename]
        largest = max(weights, key=lambda member: member.file_size)
        position = largest.header_offset + 200 + largest.file_size // 2
    damaged = bytearray(model_file.read_bytes())
    damaged[position] ^= 1
    (tmp_path / "damaged.pt").write_bytes(damaged)
    with pytest.raises(MindscaipError):
        load_exported(tmp_path / "damaged.pt")


def test_foreign_files(tmp_path):
    torch.save({"state": torch.zeros(3)}, tmp_path / "checkpoint.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "script.pt"))
    (tmp_path / "text.pt").write_text("not a model")
    for name, sentence in (
        ("checkpoint.pt", "no mindscaip contract"),
        ("script.pt", "no mindscaip contract"),
        ("text.pt", "of another kind"),
    ):
        with pytest.raises(MindscaipError, match=sentence):
            load_exported(tmp_path / name)


def test_a_newer_contract(tmp_path):
    path = write_toy(tmp_path / "toy.pt")
    exported = load_exported(path)
    write_exported(exported.module, path, replace(exported.contract, contract_version=2), {})
    with pytest.raises(MindscaipError, match=r"contract has version 2, this mindscaip .* reads up to 1"):
        load_exported(path)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [("cutoff wide", "cutoff = 'wide'"), ("smooth maybe", "smooth = 'maybe'"), ("k", "k = ''")],
)
def test_an_unreadable_value(model_file, line, sentence):
    key = line.split()[0]
    text = read_contract(model_file)[0].to_text()
    changed = "\n".join(line if row.split()[0] == key else row for row in text.splitlines())
    with pytest.raises(MindscaipError, match=sentence):
        Contract.from_text(changed, "model.pt")


def test_a_missing_key(model_file):
    text = read_contract(model_file)[0].to_text().replace("list_cutoff", "radius")
    with pytest.raises(MindscaipError, match="lacks the key 'list_cutoff'"):
        Contract.from_text(text, "model.pt")


def test_an_element_that_is_not_in_the_model(model_file):
    contract = read_contract(model_file)[0]
    check_elements(contract, ["H", "O"], "water")
    with pytest.raises(MindscaipError, match="element Xe of the cage is not in the model, which knows C H O"):
        check_elements(contract, ["H", "Xe"], "the cage")
