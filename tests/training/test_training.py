"""Training: it learns, resumes to the same numbers, and says what is wrong."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mindscaip.config import LossConfig, TrainingConfig, load_config
from mindscaip.contract import load_exported
from mindscaip.data.structure import Structure
from mindscaip.engines.batched import evaluate
from mindscaip.errors import MindscaipError
from mindscaip.export import export_run
from mindscaip.metrics import error_statistics
from mindscaip.model.rotations import random_rotations
from mindscaip.training import prepare
from mindscaip.training.batches import EpochBatches
from mindscaip.training.checkpoint import build_model, load_checkpoint
from mindscaip.training.dataset import StructureDataset
from mindscaip.training.logs import CURVES
from mindscaip.training.loss import Predictor, weighted_loss
from mindscaip.training.prepare import resume, train
from mindscaip.training.schedule import learning_rate, make_optimizer, update_ema
from tests.models import random_structure, small_model
from tests.toys import write_toy
from tests.training.runs import TOY_MODEL

ARGUMENTS = [
    *TOY_MODEL,
    "data.val_fraction=0.2",
    "training.batch_size=4",
    "training.warmup_epochs=1",
    "accelerator=cpu",
]


@pytest.fixture(scope="module")
def data_file(tmp_path_factory) -> Path:
    """Thirty structures with the energies and forces of the toy potential."""
    from ase.io import write

    folder = tmp_path_factory.mktemp("data")
    model = load_exported(write_toy(folder / "toy.pt"))
    rng = np.random.default_rng(0)
    start = random_structure(6, size=3.0, seed=1)
    structures = [Structure(start.numbers, start.positions + rng.normal(scale=0.1, size=(6, 3))) for _ in range(30)]
    for structure, prediction in zip(structures, evaluate(model, structures), strict=True):
        structure.energy, structure.forces = prediction.energy, prediction.forces
    write(folder / "data.xyz", [s.to_ase() for s in structures], format="extxyz")
    return folder / "data.xyz"


def config_for(run: Path, data: Path, *more: str):
    return load_config([*ARGUMENTS, f"run={run}", f"data.train={data}", *more])


def curves(run: Path) -> list[dict[str, str]]:
    with (run / CURVES).open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "minutes"} for row in csv.DictReader(file)]


def test_it_learns_and_exports_what_it_learnt(data_file, tmp_path):
    config = config_for(tmp_path / "run", data_file, "training.epochs=40", "training.learning_rate=5e-3")
    state = train(config)
    rows = curves(tmp_path / "run")
    assert len(rows) == 40
    first, last = (float(rows[i]["val_force_mae_meV_per_A"]) for i in (0, -1))
    assert last < 0.5 * first
    export_run(tmp_path / "run", tmp_path / "model.pt", dtype="float64", checkpoint="last")
    exported = load_exported(tmp_path / "model.pt")
    assert exported.metadata["record"]["steps"] == state["progress"]["step"] == 240
    dataset = StructureDataset([*map(Structure.from_ase, _frames(data_file))], exported.contract.list_cutoff)
    model, _ = build_model(state)
    errors = error_statistics(dataset.structures, evaluate(exported, dataset.structures))
    with torch.no_grad():
        energy, forces, _ = Predictor(model).eval()(dataset.batch(range(30)))
    batch = dataset.batch(range(30))
    assert errors["forces_mae"] == pytest.approx(1000 * (forces - batch.forces).abs().mean().item(), rel=1e-3)
    assert errors["energy_mae"] == pytest.approx(1000 * ((energy - batch.energy).abs() / 6).mean().item(), rel=1e-2)


def _frames(path: Path):
    from ase.io import read

    return read(path, ":")


def test_a_killed_run_resumes_to_the_same_numbers(data_file, tmp_path):
    train(config_for(tmp_path / "whole", data_file, "training.epochs=6"))
    script = f"""
from mindscaip.config import load_config
from mindscaip.training.prepare import train
train(load_config({[*ARGUMENTS, f"run={tmp_path / 'cut'}", f"data.train={data_file}", "training.epochs=6"]!r}))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (tmp_path / "cut" / "last.pt").exists():
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "cut" / "last.pt").exists()
    reached = load_checkpoint(tmp_path / "cut" / "last.pt")["progress"]["epoch"]
    resume(tmp_path / "cut")
    whole, cut = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    assert reached >= 1
    # Another process may round sums differently; it must not see other batches, rotations or rates.
    for a, b in zip(curves(tmp_path / "whole"), curves(tmp_path / "cut"), strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=1e-3)
    for part in ("model", "ema"):
        for name, tensor in whole[part].items():
            assert torch.allclose(tensor, cut[part][name], rtol=1e-5, atol=1e-6), name


