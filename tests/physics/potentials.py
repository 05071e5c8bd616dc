"""The one interface that the suite asks of a potential, its adapters, and the negative controls.

A potential is a :class:`Potential`: called with structures, it gives energy, forces and virial of each. Adapters exist
for an exported file, an eager model and an ASE calculator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from ase.calculators.calculator import Calculator

from mindscaip.contract import Contract, ExportedModel, load_exported
from mindscaip.data.structure import Structure
from mindscaip.engines.batched import evaluate
from mindscaip.graph.diffknn import Graph
from mindscaip.graph.neighbors import neighbor_list
from mindscaip.model.backbone import MinDScAIP
from mindscaip.model.exported import ExportedPotential


@dataclass(frozen=True)
class Evaluation:
    """Energy in eV, forces ``[N, 3]`` in eV/A, virial ``W = -sum_e r_e (x) dE/dr_e`` in eV ``[3, 3]`` or None."""

    energy: float
    forces: np.ndarray
    virial: np.ndarray | None


class Potential(Protocol):
    """What the suite needs to know of a potential.

    Attributes:
        name: for tables and messages.
        elements: symbols that it knows.
        cutoff: A; a single pair interacts up to here.
        interaction_range: A; nothing farther than this from an atom changes anything that the atom feels.
        eps: relative rounding of its arithmetic (2.2e-16 for float64, 1.2e-7 for float32).
    """

    name: str
    elements: tuple[str, ...]
    cutoff: float
    interaction_range: float
    eps: float

    def __call__(self, structures: Sequence[Structure]) -> list[Evaluation]: ...


class ModelPotential:
    """A ``model.pt``, or an eager model dressed as one (:func:`eager`)."""

    def __init__(self, exported: ExportedModel, name: str, batch_size: int = 24) -> None:
        contract = exported.contract
        self.exported = exported
        self.name = name
        self.batch_size = batch_size
        self.elements = contract.elements
        self.cutoff = contract.cutoff
        self.list_cutoff = contract.list_cutoff
        self.k = contract.k
        # A force feels the energies of atoms one reach away, whose tokens have seen two windows per layer.
        self.interaction_range = (2 * contract.num_layers + 2) * contract.list_cutoff
        self.eps = float(torch.finfo(getattr(torch, contract.dtype)).eps)

    def __call__(self, structures: Sequence[Structure]) -> list[Evaluation]:
        predictions = evaluate(self.exported, structures, self.batch_size)
        return [Evaluation(p.energy, p.forces, p.virial) for p in predictions]

    def window_edges(self, structure: Structure) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
        """Edges of the neighbour list and of the windows, each as ``(i, j, shift)``."""
        edges = neighbor_list(structure, self.list_cutoff)
        listed = {(*map(int, ij), *map(int, s)) for ij, s in zip(edges.index.T, edges.shifts, strict=True)}
        graph: Graph = self.exported.module.select_edges(
            len(structure), torch.from_numpy(edges.index), torch.from_numpy(edges.vectors)
        )
        ends = torch.stack([graph[0], graph[1]], 1).numpy()
        vectors = (graph[3] * graph[2].unsqueeze(1)).numpy()
        plain = structure.positions[ends[:, 1]] - structure.positions[ends[:, 0]]
        shifts = np.rint((vectors - plain) @ np.linalg.inv(structure.full_cell())).astype(int)
        return listed, {(*map(int, ij), *map(int, s)) for ij, s in zip(ends, shifts, strict=True)}


def exported(path: str | Path) -> ModelPotential:
    """The potential of a ``model.pt``."""
    return ModelPotential(load_exported(path), str(path))


def eager(model: MinDScAIP, elements: Sequence[str], name: str, *, list_cutoff: float | None = None) -> ModelPotential:
    """An eager model; ``list_cutoff`` replaces the radius of its neighbour list (A), for a negative control."""
    dtype = str(model.embedding.radial.weight.dtype).removeprefix("torch.")
    contract = Contract(
        elements=tuple(elements),
        cutoff=model.cutoff,
        list_cutoff=model.list_cutoff,
        k=model.k,
        num_layers=len(model.blocks),
        dtype=dtype,
        conservative=not model.direct,
        smooth=True,
        ranking=model.ranking,
        parameters=sum(p.numel() for p in model.parameters()),
    )
    if list_cutoff is not None:
        contract = replace(contract, list_cutoff=list_cutoff)
    module = ExportedPotential(model).eval()
    return ModelPotential(ExportedModel(module, contract, {}, Path(name)), name)  # type: ignore[arg-type]


class CalculatorPotential:
    """An ASE calculator; ``virial`` is the symmetric part that its stress gives."""

    def __init__(
        self,
        calculator: Calculator,
        elements: Sequence[str],
        cutoff: float,
        *,
        interaction_range: float | None = None,
        eps: float = 2.2e-16,
    ) -> None:
        self.calculator = calculator
        self.name = type(calculator).__name__
        self.elements = tuple(elements)
        self.cutoff = cutoff
        self.interaction_range = 2 * cutoff if interaction_range is None else interaction_range
        self.eps = eps

    def __call__(self, structures: Sequence[Structure]) -> list[Evaluation]:
        out = []
        for structure in structures:
            atoms = structure.to_ase()
            atoms.calc = self.calculator
            virial = None
            if structure.pbc.all():
                virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
            out.append(Evaluation(float(atoms.get_potential_energy()), atoms.get_forces().copy(), virial))
        return out


class FixedWidth(MinDScAIP):
    """Negative control: the k nearest edges of each source window, whatever the others weigh."""

    @torch.jit.ignore
    def select_edges(self, num_atoms: int, edge_index: torch.Tensor, edge_vectors: torch.Tensor) -> Graph:
        graph = super().select_edges(num_atoms, edge_index, edge_vectors)
        counts = torch.bincount(graph.center, minlength=num_atoms)
        first = torch.cumsum(counts, 0) - counts
        kept = torch.arange(len(graph.center)) - first[graph.center] < self.k  # edges are sorted by distance
        return Graph(*(part[kept] for part in graph))


class Planted:
    """``potential`` plus ``size * max(0, r - radius)^order / order!`` of one pair: a jump in one derivative only.

    With ``order = 0`` the energy jumps, with 1 the force, and so on; it calibrates the detector.
    """

    def __init__(self, potential: Potential, pair: tuple[int, int], radius: float, order: int, size: float) -> None:
        self.potential, self.pair, self.radius, self.order, self.size = potential, pair, radius, order, size
        self.name = f"{potential.name} + jump of {size:.1e} in derivative {order}"
        self.elements = potential.elements
        self.cutoff = potential.cutoff
        self.interaction_range = potential.interaction_range
        self.eps = potential.eps

    def __call__(self, structures: Sequence[Structure]) -> list[Evaluation]:
        out = []
        for structure, value in zip(structures, self.potential(structures), strict=True):
            i, j = self.pair
            vector = structure.positions[j] - structure.positions[i]
            r = float(np.linalg.norm(vector))
            energy, slope = self._term(r)
            forces = value.forces.copy()
            forces[i] += slope * vector / r
            forces[j] -= slope * vector / r
            virial = None if value.virial is None else value.virial - slope * np.outer(vector, vector) / r
            out.append(Evaluation(value.energy + energy, forces, virial))
        return out

    def _term(self, r: float) -> tuple[float, float]:
        beyond = r - self.radius
        if beyond <= 0.0:
            return 0.0, 0.0
        factorial = float(np.prod(np.arange(1, self.order + 1)))
        slope = self.size * self.order * beyond ** (self.order - 1) / factorial if self.order else 0.0
        return self.size * beyond**self.order / factorial, slope
