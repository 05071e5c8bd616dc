"""Pre-training with direct forces and denoising, then conservative training: stages, resumption, export."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mindscaip.config import load_config
from mindscaip.contract import load_exported
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.export import export_run
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.training.batches import EpochBatches
from mindscaip.training.checkpoint import build_model, load_checkpoint
from mindscaip.training.dataset import StructureDataset
from mindscaip.training.denoising import Corruption
from mindscaip.training.interrupt import Interrupted
from mindscaip.training.loss import Predictor, batch_counts, weighted_loss
from mindscaip.training.prepare import resume, train
from mindscaip.training.run import StageRun
from mindscaip.training.stages import build_predictor, stages_of
from tests.models import ELEMENTS, REFERENCES, random_structure
from tests.training.runs import PRETRAINING, assert_same_run, config_for, curves, signal_at, write_data

RECORD = {"elements": ELEMENTS, "reference_energies": REFERENCES, "energy_scale_eV": 2.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(config_for(run, data, *PRETRAINING))
    return run


def labelled(count: int, *, box: float | None = None) -> list[Structure]:
    structures = [random_structure(4 + n, box=box, size=3.0, seed=n) for n in range(count)]
    rng = np.random.default_rng(5)
    for structure in structures:
        structure.energy, structure.forces = -1.0, rng.normal(size=(len(structure), 3))
    return structures


def test_two_stages_one_run(whole):
    rows = curves(whole)
    assert [row["pretraining"] for row in rows] == [1, 1, 0, 0, 0]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in rows] == [3, 6, 9, 12, 15]
    assert all(0.5 < row["train_noise_error"] < 3.0 for row in rows[:2])  # nothing is learnt yet: about 1.6
    assert not any("train_noise_error" in row for row in rows[2:])
    rates = [row["learning_rate"] for row in rows]
    assert rates[2] > rates[1]  # each stage has a schedule of its own
    last, before = load_checkpoint(whole / "last.pt"), load_checkpoint(whole / "pretrained.pt")
    assert (before["stage"], last["stage"]) == ("pretraining", "training")
    assert (before["record"]["stage"], last["record"]["stage"]) == ("pretraining", "training")
    assert any(name.startswith("force_head") for name in before["ema"])
    assert before["denoiser"]
    assert not any(name.startswith("force_head") for name in last["ema"])
    assert last["denoiser"] == {}


def test_what_each_stage_exports_says_what_it_is(whole, tmp_path):
    export_run(whole / "pretrained.pt", tmp_path / "direct.pt", dtype="float64")
    export_run(whole, tmp_path / "model.pt", dtype="float64", checkpoint="last")
    direct, conservative = load_exported(tmp_path / "direct.pt"), load_exported(tmp_path / "model.pt")
    assert not direct.contract.conservative
    assert conservative.contract.conservative
    structure = random_structure(5, size=3.0)
    edges = neighbor_list(structure, direct.contract.list_cutoff)
    arguments = (torch.from_numpy(structure.numbers), torch.from_numpy(edges.index), torch.from_numpy(edges.vectors))
    assert direct.module(*arguments)[2].shape == (5, 3)
    assert conservative.module(*arguments)[2].shape == (0, 3)


@pytest.mark.parametrize("step", [4, 6, 11], ids=["pretraining", "border", "training"])
def test_a_run_stopped_in_any_stage_goes_on_bit_for_bit(step, whole, data, tmp_path, monkeypatch):
    """Step 4 is within an epoch of the pre-training, 6 its last, 11 within an epoch of the training."""
    with monkeypatch.context() as patch:
        signal_at(patch, step)
        with pytest.raises(Interrupted, match="saved; go on with 'mindscaip train --resume"):
            train(config_for(tmp_path / "run", data, *PRETRAINING))
    stopped = load_checkpoint(tmp_path / "run" / "last.pt")["progress"]
    assert stopped["step"] == step
    resume(tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")


def test_the_training_starts_from_what_the_pretraining_ends_with(whole, data, monkeypatch, tmp_path):
    before = load_checkpoint(whole / "pretrained.pt")
    seen = {}
    loss = StageRun.loss

    def first_weights(self, batch, counts):
        if self.progress.step == 6:
            seen.update({name: tensor.clone() for name, tensor in self.model.state_dict().items()})
        return loss(self, batch, counts)

    monkeypatch.setattr(StageRun, "loss", first_weights)
    train(config_for(tmp_path / "run", data, *PRETRAINING, "training.epochs=1"))
    assert set(before["ema"]) - set(seen) == {name for name in before["ema"] if name.startswith("force_head")}
    for name, tensor in seen.items():
        assert torch.equal(tensor, before["ema"][name]), name


def test_a_finished_pretraining_is_not_repeated(whole, data, tmp_path):
    """A run that ended exactly between the stages: its last checkpoint is that of the pre-training."""
    run = tmp_path / "run"
    run.mkdir()
    config = (whole / "config.yaml").read_text()
    (run / "config.yaml").write_text(config)
    (run / "last.pt").write_bytes((whole / "pretrained.pt").read_bytes())
    (run / "curves.csv").write_text((whole / "curves.csv").read_text())  # later rows are dropped
    resume(run)
    assert_same_run(whole, run)


def test_a_direct_model_may_be_pretrained_as_well(data, tmp_path):
    state = train(config_for(tmp_path / "run", data, "pretraining.epochs=1", "training.epochs=1", "model.head=direct"))
    model, _ = build_model(state)
    assert model.direct


def test_without_noise_the_pretraining_has_direct_forces_alone(data, tmp_path):
    config = config_for(tmp_path / "run", data, "pretraining.epochs=1", "pretraining.dens_probability=0")
    stage = stages_of(config)[0]
    assert stage.corruption is None
    assert build_predictor(config, stage, RECORD).denoiser is None


def test_settings_of_the_stages():
    config = load_config(
        ["preset=tiny", "pretraining.epochs=7", "pretraining.batch_size=64", "training.batch_atoms=500"]
    )
    first, second = stages_of(config)
    assert (first.settings.epochs, first.settings.batch_size, first.settings.batch_atoms) == (7, 64, None)
    assert (second.settings.batch_size, second.settings.batch_atoms) == (8, 500)
    assert first.settings.learning_rate == second.settings.learning_rate
    assert (first.head, second.head) == ("direct", "conservative")
    assert [stage.name for stage in stages_of(load_config(["preset=tiny"]))] == ["training"]
    with pytest.raises(MindscaipError, match="direct forces come without a stress"):
        load_config(["pretraining.loss.stress=1"])


def batches(structures: list[Structure], corruption: Corruption, **more) -> EpochBatches:
    return EpochBatches(StructureDataset(structures, 4.8), 2, seed=3, epoch=1, corruption=corruption, **more)


@pytest.mark.parametrize("box", [None, 6.0])
def test_a_corrupted_batch_is_a_graph_of_the_displaced_atoms(box):
    """Displaced by exactly the noise it is to predict; lists that reach as far as ever; labels of the original."""
    structures = labelled(4, box=box)
    corruption = Corruption(probability=1.0, sigma=0.1, atoms=0.5)
    made = batches(structures, corruption, rotate=False)
    for indices, batch in zip(made.plan(), made, strict=True):
        first = 0
        for index in indices:
            structure = structures[index]
            own = slice(first, first + len(structure))
            noise = batch.noise[own].double().numpy()
            moved = Structure(structure.numbers, structure.positions + 0.1 * noise, structure.cell, structure.pbc)
            expected = neighbor_list(moved, 4.8)
            mine = (batch.edge_index[0] >= own.start) & (batch.edge_index[0] < own.stop)
            assert int(mine.sum()) == expected.index.shape[1]
            lengths = batch.edge_vectors[mine].norm(dim=1).sort().values
            assert torch.allclose(
                lengths, torch.from_numpy(np.sort(np.linalg.norm(expected.vectors, axis=1))), atol=1e-6
            )
            assert (batch.noise[own][~batch.corrupted[own]] == 0).all()
            assert np.allclose(batch.forces[own], structure.forces, atol=1e-6)
            first = own.stop
        assert (batch.energy == -1.0).all()


def test_noise_turns_with_the_structure():
    structures = labelled(4)
    corruption = Corruption(probability=1.0, sigma=0.1, atoms=0.7)
    for plain, turned in zip(
        batches(structures, corruption, rotate=False), batches(structures, corruption, rotate=True), strict=True
    ):
        assert torch.equal(plain.corrupted, turned.corrupted)
        assert torch.allclose(plain.edge_vectors.norm(dim=1), turned.edge_vectors.norm(dim=1))
        # The angle between an atom's noise and its force is the same before and after the rotation.
        assert torch.allclose((plain.noise * plain.forces).sum(1), (turned.noise * turned.forces).sum(1), atol=1e-5)
        assert not torch.allclose(plain.noise, turned.noise)


def test_noise_has_the_statistics_that_it_claims_and_depends_on_seed_epoch_and_step():
    sizes, mine = np.full(2000, 10), np.arange(2000)
    corruption = Corruption(probability=1.0, sigma=0.1, atoms=0.3)
    noise, displaced = corruption.draw(sizes, mine, np.random.default_rng(0))
    chosen = np.concatenate(displaced)
    assert chosen.mean() == pytest.approx(0.3, abs=0.02)
    assert np.concatenate(noise)[chosen].std() == pytest.approx(1.0, abs=0.02)
    part_noise, part_displaced = corruption.draw(sizes, mine[5:7], np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(part_noise, noise[5:7], strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(part_displaced, displaced[5:7], strict=True))
    some = Corruption(probability=0.4, sigma=0.1, atoms=0.3)
    clean = [some.draw(sizes[:1], mine[:1], np.random.default_rng([0, 0, n, 1])) is None for n in range(1000)]
    assert np.mean(clean) == pytest.approx(0.6, abs=0.05)


def test_the_loss_of_a_corrupted_batch():
    """Noise counts on displaced atoms alone, forces on the others, energy on all; in units of the scale."""
    structures = labelled(1)
    batch = next(iter(batches(structures, Corruption(1.0, 0.1, 0.5), rotate=False)))
    kept = ~batch.corrupted
    assert 0 < int(kept.sum()) < len(kept)
    energy, forces = batch.energy + 8.0, batch.forces + torch.tensor([3.0, 4.0, 0.0])
    noise = batch.noise + torch.tensor([0.0, 1.0, 0.0])
    forces[batch.corrupted] += 100.0
    noise[kept] += 100.0
    prediction = (energy, forces, torch.zeros(1, 3, 3), noise)
    terms = weighted_loss(prediction, batch, load_config([]).training.loss, noise_weight=0.5)
    assert terms["energy"].item() == pytest.approx(8.0 / len(kept))
    assert terms["forces"].item() == pytest.approx(5.0, rel=1e-5)
    assert terms["noise"].item() == pytest.approx(1.0, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(8.0 / len(kept) + 2 * 5.0 + 0.5, rel=1e-5)
    assert batch_counts(batch, stress=False)["noise"] == int(batch.corrupted.sum())


def test_the_model_sees_the_forces_of_displaced_atoms_alone():
    config = load_config(["preset=tiny", "pretraining.epochs=1", "pretraining.dens_probability=1"])
    predictor: Predictor = build_predictor(config, stages_of(config)[0], RECORD)
    batch = next(iter(batches(labelled(2), Corruption(1.0, 0.1, 0.5), rotate=False)))
    noise = predictor(batch)[3]
    assert noise.shape == batch.forces.shape
    batch.forces[~batch.corrupted] += 1.0
    assert torch.equal(predictor(batch)[3], noise)
    batch.forces[batch.corrupted] += 1.0
    assert not torch.allclose(predictor(batch)[3], noise)
