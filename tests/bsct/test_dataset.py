from __future__ import annotations

import h5py
import numpy as np
import pytest

from mindscaip.bsct.dataset import ScanError, open_scans, read_scans, write_scans
from mindscaip.errors import MindscaipError
from tests.bsct.makers import random_scan, reference_data, write_folder


def assert_same(a, b, atol=1e-11):
    assert (a.key, a.smiles, a.subset, a.bond_index, a.num_dropped) == (
        b.key,
        b.smiles,
        b.subset,
        b.bond_index,
        b.num_dropped,
    )
    for name in ("numbers", "fragment_labels", "frame_index"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("positions", "bond_length", "energy", "forces", "positions0", "forces0", "energy0"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=atol)


def with_nan(scan, frames=(3, 9)):
    """The same scan with references missing at ``frames``."""
    energy = scan.energy.copy()
    energy[list(frames)] = np.nan
    return random_scan(1, energy=energy)


def test_packed_round_trip(tmp_path):
    scans = [random_scan(1, id="10"), random_scan(2, id="9", numbers=(6, 8, 1, 1, 9)), random_scan(3, bond="C-C")]
    assert write_scans(tmp_path / "s.h5", scans, {"level_of_theory": "none"}) == 3
    found = open_scans(tmp_path / "s.h5")
    assert found.keys == ("C-C/7", "C-O/9", "C-O/10")
    assert found.provenance["level_of_theory"] == "none"
    by_key = {scan.key: scan for scan in scans}
    for scan in read_scans(tmp_path / "s.h5"):
        assert_same(scan, by_key[scan.key])
        assert scan.fingerprint() == found.load(scan.key).fingerprint()
    with h5py.File(tmp_path / "s.h5") as file:
        assert "positions" not in file["C-O/9"]


def test_frames_off_a_line_keep_their_positions(tmp_path):
    scan = random_scan(1)
    bent = scan.positions.copy()
    bent[:, 2] += np.sin(np.arange(len(scan)))[:, None]
    scan = random_scan(1, positions=bent)
    write_scans(tmp_path / "s.h5", [scan], {})
    assert_same(next(read_scans(tmp_path / "s.h5")), scan)


def test_nan_frames_are_dropped_and_counted(tmp_path):
    scan = with_nan(random_scan(1), (0, 3, 9))
    assert (len(scan), scan.num_dropped) == (27, 3)
    assert scan.frame_index[:3].tolist() == [1, 2, 4]
    write_scans(tmp_path / "s.h5", [scan], {})
    assert_same(next(read_scans(tmp_path / "s.h5")), scan)
    forces = random_scan(1).forces.copy()
    forces[5, 1, 1] = np.inf
    assert random_scan(1, forces=forces).num_dropped == 1


@pytest.mark.parametrize("depth", ["", "bsct_spice", "scans"])
def test_folder_layout(tmp_path, depth):
    root = tmp_path / depth
    scans = [random_scan(1), random_scan(2, bond="C-C", id="12")]
    for scan in scans:
        write_folder(root, scan)
    assert open_scans(root).keys == ("C-C/12", "C-O/7")
    assert open_scans(tmp_path).keys == ("C-C/12", "C-O/7")
    for read, scan in zip(read_scans(tmp_path), reversed(scans), strict=True):
        assert_same(read, scan)
        assert read.fingerprint() != scans[0].fingerprint()


def test_folder_with_nan_energy(tmp_path):
    scan = random_scan(1)
    folder = write_folder(tmp_path, scan)
    frame = folder / "atoms_4.xyz"
    frame.write_text(frame.read_text().replace(f"energy={float(scan.energy[4])!r}", "energy=nan"))
    read = open_scans(tmp_path).load(scan.key)
    assert (len(read), read.num_dropped) == (29, 1)
    assert 4 not in read.frame_index


def test_published_layouts_agree(tmp_path):
    scans = list(read_scans(reference_data("upstream-layout")))
    assert [scan.key for scan in scans] == ["C-N/25729", "N-O/4583"]
    assert [(len(scan), scan.num_dropped) for scan in scans] == [(98, 2), (100, 0)]
    assert scans[0].smiles.startswith("[H:20][C:3]1=")
    write_scans(tmp_path / "s.h5", scans, {})
    for scan, packed in zip(scans, read_scans(tmp_path / "s.h5"), strict=True):
        assert_same(scan, packed, atol=1e-8)


def break_folder(folder, how):
    if how == "missing frame":
        (folder / "atoms_3.xyz").unlink()
        (folder / "atoms_17.xyz").unlink()
    elif how == "cut frame":
        frame = folder / "atoms_3.xyz"
        frame.write_text(frame.read_text()[:-60])
    elif how == "empty frame":
        (folder / "atoms_3.xyz").write_text("")
    elif how == "no energy":
        frame = folder / "atoms_3.xyz"
        frame.write_text(frame.read_text().replace("energy=", "dipole="))
    elif how == "unknown element":
        frame = folder / "atoms_0.xyz"
        frame.write_text(frame.read_text().replace("\nC ", "\nXx "))
    elif how == "other atoms":
        frame = folder / "atoms_3.xyz"
        frame.write_text(frame.read_text().replace("\nC ", "\nN "))
    elif how == "no partition":
        (folder / "partition.npz").unlink()
    elif how == "cut partition":
        data = (folder / "partition.npz").read_bytes()
        (folder / "partition.npz").write_bytes(data[: len(data) // 2])
    elif how == "partition lacks labels":
        np.savez(folder / "partition.npz", bond_index=[0, 1], perturb_range=[0.7, 2.8, 30])
    elif how == "wrong range":
        np.savez(folder / "partition.npz", bond_index=[0, 1], labels=[0, 1, 0, 1], perturb_range=[0.8, 2.8, 30])
    elif how == "too few valid":
        for k in range(21):
            frame = folder / f"atoms_{k}.xyz"
            frame.write_text(frame.read_text().replace("energy=", "energy=nan old="))


FAULTS = {
    "missing frame": r"2 of 30 frames are missing \(atoms_k.xyz, k = 3, 17\)",
    "cut frame": "atoms_3.xyz is cut off or damaged",
    "empty frame": "atoms_3.xyz is cut off or damaged",
    "no energy": "atoms_3.xyz has no 'energy'",
    "unknown element": "'Xx', which is not an element",
    "other atoms": "the atoms of frame 3 are not those of frame 0",
    "no partition": "partition.npz is missing",
    "cut partition": "partition.npz is truncated or damaged",
    "partition lacks labels": "partition.npz lacks 'labels'",
    "wrong range": "frame 0 has bond length 0.7000 A in its geometry but 0.8000 A stated",
    "too few valid": "9 of 30 frames have a finite reference; 10 are needed",
}


@pytest.mark.parametrize("how", FAULTS)
def test_one_bad_scan_does_not_spoil_the_rest(tmp_path, how):
    write_folder(tmp_path, random_scan(1, id="1"))
    break_folder(write_folder(tmp_path, random_scan(2, id="2")), how)
    write_folder(tmp_path, random_scan(3, id="3"))
    skipped = []
    keys = [scan.key for scan in read_scans(tmp_path, on_skip=lambda key, reason: skipped.append((key, reason)))]
    assert keys == ["C-O/1", "C-O/3"]
    assert [key for key, _ in skipped] == ["C-O/2"]
    with pytest.raises(ScanError, match=FAULTS[how]):
        list(read_scans(tmp_path))


@pytest.mark.parametrize("name", ["energy", "numbers", "positions_last", "fragment_labels", "bond_index"])
def test_missing_arrays_of_the_packed_layout(tmp_path, name):
    write_scans(tmp_path / "s.h5", [random_scan(1, id="1"), random_scan(2, id="2")], {})
    with h5py.File(tmp_path / "s.h5", "a") as file:
        del file[f"C-O/1/{name}"]
    skipped = []
    assert [scan.id for scan in read_scans(tmp_path / "s.h5", on_skip=lambda *s: skipped.append(s))] == ["2"]
    assert f"'{name}' is missing" in skipped[0][1]


def test_arrays_that_do_not_fit(tmp_path):
    write_scans(tmp_path / "s.h5", [random_scan(1)], {})
    with h5py.File(tmp_path / "s.h5", "a") as file:
        energy = file["C-O/7/energy"][:-1]
        del file["C-O/7/energy"]
        file["C-O/7/energy"] = energy
    with pytest.raises(ScanError, match=r"positions has shape \(30, 4, 3\), expected \(29, 4, 3\)"):
        list(read_scans(tmp_path / "s.h5"))


def test_whole_data_sets_that_are_refused(tmp_path):
    with pytest.raises(MindscaipError, match="no such file or folder"):
        open_scans(tmp_path / "absent.h5")
    with pytest.raises(MindscaipError, match="there are no scans in it"):
        open_scans(tmp_path)
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(MindscaipError, match="not a whole HDF5 file"):
        open_scans(tmp_path / "text.h5")
    write_scans(tmp_path / "s.h5", [random_scan(1)], {})
    whole = (tmp_path / "s.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(MindscaipError, match="not a whole HDF5 file"):
        open_scans(tmp_path / "cut.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(MindscaipError, match="it holds no scans"):
        open_scans(tmp_path / "other.h5")


def test_writing_is_all_or_nothing(tmp_path):
    def scans():
        yield random_scan(1)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_scans(tmp_path / "s.h5", scans(), {})
    with pytest.raises(MindscaipError, match="two scans are named 'C-O/7'"):
        write_scans(tmp_path / "s.h5", [random_scan(1), random_scan(2)], {})
    with pytest.raises(MindscaipError, match="no scan to write"):
        write_scans(tmp_path / "s.h5", [], {})
    with pytest.raises(MindscaipError, match=r"let the name end in \.h5"):
        write_scans(tmp_path / "s.npz", [random_scan(1)], {})
    assert list(tmp_path.iterdir()) == []
