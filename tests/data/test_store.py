from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest

from mindscaip.data.store import Store, StoreWriter, write_store
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError


def assert_equal(a: Structure, b: Structure) -> None:
    for name in ("numbers", "positions", "cell", "pbc", "forces", "stress"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None and y is None) or (np.array_equal(x, y) and x.dtype == y.dtype), name
    assert a.energy == b.energy
    assert a.group == b.group


def test_round_trip_is_exact(tmp_path, structures):
    path = tmp_path / "a.h5"
    assert write_store(path, iter(structures), {"H": -13.5, "Cl": -1e4}, {"calculator": "x", "note": "ä"}) == 7
    assert os.listdir(tmp_path) == ["a.h5"]
    with Store(path) as store:
        assert len(store) == 7
        for a, b in zip(store, structures, strict=True):
            assert_equal(a, b)
        assert_equal(store[-1], structures[-1])
        for a, b in zip(store[5:1:-2], structures[5:1:-2], strict=True):
            assert_equal(a, b)
        with pytest.raises(IndexError):
            store[7]
        assert store.num_atoms.tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert store.groups == [s.group for s in structures]
        assert store.energies.tolist() == [s.energy for s in structures]
        assert store.isolated_energies == {"H": -13.5, "Cl": -1e4}
        assert store.provenance == {"calculator": "x", "note": "ä"}
        symbols = {symbol for s in structures for symbol in s.symbols}
        assert set(store.elements) == symbols
        taken = store[2]
    assert_equal(taken, structures[2])  # outlives the store
    with pytest.raises(MindscaipError, match=r"a\.h5 is closed"):
        store[0]


def test_missing_labels_stay_missing(tmp_path, structures):
    structures[0].energy = None
    structures[1].forces = None
    structures[2].stress = None
    write_store(tmp_path / "a.h5", structures)
    for a, b in zip(Store(tmp_path / "a.h5"), structures, strict=True):
        assert_equal(a, b)
    for s in structures:
        s.forces = s.stress = None
    write_store(tmp_path / "b.h5", structures)
    with h5py.File(tmp_path / "b.h5") as file:
        assert "forces" not in file
        assert "stress" not in file
    assert Store(tmp_path / "b.h5")[3].forces is None


def test_pickles_by_path_and_hash_is_of_the_content(tmp_path, structures):
    write_store(tmp_path / "a.h5", structures, None, {"made": 1})
    write_store(tmp_path / "b.h5", structures, {"H": 1.0}, {"made": 2})
    a, b = Store(tmp_path / "a.h5"), pickle.loads(pickle.dumps(Store(tmp_path / "b.h5")))
    assert_equal(b[3], structures[3])
    assert a.content_hash() == b.content_hash()
    structures[3].positions[0, 0] += 1e-15
    write_store(tmp_path / "b.h5", structures)
    assert a.content_hash() != Store(tmp_path / "b.h5").content_hash()


def test_more_than_one_block(tmp_path):
    """Larger than the spool keeps in memory and than is copied at once."""
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(400, 1000, 3))
    numbers = np.full(1000, 6)
    stream = (Structure(numbers, x, energy=float(i), forces=-x) for i, x in enumerate(positions))
    assert write_store(tmp_path / "a.h5", stream) == 400
    store = Store(tmp_path / "a.h5")
    for i in (0, 173, 174, 175, 399):
        assert np.array_equal(store[i].positions, positions[i])
        assert np.array_equal(store[i].forces, -positions[i])
        assert store[i].energy == i


