"""The only home of the signs of forces and virials in Python (TorchScript-compatible).

With ``g_e = dE/d(edge_vectors[e])``, ``e = (i, j)`` and ``edge_vectors[e] = r_j - r_i + S @ cell``:

    F_i = sum_{e = (i, *)} g_e - sum_{e = (*, i)} g_e
    W   = - sum_e r_e (x) g_e          virial in eV, positive under compression (LAMMPS's sign)
    stress = - W / V                   ASE's sign
"""

import torch
from torch import Tensor


def forces_from_edge_gradients(edge_gradients: Tensor, edge_index: Tensor, num_atoms: int) -> Tensor:
    """Forces ``[N, 3]`` from edge gradients ``[E, 3]`` and edges ``[2, E]``; units of the gradients."""
    forces = torch.zeros((num_atoms, 3), dtype=edge_gradients.dtype, device=edge_gradients.device)
    forces = forces.index_add(0, edge_index[0], edge_gradients)
    return forces.index_add(0, edge_index[1], -edge_gradients)


def virial_from_edge_gradients(edge_gradients: Tensor, edge_vectors: Tensor) -> Tensor:
    """Virial ``[3, 3]``; energy units. ``W[a, b] = -sum_e r_e[a] g_e[b]``."""
    return -torch.einsum("ea,eb->ab", edge_vectors, edge_gradients.to(edge_vectors.dtype))


def virials_from_edge_gradients(
    edge_gradients: Tensor, edge_vectors: Tensor, edge_structure: Tensor, num_structures: int
) -> Tensor:
    """Virials ``[B, 3, 3]`` of a batch; ``edge_structure`` int64 ``[E]`` says which structure each edge belongs to."""
    outer = edge_vectors.unsqueeze(2) * edge_gradients.to(edge_vectors.dtype).unsqueeze(1)
    virials = torch.zeros((num_structures, 3, 3), dtype=outer.dtype, device=outer.device)
    return virials.index_add(0, edge_structure, -outer)


def stress_from_virial(virial: Tensor, volume: Tensor) -> Tensor:
    """Stress (ASE's sign) from virials ``[..., 3, 3]`` and volumes ``[...]`` in A^3; eV/A^3."""
    return -virial / volume.unsqueeze(-1).unsqueeze(-1)
