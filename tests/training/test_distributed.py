"""Two processes on the CPU: the numbers of one, checkpoints that move between them, and one end for both."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mindscaip.config import LossConfig
from mindscaip.errors import MindscaipError
from mindscaip.training import prepare
from mindscaip.training.batch import Batch
from mindscaip.training.batches import EpochBatches, pack, share
from mindscaip.training.checkpoint import load_checkpoint
from mindscaip.training.dataset import StructureDataset
from mindscaip.training.denoising import Corruption
from mindscaip.training.distributed import launch, launched_processes
from mindscaip.training.interrupt import Interrupted
from mindscaip.training.loss import Predictor, batch_counts, loss_sums, weigh, weighted_loss
from mindscaip.training.prepare import resume, train
from mindscaip.training.stages import build_predictor, stages_of
from tests.models import random_structure, small_model
from tests.training.runs import (
    PRETRAINING,
    arguments_for,
    assert_close_runs,
    config_for,
    signal_at,
    write_data,
)

REPOSITORY = Path(__file__).parents[2]
# By atoms, so that batches differ in size and the shares of two processes in both structures and atoms.
BY_ATOMS = [*PRETRAINING, "training.batch_atoms=23"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    train(config_for(run, data, *BY_ATOMS))
    return run


def two_processes(folder: Path, arguments: list[str], *, inject: str = "") -> subprocess.CompletedProcess:
    """``mindscaip train`` under torchrun; ``inject`` runs before it and knows ``rank`` and ``StageRun``."""
    script = folder / "worker.py"
    script.write_text(
        "import os, signal, sys\n"
        "from mindscaip.cli import main\n"
        "from mindscaip.training.run import StageRun\n"
        "rank = int(os.environ['RANK'])\n"
        f"{inject}\n"
        f"sys.argv = ['mindscaip', 'train', *{arguments!r}]\n"
        "main()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=600)


@pytest.mark.slow
def test_a_run_moves_from_two_processes_to_one(whole, data, tmp_path):
    """A signal to one of them stops both between two steps, with one message."""
    inject = """
update = StageRun.update
def update_and_signal(self, rate):
    update(self, rate)
    if rank == 1 and self.progress.step + 1 == 7:
        os.kill(os.getpid(), signal.SIGTERM)
StageRun.update = update_and_signal
"""
    stopped = two_processes(tmp_path, arguments_for(tmp_path / "run", data, *BY_ATOMS), inject=inject)
    assert stopped.returncode != 0
    assert stopped.stderr.count("interrupted in epoch") == 1
    assert f"mindscaip train --resume {tmp_path / 'run'}" in stopped.stderr
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == 7
    resume(tmp_path / "run")
    assert_close_runs(whole, tmp_path / "run")


@pytest.mark.slow
def test_two_processes_have_the_numbers_of_one(whole, data, tmp_path, monkeypatch):
    """All but the first step, in both stages; that one makes the checkpoint that moves from one process to two."""
    signal_at(monkeypatch, 1)
    with pytest.raises(Interrupted):
        train(config_for(tmp_path / "run", data, *BY_ATOMS))
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == 1
    done = two_processes(tmp_path, ["--resume", str(tmp_path / "run")])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" epochs in ") == 1  # the first process alone speaks
    assert_close_runs(whole, tmp_path / "run")


@pytest.mark.slow
def test_a_mistake_that_one_process_meets_ends_both_with_its_sentence(data, tmp_path):
    inject = """
from mindscaip.config import LossConfig
from mindscaip.errors import MindscaipError
from mindscaip.training.dataset import StructureDataset
batch, calls = StructureDataset.batch, []
def broken(self, *args, **kwargs):
    calls.append(1)
    if rank == 1 and len(calls) == 3:
        raise MindscaipError("the file of this process has gone")
    return batch(self, *args, **kwargs)
StructureDataset.batch = broken
"""
    done = two_processes(tmp_path, arguments_for(tmp_path / "run", data), inject=inject)
    assert done.returncode != 0
    assert done.stderr.count("the file of this process has gone") == 1
    assert "another process" not in done.stderr


@pytest.mark.slow
def test_a_loss_that_one_process_loses_ends_both_with_one_message(data, tmp_path):
    inject = """
loss = StageRun.loss
def broken(self, batch, counts):
    value, terms = loss(self, batch, counts)
    return value * (float("nan") if rank == 1 and self.progress.step == 4 else 1.0), terms
