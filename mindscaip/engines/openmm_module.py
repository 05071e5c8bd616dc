"""What OpenMM runs: a self-contained TorchScript wrapper around the module of a ``model.pt``.

No ``from __future__ import annotations`` here: TorchScript reads the annotations.
"""

import torch
from torch import Tensor

from mindscaip.graph.scripted import neighbor_edges
from mindscaip.model.derivatives import forces_from_edge_gradients


class OpenMMPotential(torch.nn.Module):
    """Positions (and box) in nm -> energy in kJ/mol and forces in kJ/mol/nm, with the elements fixed.

    The wrapper makes its own neighbour list, so that a serialised ``System`` needs nothing but OpenMM, openmm-torch and
    libtorch. Everything outside the model is done in float64, whatever the precision of the platform.

    Args:
        model: the scripted module of a ``model.pt``.
        numbers: atomic numbers of the region, int64 ``[M]``.
        region: indices of the region's particles, int64 ``[M]``; an empty tensor says that it is every particle in
            order.
        num_particles: particles that the System must have.
        list_cutoff: A, from the contract.
        conservative: whether forces are a gradient (from the contract).
        length_to_angstrom: A per unit of the positions.
        energy_from_ev: unit of the returned energy per eV.
        to_model_frame: rotation ``R`` ``[3, 3]``: the model sees ``vectors @ R``. The identity, except where the box
            had to be turned into OpenMM's form (the model is not equivariant by construction).
        images: what the region may see of its periodic images. 0: everything within the cutoff; 1: one image of each
            pair; 2: only the neighbours as they stand, not across a boundary of the box. More is an error.
        contract: text of the contract, kept with the System for whoever reads it later.
    """

    numbers: Tensor
    region: Tensor
    to_model_frame: Tensor

    def __init__(
        self,
        model: torch.jit.ScriptModule,
        numbers: Tensor,
        region: Tensor,
        num_particles: int,
        list_cutoff: float,
        conservative: bool,
        length_to_angstrom: float,
        energy_from_ev: float,
        to_model_frame: Tensor,
        images: int,
        contract: str,
    ) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("numbers", numbers)
        self.register_buffer("region", region)
        self.register_buffer("to_model_frame", to_model_frame)
        self.num_particles = num_particles
        self.list_cutoff = list_cutoff
        self.conservative = conservative
        self.length_to_angstrom = length_to_angstrom
        self.energy_from_ev = energy_from_ev
        self.images = images
        self.contract = contract

    def forward(self, positions: Tensor, box: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Energy ``[]`` in kJ/mol and forces ``[N, 3]`` in kJ/mol/nm of all N particles (zero outside the region)."""
        if positions.size(0) != self.num_particles:
            raise RuntimeError(
                f"mindscaip: the force was built for {self.num_particles} particles, the System has "
                f"{positions.size(0)}; build it for this topology"
            )
        whole = positions.detach().to(torch.float64) * self.length_to_angstrom
        local = whole
        if self.region.size(0) > 0:
            local = whole[self.region]
        if not bool(torch.isfinite(local).all()):
            raise RuntimeError("mindscaip: a position is not finite (NaN or infinite); the run has blown up")
        cell: Tensor | None = None
        if box is not None:
            cell = box.detach().to(torch.float64) * self.length_to_angstrom

        edge_index, edge_vectors = neighbor_edges(local, cell, self.list_cutoff)
        if box is not None and self.images > 0 and edge_index.size(1) > 0:
            # No atom may be its own neighbour and no pair be listed twice.
            pairs = edge_index[0] * local.size(0) + edge_index[1]
            alone = not bool((edge_index[0] == edge_index[1]).any())
            if not alone or torch.unique(pairs).size(0) < pairs.size(0):
                raise RuntimeError(
                    "mindscaip: the box is so small that the region sees its own periodic images, which the classical "
                    "forces of the rest count already; use a larger box"
                )
            straight = local[edge_index[1]] - local[edge_index[0]]
            if self.images > 1 and bool(((edge_vectors - straight).abs() > 1e-3).any()):
                raise RuntimeError(
                    "mindscaip: the region is cut by a boundary of the box, and the classical terms of an interpolated "
                    "system do not see the box; give positions with the region in one piece"
                )
        atom_energies, edge_gradients, direct_forces = self.model(
            self.numbers, edge_index, edge_vectors @ self.to_model_frame
        )
        energy = atom_energies.to(torch.float64).sum()
        if self.conservative:
            forces = forces_from_edge_gradients(edge_gradients.to(torch.float64), edge_index, local.size(0))
        else:
            forces = direct_forces.to(torch.float64)
        forces = forces @ self.to_model_frame.t()
        if not bool(torch.isfinite(energy)) or not bool(torch.isfinite(forces).all()):
            raise RuntimeError("mindscaip: energy or forces are not finite; two atoms may nearly coincide")
        if self.region.size(0) > 0:
            forces = torch.zeros_like(whole).index_copy(0, self.region, forces)
        return energy * self.energy_from_ev, (forces * (self.energy_from_ev * self.length_to_angstrom)).contiguous()
