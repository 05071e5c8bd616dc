"""Averages over rotations of any exported module, and the grids that they run over (TorchScript).

The model learns rotational symmetry and does not have it exactly. With rotations ``R_k`` and weights ``w_k``

    E_i(r) = sum_k w_k E_i(R_k r)      g_e = sum_k w_k R_k^T g_e(R_k r)      F_i = sum_k w_k R_k^T F_i(R_k r)

is nearer to invariant, as smooth as the model, and ``g_e`` is the gradient of the averaged energy.

No ``from __future__ import annotations`` here: TorchScript reads the annotations.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mindscaip.errors import MindscaipError
from mindscaip.model.derivatives import forces_from_edge_gradients

EDGES_PER_CALL = 5_000
"""Copies of the structure are put into one call up to this many atoms and edges together; then comes another call.

TorchScript cannot ask how much memory is free, so the bound is a number. On a CPU core, parts of 1,000 to 20,000 take
the same time; with a model of 0.4 million parameters in float64, 5,000 take 0.3 GB and 50,000 take 3.5 GB.
"""
SYNTAX = (
    "lebedev:ORDER, lebedev:ORDERxANGLES or random, each with or without +inversion (such as lebedev:3x4+inversion)"
)
_LEBEDEV = re.compile(r"lebedev:(\d+)(?:x(\d+))?(\+inversion)?")
_RANDOM = re.compile(r"random(\+inversion)?")


@dataclass(frozen=True)
class RotationGrid:
    """Orthogonal matrices to average over.

    Attributes:
        name: as :func:`rotation_grid` reads it, with the number of angles written out.
        matrices: float64 ``[K, 3, 3]``; empty when ``random``.
        weights: float64 ``[K]``, of sum 1.
        random: one uniformly random rotation at every call instead.
        inversion: with improper rotations, half of the weight.
    """

    name: str
    matrices: np.ndarray
    weights: np.ndarray
    random: bool
    inversion: bool

    def __len__(self) -> int:
        """Evaluations of the model per call."""
        return 1 if self.random else len(self.weights)


def rotation_grid(text: str) -> RotationGrid:
    """The grid named by ``text``.

    ``lebedev:L`` is a Lebedev grid of order L for the direction ``(theta, phi)`` to which the z axis is turned, times
    ``L + 1`` equal in-plane angles ``chi``: ``R = R_z(phi) R_y(theta) R_z(chi)``. It averages every rotational
    frequency from 1 to L to zero. ``lebedev:LxM`` takes M angles (and cancels frequencies up to ``min(L, M - 1)``);
    ``+inversion`` adds ``-R``. ``lebedev:3`` is the group of the 24 rotations of a cube. ``random`` is one uniformly
    random rotation at every call.

    Raises:
        MindscaipError: not such a text, or there is no Lebedev grid of that order.
    """
    if match := _RANDOM.fullmatch(text):
        return RotationGrid(text, np.zeros((0, 3, 3)), np.zeros(0), True, match.group(1) is not None)
    match = _LEBEDEV.fullmatch(text)
    if match is None:
        raise MindscaipError(f"rotations {text!r} are not understood; give {SYNTAX}")
    order = int(match.group(1))
    angles = int(match.group(2)) if match.group(2) else order + 1
    inversion = match.group(3) is not None
    if angles < 1:
        raise MindscaipError(f"rotations {text!r} have no in-plane angle; give at least lebedev:{order}x1")
    directions, weights = _lebedev(order)
    theta = np.arctan2(np.hypot(directions[0], directions[1]), directions[2])
    phi = np.arctan2(directions[1], directions[0])
    chi = 2.0 * np.pi * np.arange(angles) / angles
    tilted = _turns_about_z(phi) @ _turns_about_y(theta)
    matrices = (tilted[:, None] @ _turns_about_z(chi)).reshape(-1, 3, 3)
    weights = np.repeat(weights, angles)
    if inversion:
        matrices = np.concatenate([matrices, -matrices])
        weights = np.concatenate([weights, weights])
    name = f"lebedev:{order}x{angles}" + ("+inversion" if inversion else "")
    return RotationGrid(name, matrices, weights / weights.sum(), False, inversion)


def _lebedev(order: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        from scipy.integrate import lebedev_rule
    except ImportError:
        raise MindscaipError("Lebedev grids need SciPy 1.15 or later; run: pip install -U scipy") from None
    try:
        return lebedev_rule(order)
    except NotImplementedError:
        raise MindscaipError(
            f"there is no Lebedev grid of order {order}; orders are 3, 5, 7, ... 31, then 35, 41, 47, ... 131"
        ) from None


def _turns_about_z(angle: np.ndarray) -> np.ndarray:
    c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([c, -s, zero, s, c, zero, zero, zero, one], axis=-1).reshape(-1, 3, 3)


def _turns_about_y(angle: np.ndarray) -> np.ndarray:
    c, s, zero, one = np.cos(angle), np.sin(angle), np.zeros_like(angle), np.ones_like(angle)
    return np.stack([c, zero, s, zero, one, zero, -s, zero, c], axis=-1).reshape(-1, 3, 3)


class RotationAverage(nn.Module):
    """The module of a ``model.pt`` averaged over rotations; its own ``forward`` is that of contract version 1.

    Copies of the structure in their orientations make one larger graph per call, up to ``edges_per_call``; a large
    structure is evaluated one orientation after the other. The staged methods of the module are not offered.

    Args:
        model: the scripted module.
        grid: the rotations.
        conservative: whether the forces of ``model`` are a gradient. If not, or if the rotations are random (then the
            energy is another function at every call), forces leave as direct forces.
    """

    rotations: Tensor
    weights: Tensor

    def __init__(
        self,
        model: nn.Module,
        grid: RotationGrid,
        conservative: bool,
        edges_per_call: int = EDGES_PER_CALL,
    ) -> None:
        super().__init__()
        self.model = model
        self.random = grid.random
        self.inversion = grid.inversion
        self.conservative = conservative
        self.edges_per_call = edges_per_call
        self.register_buffer("rotations", torch.from_numpy(grid.matrices))
        self.register_buffer("weights", torch.from_numpy(grid.weights))

    def forward(self, numbers: Tensor, edge_index: Tensor, edge_vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Atomic numbers ``[N]``, edges ``[2, E]``, ``[E, 3]`` to atom energies, edge gradients, direct forces."""
        num_atoms = numbers.size(0)
        num_edges = edge_index.size(1)
        vectors = edge_vectors.detach().to(torch.float64)
        rotations = self.rotations
        weights = self.weights
        if self.random:
            rotations = self.random_rotation(vectors)
            weights = torch.ones(1, dtype=torch.float64, device=vectors.device)
        energies = torch.zeros(num_atoms, dtype=torch.float64, device=vectors.device)
        gradients = torch.zeros_like(vectors)
        forces = torch.zeros((0 if self.conservative else num_atoms, 3), dtype=torch.float64, device=vectors.device)

        copies = max(1, self.edges_per_call // max(1, num_atoms + num_edges))
        for start in range(0, rotations.size(0), copies):
            turn = rotations[start : start + copies]
            weight = weights[start : start + copies].view(-1, 1)
            count = turn.size(0)
            first_atom = num_atoms * torch.arange(count, device=vectors.device)
            index = (edge_index.unsqueeze(1) + first_atom.view(1, count, 1)).reshape(2, count * num_edges)
            # Rows: v -> R v is v @ R^T, and back is @ R.
            turned = torch.matmul(vectors, turn.transpose(1, 2)).reshape(count * num_edges, 3)
            energy, gradient, force = self.model(numbers.repeat(count), index, turned)
            energies = energies + (weight * energy.to(torch.float64).view(count, num_atoms)).sum(0)
            back = torch.matmul(gradient.to(torch.float64).view(count, num_edges, 3), turn)
            gradients = gradients + (weight.unsqueeze(2) * back).sum(0)
            if not self.conservative:
                back = torch.matmul(force.to(torch.float64).view(count, num_atoms, 3), turn)
                forces = forces + (weight.unsqueeze(2) * back).sum(0)

        if self.random and self.conservative:
            forces = forces_from_edge_gradients(gradients, edge_index, num_atoms)
        return energies, gradients.to(edge_vectors.dtype), forces.to(edge_vectors.dtype)

    def random_rotation(self, like: Tensor) -> Tensor:
        """One uniformly random rotation ``[1, 3, 3]``, with ``inversion`` improper at every other call on average.

        From a uniform unit quaternion, drawn from torch's own generator (``torch.manual_seed``).
        """
        q = torch.randn(4, dtype=like.dtype, device=like.device)
        q = q / torch.linalg.vector_norm(q)
        # R = I + 2 (w K + K K), K the cross-product matrix of the vector part.
        cross = torch.zeros((3, 3), dtype=like.dtype, device=like.device)
        cross[0, 1] = -q[3]
        cross[0, 2] = q[2]
        cross[1, 2] = -q[1]
        cross = cross - cross.t()
        rotation = torch.eye(3, dtype=like.dtype, device=like.device) + 2.0 * (q[0] * cross + cross @ cross)
        if self.inversion and bool(torch.rand(1) < 0.5):
            rotation = -rotation
        return rotation.unsqueeze(0)


def random_rotations(count: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform rotation matrices ``[count, 3, 3]`` (from uniform unit quaternions)."""
    w, x, y, z = (q := rng.normal(size=(4, count))) / np.linalg.norm(q, axis=0)
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
            np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
            np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
        ],
        axis=1,
    )
