"""The ASE calculator over an exported ``model.pt``."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mindscaip.contract import Contract, ExportedModel, check_elements, warn_of_energy
from mindscaip.data.structure import Structure
from mindscaip.engines.batched import as_exported, evaluate
from mindscaip.errors import MindscaipError


class MindscaipCalculator(Calculator):
    """Energy, per-atom energies, forces and stress of ``ase.Atoms``.

    ``energy`` and ``free_energy`` (the same number) in eV, ``energies`` eV ``[N]``, ``forces`` eV/A ``[N, 3]``,
    ``stress`` eV/A^3 ``[6]`` in Voigt order (xx, yy, zz, yz, xz, xy), positive under tension; it needs three periodic
    directions and a conservative model.

    Args:
        model: path of a ``model.pt``, or a loaded :class:`~mindscaip.contract.ExportedModel` (which keeps its device).
        device: torch device on which a path is loaded, such as ``"cpu"`` or ``"cuda:0"``.

    Raises:
        MindscaipError: when the file is not a whole model, or (at a calculation) when an element is not in the model,
            a position is not finite, two atoms coincide or a result is not finite.
    """

    implemented_properties = [  # noqa: RUF012  (the base class fixes how it is declared)
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]

    def __init__(self, model: str | os.PathLike | ExportedModel, device: str | torch.device = "cpu") -> None:
        super().__init__()
        self.model = as_exported(model, device)
        warn_of_energy(self.contract, self.model.path)

    @property
    def contract(self) -> Contract:
        """What the file promises: elements, cutoffs, precision."""
        return self.model.contract

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Compute every property at once (they share one pass) and leave them in ``results``."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        if not np.isfinite(self.atoms.positions).all():
            bad = int(np.argmax(~np.isfinite(self.atoms.positions).all(axis=1)))
            raise MindscaipError(f"the position of atom {bad} (counted from 0) is not finite; the run has blown up")
        check_elements(self.contract, sorted(set(self.atoms.symbols)), self.atoms.get_chemical_formula())
        # Not Structure.from_ase: that would take stale results of this very calculator for labels.
        structure = Structure(
            numbers=self.atoms.numbers,
            positions=self.atoms.positions,
            cell=np.asarray(self.atoms.cell),
            pbc=self.atoms.pbc,
        )
        prediction = evaluate(self.model, [structure], 1)[0]
        self.results = {
            "energy": prediction.energy,
            "free_energy": prediction.energy,
            "energies": prediction.atom_energies,
            "forces": prediction.forces,
        }
        if prediction.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(prediction.stress)
        elif "stress" in properties:
            reason = f"pbc is {structure.pbc.tolist()}" if self.contract.conservative else "forces are a direct output"
            raise PropertyNotImplementedError(
                f"stress needs three periodic directions and a conservative model: {reason}"
            )