def test_bad_values_leave_the_old_file(tmp_path, structures):
    path = tmp_path / "a.h5"
    write_store(path, structures[:2])
    structures[4].forces[1, 1] = np.nan
    with pytest.raises(MindscaipError, match="structure 4 has a value in 'forces' that is not finite"):
        write_store(path, structures)
    with pytest.raises(MindscaipError, match="no structure to write"):
        write_store(path, [])
    with pytest.raises(MindscaipError, match="'Xx'"):
        write_store(path, structures[:2], {"Xx": 1.0})

    def interrupted():
        yield structures[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(path, interrupted())
    assert len(Store(path)) == 2
    assert os.listdir(tmp_path) == ["a.h5"]


def test_every_cut_is_noticed(tmp_path, structures):
    path = tmp_path / "a.h5"
    write_store(path, structures * 20)
    whole = path.read_bytes()
    cut = tmp_path / "cut.h5"
    for length in np.linspace(0, len(whole) - 1, 40).astype(int):
        cut.write_bytes(whole[:length])
        with pytest.raises(MindscaipError, match=r"cut\.h5") as caught:
            Store(cut)
        assert "\n" not in str(caught.value)


def test_foreign_files(tmp_path, structures, real):
    with pytest.raises(MindscaipError, match=r"an HDF5 file but not a store .* \(it holds "):
        Store(real("bsct/bsct-spice-dev.h5"))
    with pytest.raises(MindscaipError, match="does not exist"):
        Store(tmp_path / "no.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(MindscaipError, match="not an HDF5 file"):
        Store(tmp_path / "text.h5")


def test_newer_or_damaged_store(tmp_path, structures):
    path = tmp_path / "a.h5"
    write_store(path, structures)
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(MindscaipError, match="store version 99"):
        Store(path)
    write_store(path, structures)
    with h5py.File(path, "a") as file:
        file.attrs["num_atoms"] = 3
    with pytest.raises(MindscaipError, match="damaged"):
        Store(path)
    write_store(path, structures)
    with h5py.File(path, "a") as file:
        del file["energy"]
    with pytest.raises(MindscaipError, match="damaged"):
        Store(path)


def test_real_data_round_trip(tmp_path, real):
    from mindscaip.data.formats import read_structures

    frames = list(read_structures(real("mptrj/mptrj-random-1k.xyz"), index=":200"))
    write_store(tmp_path / "a.h5", frames)
    assert len(frames) == 200
    for a, b in zip(Store(tmp_path / "a.h5"), frames, strict=True):
        assert_equal(a, b)


def test_writer_goes_on_and_packs_in_order(tmp_path, structures):
    path = tmp_path / "a.h5"
    with StoreWriter(path, {"seed": 1, "list": (1, 2)}) as writer:
        StoreWriter.write_part(writer.folder, 1, 0, structures[3:5])
        StoreWriter.write_part(writer.folder, 0, 0, structures[:2], {"state": [1.1]})
        assert not path.exists()
    with StoreWriter(path, {"seed": 1, "list": (1, 2)}) as writer:
        assert StoreWriter.count_parts(writer.folder, 0) == 1
        assert next(writer.parts()).provenance == {"state": [1.1]}
        StoreWriter.write_part(writer.folder, 0, 1, structures[2:3])
        StoreWriter.write_part(writer.folder, 1, 1, [])
        StoreWriter.write_part(writer.folder, 2, 0, structures[5:])
        assert writer.finish({"H": -1.0}, {"made": "so"}) == 7
    assert os.listdir(tmp_path) == ["a.h5"]
    for a, b in zip(Store(path), structures, strict=True):
        assert_equal(a, b)


def test_writer_refuses(tmp_path, structures):
    path = tmp_path / "a.h5"
    with StoreWriter(path, {"seed": 1}), pytest.raises(MindscaipError, match="another process is writing"):
        StoreWriter(path, {"seed": 1})
    with pytest.raises(MindscaipError, match="unfinished work with seed 1, now 2; repeat the same options"):
        StoreWriter(path, {"seed": 2})
    with StoreWriter(path, {"seed": 1}) as writer:
        StoreWriter.write_part(writer.folder, 0, 0, structures)
        writer.finish(None, None)
    with pytest.raises(MindscaipError, match="exists; choose another name or pass --overwrite"):
        StoreWriter(path, {"seed": 1})
    StoreWriter(path, {"seed": 1}, overwrite=True).close()
    with pytest.raises(MindscaipError, match="a store ends in"):
        StoreWriter(tmp_path / "a.xyz", {})


KILLED = """
import sys, itertools
import numpy as np
from mindscaip.data.store import StoreWriter
from mindscaip.data.structure import Structure
with StoreWriter(sys.argv[1], {}) as writer:
    for part in itertools.count(StoreWriter.count_parts(writer.folder, 0)):
        frames = [Structure([1], [[part, i, 0.0]], energy=part) for i in range(3000)]
        StoreWriter.write_part(writer.folder, 0, part, frames)
        print(part, flush=True)
"""


def test_killed_writer_leaves_whole_parts(tmp_path):
    path = tmp_path / "a.h5"
    for delay in (0.003, 0.011):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()  # at least one part more
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()
        process.wait()
        process.stdout.close()
    with StoreWriter(path, {}) as writer:
        done = StoreWriter.count_parts(writer.folder, 0)
        assert done >= 2
        writer.finish(None, None)
    store = Store(path)
    assert len(store) == 3000 * done
    for part, i in itertools.product(range(done), (0, 2999)):
        assert store[part * 3000 + i].positions.tolist() == [[part, i, 0]]
