"""Small models with random, seeded weights, for tests of everything that does not need a trained one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mindscaip.config import GraphConfig, ModelConfig
from mindscaip.data.structure import Structure
from mindscaip.export import export_model
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.model.backbone import MinDScAIP
from mindscaip.model.derivatives import forces_from_edge_gradients, virial_from_edge_gradients

ELEMENTS = ["C", "H", "O"]
REFERENCES = {"C": -1027.0, "H": -13.5, "O": -2038.0}


def small_model(
    *,
    head: str = "conservative",
    gamma: float = 1.5,
    temperature: float = 1.0,
    num_radial: int = 16,
    l_max: int = 3,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **graph,
) -> MinDScAIP:
    """Two layers, width 16, cutoff 4 A and k = 8, so that both the radius and the rank cut."""
    config = ModelConfig(
        graph=GraphConfig(**{"cutoff": 4.0, "k": 8, **graph}),
        embed_dim=16,
        num_layers=2,
        num_heads=2,
        num_radial=num_radial,
        gamma=gamma,
        l_max=l_max,
        temperature=temperature,
        head=head,
    )
    torch.manual_seed(seed)
    return MinDScAIP(config, ELEMENTS, REFERENCES, scale=2.0).set_precision(dtype)


def write_small_model(path: Path, *, dtype: str = "float64", **kwargs) -> Path:
    model = small_model(**kwargs)
    export_model(model, path, elements=ELEMENTS, k=model.k, dtype=dtype, metadata={"kind": "random weights"})
    return path


def ethanol() -> Structure:
    """Nine atoms in the shape of ethanol, at no special geometry."""
    positions = np.array(
        [
            [-1.27, 0.25, 0.02],
            [0.13, -0.37, -0.05],
            [1.19, 0.58, 0.11],
            [-1.38, 0.88, 0.92],
            [-1.40, 0.85, -0.89],
            [-2.03, -0.55, 0.03],
            [0.21, -1.14, 0.75],
            [0.20, -0.89, -1.02],
            [1.95, 0.05, -0.11],
        ]
    )
    return Structure(np.array([6, 6, 8, 1, 1, 1, 1, 1, 1]), positions)


def random_structure(num_atoms: int = 20, *, box: float | None = None, size: float = 5.0, seed: int = 0) -> Structure:
    """Random atoms at least 0.9 A apart, in a periodic cube of edge ``box`` or free in a cube of edge ``size``."""
    rng = np.random.default_rng(seed)
    edge = size if box is None else box
    positions: list[np.ndarray] = []
    while len(positions) < num_atoms:
        candidate = rng.uniform(0.0, edge, 3)
        difference = np.array(positions).reshape(-1, 3) - candidate
        if box is not None:
            difference -= box * np.round(difference / box)
        if (np.linalg.norm(difference, axis=1) > 0.9).all():
            positions.append(candidate)
    numbers = rng.choice([1, 6, 8], num_atoms)
    periodic = box is not None
    return Structure(numbers, np.array(positions), np.eye(3) * (box or 0.0), [periodic] * 3)


def energy_forces_virial(model: MinDScAIP, structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atom energies, forces and virial of the eager model."""
    edges = neighbor_list(structure, model.list_cutoff)
    vectors = torch.from_numpy(edges.vectors).requires_grad_(True)
    index = torch.from_numpy(edges.index)
    energies, _ = model(torch.from_numpy(structure.numbers), index, vectors)
    gradients = torch.zeros_like(vectors)
    if energies.requires_grad and len(vectors):
        (gradients,) = torch.autograd.grad(energies.sum(), vectors)
    forces = forces_from_edge_gradients(gradients, index, len(structure))
    return energies.detach().numpy(), forces.numpy(), virial_from_edge_gradients(gradients, vectors.detach()).numpy()
