"""Systems as XML files, and which model a System holds."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindscaip.contract import Contract, ExportedModel, read_contract
from mindscaip.engines.openmm_install import import_openmm, import_openmm_torch, sentence_of
from mindscaip.engines.openmm_python import PythonEvaluation
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

if TYPE_CHECKING:
    import openmm


@dataclass(frozen=True)
class PotentialInSystem:
    """A model inside a System: where it stands, how it is evaluated, and what its file promised.

    Attributes:
        force: index of the force in the System (of the ``CustomCVForce`` that holds it where there is one).
        backend: ``torch`` or ``python``.
        contract: of the ``model.pt`` from which it was made, with its hash.
    """

    force: int
    backend: str
    contract: Contract


def potentials_in(system: openmm.System) -> list[PotentialInSystem]:
    """The mindscaip models of ``system``, also those inside a ``CustomCVForce`` (interpolated mixed systems)."""
    mm = import_openmm()
    found = []
    for index in range(system.getNumForces()):
        for force in _with_variables(mm, system.getForce(index)):
            text, backend = _contract_in(mm, force)
            if text is not None:
                contract = Contract.from_text(text, f"force {index} of the System")
                found.append(PotentialInSystem(index, backend, contract))
    return found


def _contract_in(mm: Any, force: Any) -> tuple[str | None, str]:
    """Text of the contract that a force carries and its backend; None for every other force."""
    if isinstance(force, getattr(mm, "PythonForce", ())):
        # Python cannot reach the function of a PythonForce, but its XML has it, pickled as OpenMM itself reads it.
        pickled = re.search(r'\bfunction="([0-9a-f]+)"', mm.XmlSerializer.serialize(force))
        function = pickle.loads(bytes.fromhex(pickled.group(1))) if pickled else None
        return (function.contract if isinstance(function, PythonEvaluation) else None), "python"
    # Not by the name of the force, which is lost in XML.
    if type(force).__name__ in ("TorchForce", "Force"):
        kind = import_openmm_torch().TorchForce
        if kind.isinstance(force):
            return getattr(kind.cast(force).getModule(), "contract", None), "torch"
    return None, ""


def _with_variables(mm: Any, force: Any) -> Iterator[Any]:
    yield force
    if isinstance(force, mm.CustomCVForce):
        for i in range(force.getNumCollectiveVariables()):
            yield from _with_variables(mm, force.getCollectiveVariable(i))


def check_model(system: openmm.System, model: str | os.PathLike | ExportedModel) -> None:
    """Refuse a System that was made from another ``model.pt`` than this one.

    Raises:
        MindscaipError: the System holds no mindscaip model, or one whose hash differs; or ``model`` is no whole file.
    """
    if isinstance(model, ExportedModel):
        contract, name = model.contract, model.path
    else:
        contract, name = read_contract(model)[0], Path(model)
    held = potentials_in(system)
    if not held:
        raise MindscaipError("the System holds no mindscaip model; add one with mindscaip.engines.openmm")
    for potential in held:
        if potential.contract.sha256 != contract.sha256:
            raise MindscaipError(
                f"the System was made from a model with hash {potential.contract.sha256[:12]}, and {name} has "
                f"{contract.sha256[:12]}: the file has changed since; create the System again or give the file of then"
            )


def write_system(system: openmm.System, path: str | os.PathLike) -> None:
    """Write ``system`` as XML, in one step (a temporary file, then a rename)."""
    mm = import_openmm()
    text = mm.XmlSerializer.serialize(system)
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def read_system(path: str | os.PathLike, model: str | os.PathLike | ExportedModel | None = None) -> openmm.System:
    """Read a ``System`` that :func:`write_system` or OpenMM's ``XmlSerializer`` wrote.

    Args:
        model: if given, the System must hold this very model (:func:`check_model`).

    Raises:
        MindscaipError: no such file, not a System, a System with a ``TorchForce`` where openmm-torch does not work, or
            another model than ``model``.
    """
    mm = import_openmm()
    path = Path(path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise MindscaipError(f"{path}: cannot be read ({error}); give the XML file of a System") from None
    if 'type="TorchForce"' in text:
        import_openmm_torch()
    try:
        system = mm.XmlSerializer.deserialize(text)
    except Exception as error:  # OpenMM raises its own exceptions here, and those of what a PythonForce unpickles
        raise MindscaipError(f"{path}: {sentence_of(error)}; give the XML file of a System, whole") from None
    if not isinstance(system, mm.System):
        raise MindscaipError(f"{path}: it holds a {type(system).__name__}; give the XML file of a System")
    if model is not None:
        check_model(system, model)
    return system
