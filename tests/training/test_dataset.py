"""The data of a run: stores and files give the same batches, prepared ahead of time, in bounded memory."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from mindscaip.config import DataConfig, load_config
from mindscaip.data.store import Store, write_store
from mindscaip.errors import MindscaipError
from mindscaip.training.batch import Batch
from mindscaip.training.batches import EpochBatches, validation_batches
from mindscaip.training.dataset import StructureDataset
from mindscaip.training.prefetch import AHEAD, Prefetched
from mindscaip.training.prepare import make_record, read_data
from tests.data import layouts
from tests.data.test_readers import write_xyz


def same(a: Batch, b: Batch) -> None:
    for name in ("numbers", "atom_structure", "num_atoms", "edge_index", "edge_vectors", "energy", "forces", "volume"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def epoch(dataset: StructureDataset, number: int = 0) -> list[Batch]:
    return list(EpochBatches(dataset, 4, seed=1, epoch=number, rotate=True))


@pytest.fixture
def files(tmp_path):
    made = layouts.springs(22) + layouts.springs(8, seed=4, group="other")
    write_store(tmp_path / "a.h5", made)
    write_xyz(tmp_path / "a.xyz", made, "energy", "forces")
    return tmp_path, made


def test_stores_and_files_give_the_same_batches(files):
    folder, _ = files
    batches = []
    for path in (folder / "a.h5", folder / "a.xyz"):
        data = read_data(DataConfig(train=str(path), val_fraction=0.2))
        assert len(data.val) == 6
        batches.append(epoch(StructureDataset(data.train, 4.0)))
    assert len(batches[0]) == 6
    for a, b in zip(*batches, strict=True):
        same(a, b)


def test_several_files_and_a_file_that_lists_what_validates(files):
    folder, _ = files
    (folder / "val.txt").write_text("other\n")
    paths = [str(folder / "a.h5"), str(folder / "a.h5")]
    data = read_data(DataConfig(train=paths, split_file=str(folder / "val.txt"), max_train=40))
    assert (len(data.train), len(data.val)) == (40, 16)
    assert set(data.val.groups) == {"other"}
    with pytest.raises(MindscaipError, match="both say what validates"):
        read_data(DataConfig(train=paths, val=paths, split_file=str(folder / "val.txt")))


def test_validation_files_that_share_with_training_are_reported(files):
    folder, _ = files
    data = read_data(DataConfig(train=str(folder / "a.h5"), val=str(folder / "a.xyz")))
    assert "30 structures of the second are copies" in data.leakage
    again = read_data(DataConfig(train=str(folder / "a.h5"), val=str(folder / "a.h5")))
    assert "2 molecules are in both: ethane, other" in again.leakage


def test_preparing_a_run_takes_no_structure_out_of_the_store(files, monkeypatch):
    folder, made = files
    write_store(folder / "val.h5", layouts.springs(3, seed=9, group="val"))
    config = load_config([f"data.train={folder / 'a.h5'}", f"data.val={folder / 'val.h5'}"])

    def refuse(self: Store, index: int) -> None:
        raise AssertionError("one structure after the other is slow, and a list of them is memory")

    monkeypatch.setattr(Store, "__getitem__", refuse)
    data = read_data(config.data)
    record = make_record(config, data)
    assert len(StructureDataset(data.train, 4.0)) == record["num_train"] == len(made)
    assert record["elements"] == ["C", "H"]


def test_elements_that_only_validate_are_named(files):
    folder, _ = files
    ammonia = replace(layouts.springs(1)[0], numbers=np.array([7, 7, 1, 1, 1, 1, 1, 1]))
    write_store(folder / "n.h5", [ammonia])
    with pytest.raises(MindscaipError, match="the validation part has N, which no training structure has"):
        read_data(DataConfig(train=str(folder / "a.h5"), val=str(folder / "n.h5")))


def test_stores_of_different_levels_of_theory_are_refused(tmp_path):
    for name, energy in (("a", -13.6), ("b", -13.5)):
        write_store(tmp_path / f"{name}.h5", layouts.springs(5), {"H": energy, "C": -1028.0})
    with pytest.raises(MindscaipError, match=r"b\.h5 has -13\.5 eV for an isolated H atom"):
        read_data(DataConfig(train=[str(tmp_path / "a.h5"), str(tmp_path / "b.h5")]))


def test_old_runs_split_by_group():
    assert DataConfig.model_validate({"split_by_group": True}).split == "group"
    assert DataConfig.model_validate({"split_by_group": False}).split == "random"


def test_neighbour_lists_are_kept_within_their_memory():
    made = layouts.springs(20)
    whole = StructureDataset(made, 4.0)
    one = epoch(whole)
    size = sum(i.nbytes + v.nbytes for i, v in whole._edges.values())
    assert len(whole._edges) == 20
    half = StructureDataset(made, 4.0, cache_mb=size / 2e6)
    for _ in range(2):
        for a, b in zip(epoch(half), one, strict=True):
            same(a, b)
    assert len(half._edges) == 10
    none = StructureDataset(made, 4.0, cache_mb=0.0)
    epoch(none)
    assert not none._edges


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers, tmp_path):
    made = layouts.springs(13)
    write_store(tmp_path / "a.h5", made)
    data = read_data(DataConfig(train=str(tmp_path / "a.h5"), val=str(tmp_path / "a.h5")))
    dataset = StructureDataset(data.train, 4.0, workers=workers)
    plan = EpochBatches(dataset, 4, seed=1, epoch=3, rotate=True)
    plain = [plan.batch(indices, step) for step, indices in enumerate(plan.plan())]
    for a, b in zip(list(plan), plain, strict=True):
        same(a, b)
    for a, b in zip(list(plan.start_at(2)), plain[2:], strict=True):
        same(a, b)


def test_validation_sees_all_structures_in_order():
    made = layouts.springs(7)
    energies = torch.cat([b.energy for b in validation_batches(StructureDataset(made, 4.0), 3, None)])
    assert energies.tolist() == [s.energy for s in made]


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_where_the_batch_would_have_come(workers):
    def build(step: int) -> int:
        if step == 3:
            raise MindscaipError("atoms 0 and 1 stand on the same place")
        return step

    coming = Prefetched(build, range(1, 9), workers)
    assert [next(coming), next(coming)] == [1, 2]
    with pytest.raises(MindscaipError, match=r"^atoms 0 and 1 stand on the same place$"):
        next(coming)


def test_the_thread_is_ahead_by_a_few_and_ends_with_the_iterator():
    built: list[int] = []

    def build(step: int) -> int:
        built.append(step)
        return step

    before = threading.active_count()
    coming = Prefetched(build, range(100))
    assert next(coming) == 0
    deadline = time.monotonic() + 20.0
    while len(built) < AHEAD + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(built) == AHEAD + 1  # one was taken, AHEAD wait
    assert coming.late in (0, 1)
    coming.close()
    assert list(coming) == []
    assert threading.active_count() == before


def test_rotations_of_the_dataset_reach_positions_and_labels():
    (s,) = layouts.springs(1)
    dataset = StructureDataset([s], 4.0)
    turn = np.array([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    plain, turned = dataset.batch([0]), dataset.batch([0], turn)
    assert torch.allclose(turned.edge_vectors, plain.edge_vectors @ torch.from_numpy(turn[0]).T)
    assert torch.equal(turned.edge_index, plain.edge_index)


def handlers(step):
    return [signal.getsignal(number) == signal.SIG_IGN for number in (signal.SIGINT, signal.SIGTERM)]


def test_a_signal_to_the_whole_group_leaves_the_processes_that_prepare_batches():
    coming = Prefetched(handlers, range(2), workers=1)
    assert list(coming) == [[True, True], [True, True]]
    coming.close()