def test_resuming_in_one_process_is_bitwise(data_file, tmp_path):
    torch.set_num_threads(1)
    train(config_for(tmp_path / "whole", data_file, "training.epochs=4"))
    two = config_for(tmp_path / "two", data_file, "training.epochs=4")
    # Stop after two epochs by hand: the schedule of the whole run, cut off where a kill would cut it.
    import mindscaip.training.run as loop

    class Stop(Exception):
        pass

    original = loop.save_checkpoint

    def stopping(path, state):
        original(path, state)
        if path.name == "last.pt" and state["progress"]["epoch"] == 2:
            raise Stop

    loop.save_checkpoint = stopping
    try:
        with pytest.raises(Stop):
            train(two)
    finally:
        loop.save_checkpoint = original
    resume(tmp_path / "two")
    whole, parts = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "two"))
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, parts["model"][name]), name
    assert curves(tmp_path / "whole") == curves(tmp_path / "two")


def test_a_second_run_in_the_same_folder_is_refused(data_file, tmp_path):
    train(config_for(tmp_path / "run", data_file, "training.epochs=1"))
    with pytest.raises(MindscaipError, match=r"already holds a run; go on with it by 'mindscaip train --resume"):
        train(config_for(tmp_path / "run", data_file, "training.epochs=1"))


def test_changed_data_are_noticed_on_resume(data_file, tmp_path):
    data = tmp_path / "data.xyz"
    data.write_bytes(data_file.read_bytes())
    train(config_for(tmp_path / "run", data, "training.epochs=1"))
    data.write_text(data.read_text().replace("energy=-", "energy=-1"))
    with pytest.raises(MindscaipError, match="have changed since it started"):
        resume(tmp_path / "run")


