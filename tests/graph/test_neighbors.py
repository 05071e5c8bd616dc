"""Neighbour lists against a plain sum over images, in the one edge convention."""

import itertools

import numpy as np
import pytest

from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError
from mindscaip.graph.neighbors import neighbor_list


def brute_force(structure: Structure, cutoff: float, images: int) -> set[tuple]:
    ranges = [range(-images, images + 1) if periodic else [0] for periodic in structure.pbc]
    found = set()
    for shift in itertools.product(*ranges):
        offset = np.array(shift) @ structure.cell
        for i, j in itertools.product(range(len(structure)), repeat=2):
            vector = structure.positions[j] - structure.positions[i] + offset
            if (i != j or any(shift)) and np.linalg.norm(vector) < cutoff:
                found.add((i, j, *shift))
    return found


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, True), (False, False, False)])
def test_every_pair_and_image_once(pbc):
    rng = np.random.default_rng(0)
    cell = np.array([[3.1, 0, 0], [0.9, 3.3, 0], [-1.1, 0.7, 3.5]])
    structure = Structure([6, 8, 1], rng.uniform(-4, 7, (3, 3)), cell, pbc)
    edges = neighbor_list(structure, 5.0)
    found = [(i, j, *s) for i, j, s in zip(*edges.index.tolist(), edges.shifts.tolist(), strict=True)]
    assert len(found) == len(set(found))
    assert set(found) == brute_force(structure, 5.0, 8)
    i, j = edges.index
    assert np.allclose(edges.vectors, structure.positions[j] - structure.positions[i] + edges.shifts @ cell, atol=1e-12)


def test_no_atoms():
    edges = neighbor_list(Structure(np.zeros(0, int), np.zeros((0, 3))), 5.0)
    assert edges.index.shape == (2, 0)


def test_two_atoms_on_one_place():
    with pytest.raises(MindscaipError, match=r"atoms 0 and 1 .* stand on the same place"):
        neighbor_list(Structure([1, 1], np.ones((2, 3))), 5.0)


def test_a_structure_that_has_flown_apart():
    with pytest.raises(MindscaipError, match="flown apart"):
        neighbor_list(Structure([1, 1], [[0, 0, 0], [1e7, 0, 0]]), 5.0)