StageRun.loss = broken
"""
    done = two_processes(tmp_path, arguments_for(tmp_path / "run", data), inject=inject)
    assert done.returncode != 0
    assert done.stderr.count("the loss became nan in epoch 1, step 4") == 1
    assert (tmp_path / "run" / "failed-step-4.xyz").exists()
    assert load_checkpoint(tmp_path / "run" / "failed-step-4.pt")["progress"]["step"] == 4


@pytest.mark.parametrize("corruption", [None, Corruption(1.0, 0.1, 0.6)], ids=["clean", "noise"])
@pytest.mark.parametrize("processes", [2, 3, 5])
def test_losses_and_gradients_of_shares_add_up_to_those_of_the_batch(processes, corruption, data):
    """Also where shares differ in atoms, and where some are empty (4 structures, 5 processes)."""
    config = config_for(Path("unused"), data, *PRETRAINING)
    record = prepare.make_record(config, prepare.read_data(config.data))
    stage = stages_of(config)[0]
    predictor = build_predictor(config, stage, record)
    predictor.model.set_precision(torch.float64)
    predictor.denoiser.double()
    structures = prepare.read_data(config.data).train
    dataset = StructureDataset(structures, predictor.model.list_cutoff)

    def share_of(rank: int, size: int) -> Batch:
        batches = EpochBatches(dataset, 4, 0, 0, True, None, corruption, rank, size)
        batch = batches.batch(batches.plan()[1], 1)
        batch.forces = batch.forces.double()
        batch.noise = None if batch.noise is None else batch.noise.double()
        return batch

    def gradient(loss: torch.Tensor) -> list[torch.Tensor]:
        return torch.autograd.grad(loss, list(predictor.parameters()))

    whole = share_of(0, 1)
    expected = weighted_loss(predictor(whole), whole, stage.settings.loss, 0.7)["loss"]
    shares = [share_of(rank, processes) for rank in range(processes)]
    assert len({batch.numbers.size(0) for batch in shares}) > 1
    assert any(not batch.counts for batch in shares) == (processes == 5)
    each = [batch_counts(batch, stress=False) for batch in shares]
    counts = {name: float(sum(one[name] for one in each)) for name in each[0]}
    losses = [weigh(loss_sums(predictor(b), b, False), counts, stage.settings.loss, 0.7) for b in shares]
    assert sum(losses).item() == pytest.approx(expected.item(), rel=1e-10)
    together = [sum(parts) for parts in zip(*map(gradient, losses), strict=True)]
    for one, two in zip(gradient(expected), together, strict=True):
        assert torch.allclose(one, two, rtol=1e-8, atol=1e-10)


def test_stress_terms_of_shares_add_up_with_the_labels_that_each_has():
    """Three periodic structures with a stress, one without, one molecule: 27 components wherever they are."""
    structures = [random_structure(4 + n, box=None if n == 4 else 5.5, seed=n) for n in range(5)]
    for number, structure in enumerate(structures):
        structure.energy, structure.forces = -1.0, np.zeros((len(structure), 3))
        structure.stress = np.eye(3) * 0.01 if number < 3 else None
    predictor = Predictor(small_model())
    dataset = StructureDataset(structures, predictor.model.list_cutoff)
    weights = LossConfig(energy=1.0, forces=2.0, stress=10.0)
    shares = [EpochBatches(dataset, 5, 0, 0, True, rank=rank, processes=2) for rank in range(2)]
    parts = [batches.batch(np.arange(5), 0) for batches in shares]
    whole = shares[0].batch(np.arange(5), 0, whole=True)
    each = [batch_counts(batch, stress=True) for batch in parts]
    counts = {name: float(sum(one[name] for one in each)) for name in each[0]}
    assert counts["stress"] == 27
    expected = weighted_loss(predictor(whole), whole, weights)
    assert expected["stress"] > 0
    found = sum(weigh(loss_sums(predictor(part), part, True), counts, weights) for part in parts)
    assert found.item() == pytest.approx(expected["loss"].item(), rel=1e-6)


def test_shares_are_disjoint_complete_and_even():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = rng.integers(1, 40, rng.integers(1, 30))
        for processes in (1, 2, 3, 7):
            parts = [share(sizes, rank, processes) for rank in range(processes)]
            assert sorted(np.concatenate(parts).tolist()) == list(range(len(sizes)))
            loads = [sizes[part].sum() for part in parts]
            assert max(loads) - min(loads) <= sizes.max()


def test_packing_by_atoms():
    num_atoms = np.array([5, 1, 7, 3, 3, 2, 8])
    order = np.array([2, 0, 5, 1, 6, 3, 4])
    packed = pack(order, num_atoms, batch_size=2, batch_atoms=10)
    assert [batch.tolist() for batch in packed] == [[2], [0, 5, 1], [6], [3, 4]]
    assert [batch.tolist() for batch in pack(order, num_atoms, 3, None)] == [[2, 0, 5], [1, 6, 3], [4]]
    assert pack(order[:0], num_atoms, 3, 10) == []
    exact = pack(np.arange(7), np.full(7, 5), 1, 10)
    assert [len(batch) for batch in exact] == [2, 2, 2, 1]
    with pytest.raises(MindscaipError, match="batch_atoms = 7 is below the 8 atoms of structure 6"):
        pack(order, num_atoms, 2, 7)


def test_launchers_are_recognised(monkeypatch):
    for name in ("SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert launched_processes() is None
    with monkeypatch.context() as patch:
        for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}.items():
            patch.setenv(name, value)
        assert launched_processes() == (4, 2)
    values = {"SLURM_NTASKS": "6", "SLURM_NNODES": "3", "SLURM_JOB_NAME": "training", "SLURM_PROCID": "0"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert launched_processes() == (2, 3)
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")  # an interactive shell: nothing was launched in it
    assert launched_processes() is None


def test_devices_that_are_not_there(data, tmp_path):
    with pytest.raises(MindscaipError, match="accelerator = 'tpu'"):
        launch(config_for(tmp_path / "run", data, "accelerator=tpu"))
