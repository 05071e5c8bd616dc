"""The tensor neighbour list against vesin: edge sets before energies."""

import numpy as np
import pytest
import torch

from mindscaip.data.structure import Structure
from mindscaip.graph import scripted
from mindscaip.graph.neighbors import neighbor_list

SCRIPTED = torch.jit.script(scripted.neighbor_edges)
CUTOFF = 5.0

CELLS = {
    "none": None,
    "cubic": np.eye(3) * 12.0,
    "large": np.eye(3) * 60.0,
    "smaller than the cutoff": np.array([[3.1, 0, 0], [0.4, 3.4, 0], [-0.7, 0.9, 2.9]]),
    "needle": np.diag([2.2, 30.0, 4.0]),
    "very skewed": np.array([[4.0, 0, 0], [37.0, 4.5, 0], [-23.0, 31.0, 5.0]]),
    "left-handed": np.array([[0, 6.0, 1.0], [7.0, 0, -2.0], [0.5, 1.0, 5.5]]),
}


def sorted_rows(index: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Edges as rows (i, j, vector), in an order that rounding does not change."""
    rows = np.concatenate([index.T, vectors], axis=1)
    return rows[np.lexsort(np.round(rows, 6).T[::-1])]


def random_structure(cell: np.ndarray | None, atoms: int, seed: int) -> Structure:
    rng = np.random.default_rng(seed)
    if cell is None:
        return Structure(np.full(atoms, 6), rng.uniform(0, 1.9 * atoms ** (1 / 3) + 1e-3, (atoms, 3)))
    # Fractions from -2 to 3: most atoms stand outside the cell.
    return Structure(np.full(atoms, 6), rng.uniform(-2, 3, (atoms, 3)) @ cell, cell=cell, pbc=np.ones(3, bool))


def compare(structure: Structure, cutoff: float) -> int:
    wanted = neighbor_list(structure, cutoff)
    cell = torch.from_numpy(structure.cell) if structure.pbc.all() else None
    index, vectors = SCRIPTED(torch.from_numpy(structure.positions), cell, cutoff)
    assert index.dtype == torch.int64
    assert vectors.dtype == torch.float64
    assert index.shape == wanted.index.shape
    np.testing.assert_allclose(
        sorted_rows(index.numpy(), vectors.numpy()), sorted_rows(wanted.index, wanted.vectors), atol=1e-10, rtol=0
    )
    return index.shape[1]


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("atoms", [1, 2, 17])
def test_edge_sets_equal_vesin(name: str, atoms: int) -> None:
    edges = sum(compare(random_structure(CELLS[name], atoms, seed), CUTOFF) for seed in range(3))
    if atoms == 17 and name != "large":
        assert edges > 0


@pytest.mark.parametrize("name", ["none", "cubic", "very skewed", "needle"])
def test_bins_equal_all_pairs(name: str) -> None:
    structure = random_structure(CELLS[name], 150, 7)
    positions = torch.from_numpy(structure.positions)
    cell = None if CELLS[name] is None else torch.from_numpy(CELLS[name])
    dense = SCRIPTED(positions, cell, CUTOFF)
    binned = SCRIPTED(positions, cell, CUTOFF, 0)
    assert dense[0].shape[1] > 500
    np.testing.assert_array_equal(
        sorted_rows(dense[0].numpy(), dense[1].numpy()), sorted_rows(binned[0].numpy(), binned[1].numpy())
    )


def test_large_system_equals_vesin() -> None:
    """Beyond the size at which the scripted list changes to bins."""
    cell = np.array([[28.0, 0, 0], [6.0, 27.0, 0], [-5.0, 4.0, 29.0]])
    structure = random_structure(cell, 1500, 3)
    assert scripted.DENSE_PAIRS < 1500**2
    assert compare(structure, CUTOFF) > 1500 * 20


def test_strips_of_centres() -> None:
    """A distant atom makes the bins too many to number: all pairs then, in several strips."""
    rng = np.random.default_rng(2)
    positions = rng.uniform(0, 30, (1600, 3))
    near = neighbor_list(Structure(np.full(1599, 6), positions[1:]), 3.0)
    positions[0] = [1e19, 0, 0]
    index, vectors = SCRIPTED(torch.from_numpy(positions), None, 3.0)
    np.testing.assert_allclose(
        sorted_rows(index.numpy() - 1, vectors.numpy()), sorted_rows(near.index, near.vectors), atol=1e-10, rtol=0
    )


def test_changing_cell_in_one_script() -> None:
    rng = np.random.default_rng(5)
    for _ in range(10):
        cell = np.diag(rng.uniform(2.5, 9, 3)) + rng.uniform(-2, 2, (3, 3))
        if abs(np.linalg.det(cell)) > 5:
            compare(random_structure(cell, 6, int(rng.integers(1000))), CUTOFF)


def test_no_precision_is_lost() -> None:
    """float64 positions far from the origin give vectors to 1e-9 A, and float32 positions are not rounded further."""
    positions = torch.tensor([[12345.0, 0.0, 0.0], [12346.1234567890123, 0.0, 0.0]], dtype=torch.float64)
    for cell in (None, torch.eye(3, dtype=torch.float64) * 30):
        _, vectors = SCRIPTED(positions, cell, CUTOFF)
        assert abs(float(vectors.abs().max()) - 1.1234567890123) < 1e-9
    single = positions.to(torch.float32)
    _, vectors = SCRIPTED(single, None, CUTOFF)
    assert vectors.dtype == torch.float64
    assert float(vectors.abs().max()) == float((single[1, 0].double() - single[0, 0].double()).abs())


def test_coincident_atoms_and_collapsed_cell() -> None:
    positions = torch.zeros((2, 3), dtype=torch.float64)
    with pytest.raises(Exception, match="same place"):
        SCRIPTED(positions, None, CUTOFF)
    with pytest.raises(Exception, match="collapsed"):
        SCRIPTED(positions[:1], torch.eye(3, dtype=torch.float64) * 1e-3, CUTOFF)


def test_no_atoms() -> None:
    index, vectors = SCRIPTED(torch.zeros((0, 3)), None, CUTOFF)
    assert index.shape == (2, 0)
    assert vectors.shape == (0, 3)