def test_no_data_no_run(tmp_path):
    with pytest.raises(MindscaipError, match=r"give data\.train=FILE"):
        train(load_config([f"run={tmp_path}/run"]))
    with pytest.raises(MindscaipError, match="holds no run"):
        resume(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_half_a_checkpoint_is_not_taken_for_a_whole_one(content, tmp_path):
    path = tmp_path / "last.pt"
    if content is None:
        torch.save({"model": {}}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(MindscaipError, match=r"not a (whole )?checkpoint"):
        load_checkpoint(path)


def test_a_loss_that_explodes_stops_with_its_epoch(data_file, tmp_path):
    config = config_for(
        tmp_path / "run", data_file, "training.learning_rate=1e30", "training.epochs=9", "training.warmup_epochs=0"
    )
    with pytest.raises(MindscaipError, match=r"the loss became .* in epoch .* lower training\.learning_rate"):
        train(config)


def test_rotations_are_rotations_and_uniform():
    rotations = random_rotations(20000, np.random.default_rng(0))
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(rotations), 1.0)
    assert np.abs(rotations.mean(0)).max() < 0.02  # the mean over the group is zero


def test_rotated_batches_keep_lengths_and_turn_labels():
    structure = random_structure(5)
    structure.energy, structure.forces = 1.0, np.arange(15.0).reshape(5, 3)
    structure.stress = np.diag([1.0, 2.0, 3.0])
    dataset = StructureDataset([structure], 4.0)
    rotation = random_rotations(1, np.random.default_rng(1))
    plain, turned = dataset.batch([0]), dataset.batch([0], rotation)
    r = torch.from_numpy(rotation[0])
    assert torch.allclose(turned.edge_vectors, plain.edge_vectors @ r.T)
    assert torch.allclose(turned.forces.double(), plain.forces.double() @ r.T, atol=1e-5)
    assert torch.allclose(turned.stress[0].double(), r @ plain.stress[0].double() @ r.T, atol=1e-5)


def test_batches_depend_on_seed_epoch_and_step_alone():
    structures = [random_structure(3, seed=s) for s in range(7)]
    for s in structures:
        s.energy, s.forces = 0.0, np.zeros((3, 3))
    dataset = StructureDataset(structures, 4.0)
    whole = list(EpochBatches(dataset, 2, seed=1, epoch=3, rotate=True))
    tail = list(EpochBatches(dataset, 2, seed=1, epoch=3, rotate=True).start_at(2))
    assert len(whole) == 4
    assert all(torch.equal(a.edge_vectors, b.edge_vectors) for a, b in zip(whole[2:], tail, strict=True))
    other = next(iter(EpochBatches(dataset, 2, seed=1, epoch=4, rotate=True)))
    assert not torch.equal(other.edge_vectors, whole[0].edge_vectors)


def test_missing_labels_are_named():
    structure = random_structure(3)
    structure.energy = 1.0
    with pytest.raises(MindscaipError, match="structure 0 has no forces"):
        StructureDataset([structure], 4.0)


def test_losses_are_what_they_say():
    structure = random_structure(4, box=6.0)
    structure.energy, structure.forces = 2.0, np.ones((4, 3))
    structure.stress = np.zeros((3, 3))
    batch = StructureDataset([structure], 4.0).batch([0])
    prediction = (torch.tensor([4.0], dtype=torch.float64), torch.zeros(4, 3), torch.full((1, 3, 3), 21.6))
    terms = weighted_loss(prediction, batch, LossConfig(energy=1.0, forces=2.0, stress=10.0))
    assert terms["energy"].item() == pytest.approx(0.5)
    assert terms["forces"].item() == pytest.approx(3**0.5)
    assert terms["stress"].item() == pytest.approx(0.1)
    assert terms["loss"].item() == pytest.approx(0.5 + 2 * 3**0.5 + 1.0)


def test_schedule_warms_up_and_falls_to_its_floor():
    settings = TrainingConfig(learning_rate=1.0, warmup_epochs=2, warmup_factor=0.2, final_learning_rate=0.1)
    assert learning_rate(0.0, 0.0, 0.0, settings) == pytest.approx(0.2)
    assert learning_rate(0.0, 1.0, 0.0, settings) == pytest.approx(0.6)
    assert learning_rate(0.5, 10.0, 0.0, settings) == pytest.approx(0.55)
    assert learning_rate(1.0, 20.0, 0.0, settings) == pytest.approx(0.1)


def test_weight_decay_spares_norms_biases_and_embeddings():
    model = small_model()
    decayed, free = make_optimizer(model, TrainingConfig()).param_groups
    assert decayed["weight_decay"] > 0
    assert free["weight_decay"] == 0
    spared = {id(p) for p in free["params"]}
    for name, parameter in model.named_parameters():
        is_spared = parameter.ndim == 1 or name.startswith(("embedding.atom", "embedding.center", "embedding.neighbor"))
        assert (id(parameter) in spared) == is_spared, name


class Scorer:
    """A callback that scores every second validation and likes the second epoch best."""

    columns = ("wiggles", "seconds")

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.told: list[tuple[str, bool]] = []

    def __call__(self, epoch, step, predictor, *, stage, final):
        assert not predictor.training
        self.told.append((stage, final))
        self.weights.append({name: tensor.clone() for name, tensor in predictor.model.state_dict().items()})
        return {"wiggles": float(abs(epoch - 2)), "seconds": 0.5} if epoch % 2 == 0 else {}

    def select(self, score, values, best):
        return values.get("wiggles", math.inf), best


def test_a_callback_sees_the_averaged_weights_and_may_choose(data_file, tmp_path, monkeypatch):
    scorer = Scorer()
    original = prepare.fit
    monkeypatch.setattr(prepare, "fit", lambda *given: original(*given[:6], [scorer], *given[7:]))
    state = train(config_for(tmp_path / "run", data_file, "training.epochs=4"))
    with (tmp_path / "run" / CURVES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["wiggles"] for row in rows] == ["", "0.0", "", "2.0"]
    assert [row["seconds"] for row in rows] == ["", "0.5", "", "0.5"]
    assert load_checkpoint(tmp_path / "run" / "best.pt")["progress"]["epoch"] == 2
    assert scorer.told == [("training", False)] * 3 + [("training", True)]
    assert len(scorer.weights) == 4
    for name, tensor in scorer.weights[-1].items():
        assert torch.equal(tensor, state["ema"][name]), name


def test_the_average_is_one_of_floats_and_a_copy_of_the_rest():
    module = torch.nn.Linear(2, 1)
    module.register_buffer("count", torch.tensor(3))
    module.register_buffer("exact", torch.tensor(5.0, dtype=torch.float64))
    ema = {name: torch.zeros_like(tensor) for name, tensor in module.state_dict().items()}
    update_ema(ema, module, 0.75)
    assert torch.allclose(ema["weight"], 0.25 * module.weight)
    assert ema["exact"].item() == 1.25
    assert ema["count"].item() == 3


def test_reference_energies_are_those_of_isolated_atoms_or_of_the_training_part_alone(tmp_path):
    """Validation energies that are off by 1000 eV change nothing; with isolated atoms the fit is of the binding."""
    from ase.io import write

    rng = np.random.default_rng(0)
    structures = []
    for number in range(12):
        structure = random_structure(4 + number % 3, size=3.0, seed=number)
        counts = [(structure.numbers == z).sum() for z in (1, 6, 8)]
        structure.energy = float(np.dot(counts, [-13.0, -1020.0, -2030.0]))
        structure.forces = rng.normal(size=(len(structure), 3))
        structures.append(structure)
    write(tmp_path / "train.xyz", [s.to_ase() for s in structures], format="extxyz")
    for structure in structures:
        structure.energy += 1000.0
    write(tmp_path / "val.xyz", [s.to_ase() for s in structures], format="extxyz")
    atoms = [Structure(np.array([z]), np.zeros((1, 3)), energy=e) for z, e in ((1, -12.0), (6, -1019.0), (8, -2029.0))]
    write(tmp_path / "atoms.xyz", [a.to_ase() for a in atoms], format="extxyz")
    files = [f"data.val={tmp_path / 'val.xyz'}"]
    expected = {"C": -1020.0, "H": -13.0, "O": -2030.0}
    for more, isolated in (([], None), ([f"data.isolated={tmp_path / 'atoms.xyz'}"], {"H": -12.0})):
        config = config_for(tmp_path / "run", tmp_path / "train.xyz", *files, *more)
        record = prepare.make_record(config, prepare.read_data(config.data))
        assert record["reference_energies"] == pytest.approx(expected, rel=1e-9)
        assert (record["isolated_energies_eV"] is None) == (isolated is None)
