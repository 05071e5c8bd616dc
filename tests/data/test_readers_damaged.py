"""Damaged files of every format end an import with a sentence that names the file and the cure, and leave nothing."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mindscaip.cli import app
from mindscaip.console import exit_on_error
from mindscaip.data.readers import format_of, read_source
from mindscaip.data.readers.base import ReadOptions
from mindscaip.data.store import write_store
from mindscaip.errors import MindscaipError
from tests.data import layouts
from tests.data.test_readers import needs, write_ase, write_xyz


def cut(path: Path, part: float = 0.6) -> Path:
    """The same file without its end."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    return path


def chgnet(path: Path) -> Path:
    needs("ijson")
    return layouts.write_chgnet(path, layouts.crystals(6))


def noise(path: Path) -> Path:
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    return path


def packed_noise(path: Path) -> Path:
    """A valid beginning of gzip with garbage after it."""
    whole = gzip.compress(b'{"mp-1": {"frame": {"structure": ' * 5000)
    path.write_bytes(whole[:60] + np.random.default_rng(0).bytes(5000))
    return path


def member(path: Path, change: Callable[[bytes], bytes], compressed: bool) -> Path:
    """An archive whose member of positions is changed after it was written, with the directory at the end whole."""
    made = layouts.springs(30)
    layouts.write_sgdml(path, made)
    if compressed:
        np.savez_compressed(path, **np.load(path))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("R.npy")
    start = info.header_offset + 200
    stop = info.header_offset + info.compress_size
    content[start:stop] = change(bytes(content[start:stop]))
    path.write_bytes(bytes(content))
    return path


def shortened_member(path: Path) -> Path:
    """An array whose header promises more numbers than follow, in an archive that is whole."""
    layouts.write_sgdml(path, layouts.springs(30))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["F.npy"] = members["F.npy"][:-100]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def objects(path: Path) -> Path:
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.zeros((3, 3)), np.zeros((4, 3))]
    return layouts.write_sgdml(path, layouts.springs(3), R=ragged)


def object_units(path: Path) -> Path:
    return layouts.write_sgdml(path, layouts.springs(3), e_unit=np.array([{"unit": "eV"}], dtype=object))


def spice(path: Path) -> Path:
    return layouts.write_spice(path, {"CC": ("a", layouts.springs(30))})


def lmdb_database(path: Path) -> Path:
    needs("lmdb")
    return layouts.write_lmdb(path, layouts.crystals(30))


def lmdb_rows(path: Path) -> Path:
    """Rows that are not JSON under zlib."""
    import lmdb

    with (
        lmdb.open(str(lmdb_database(path)), subdir=False, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"7", b"not JSON under zlib")
    Path(f"{path}-lock").unlink(missing_ok=True)
    return path


def sqlite_pages(path: Path) -> Path:
    """A database with garbage in its pages."""
    content = bytearray(write_ase(path, layouts.crystals(20)).read_bytes())
    content[4096:] = np.random.default_rng(0).bytes(len(content) - 4096)
    path.write_bytes(bytes(content))
    return path


def store(path: Path) -> Path:
    write_store(path, layouts.springs(30))
    return path


FILES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "MPtrj cut off": ("a.json", lambda path: cut(chgnet(path))),
    "MPtrj under gzip cut off": ("a.json.gz", lambda path: cut(chgnet(path))),
    "MPtrj under gzip without its last bytes": ("a.json.gz", lambda path: cut(chgnet(path), 0.999)),
    "garbage called gzip": ("a.json.gz", noise),
    "garbage within gzip": ("a.json.gz", packed_noise),
    "empty": ("a.json.gz", lambda path: cut(chgnet(path), 0.0)),
    "archive cut off": ("a.npz", lambda path: cut(layouts.write_sgdml(path, layouts.springs(30)))),
    "archive with a damaged member": ("a.npz", lambda path: member(path, lambda b: bytes(len(b)), False)),
    "archive with a damaged compressed member": ("a.npz", lambda path: member(path, lambda b: b[::-1], True)),
    "archive with a hole": ("a.npz", lambda path: member(path, lambda b: b[: len(b) // 2], False)),
    "archive with a member that is too short": ("a.npz", shortened_member),
    "archive of objects": ("a.npz", objects),
    "archive that names its units by objects": ("a.npz", object_units),
    "SPICE cut off": ("a.hdf5", lambda path: cut(spice(path))),
    "garbage called HDF5": ("a.h5", noise),
    "store cut off": ("a.h5", lambda path: cut(store(path))),
    "LMDB cut off": ("a.aselmdb", lambda path: cut(lmdb_database(path))),
    "LMDB with a damaged row": ("a.aselmdb", lmdb_rows),
    "garbage called LMDB": ("a.aselmdb", lambda path: (needs("lmdb"), noise(path))[1]),
    "SQLite cut off": ("a.db", lambda path: cut(write_ase(path, layouts.crystals(20)))),
    "SQLite with damaged pages": ("a.db", sqlite_pages),
    "garbage called SQLite": ("a.db", noise),
    "ASE's JSON cut off": ("a.json", lambda path: cut(write_ase(path, layouts.crystals(4)))),
    "extended XYZ cut off": ("a.xyz", lambda path: cut(write_xyz(path, layouts.springs(3), "energy", "forces"))),
}


@pytest.mark.parametrize("case", FILES)
def test_a_damaged_file_is_named_with_its_cure(case, tmp_path, capsys):
    name, make = FILES[case]
    folder = tmp_path / "data"
    folder.mkdir()
    path = make(folder / name)
    before = sorted(folder.iterdir())
    with pytest.raises(SystemExit) as stop, exit_on_error("mindscaip"):
        app(["data", "import", str(path), "-o", str(folder / "new.h5")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    flat = "".join(said.split())
    assert "".join(str(path).split()) in flat
    assert any(cure in flat for cure in ("copyitagain", "saveplainarrays"))
    assert sorted(folder.iterdir()) == before


def test_spice_with_a_broken_molecule(tmp_path):
    path = spice(tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        del file["CC/dft_total_energy"]
        file["CC/dft_total_energy"] = np.array([b"many"] * 30)
    with pytest.raises(MindscaipError, match=r"a\.hdf5 is cut off, damaged or not in the format spice"):
        list(read_source(path))


def test_a_gzip_file_that_is_cut_off_in_its_first_bytes_keeps_its_format(tmp_path):
    path = cut(chgnet(tmp_path / "a.json.gz"), 0.2)
    assert format_of(path) == "chgnet"
    with pytest.raises(MindscaipError, match=r"a\.json\.gz is cut off"):
        list(read_source(path))


def test_mptrj_groups_by_another_name(tmp_path):
    path = chgnet(tmp_path / "a.json")
    materials = json.loads(path.read_text())
    for frames in materials.values():
        for name, frame in frames.items():
            frame["task"] = f"task-{name[-1]}"
    path.write_text(json.dumps(materials))
    assert [s.group for s in read_source(path, ReadOptions(group_key="task"))] == [f"task-{k}" for k in range(6)]
    with pytest.raises(MindscaipError, match=r"has no 'tusk' .*did you mean 'task'"):
        list(read_source(path, ReadOptions(group_key="tusk")))


@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("a.npz", lambda path: layouts.write_sgdml(path, layouts.springs(3)), ReadOptions(stress_key="S")),
        ("a.hdf5", spice, ReadOptions(group_key="smiles")),
        ("a.h5", store, ReadOptions(energy_key="U")),
    ],
)
def test_names_of_labels_that_a_format_does_not_have_are_refused(tmp_path, name, make, options):
    option = {"a.npz": "--stress-key S", "a.hdf5": "--group-key smiles", "a.h5": "--energy-key U"}[name]
    with pytest.raises(MindscaipError, match=rf"{name}: {option} has no meaning here: .*; leave it out"):
        list(read_source(make(tmp_path / name), options))
