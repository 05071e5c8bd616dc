"""The exported file ``model.pt``: what it promises, how it is written, how it is read.

``model.pt`` is a TorchScript archive with two extra files: ``contract`` (flat ``key value`` lines, so that C++ reads it
with no JSON library) and ``metadata.json`` (for people). Its ``forward`` is

    forward(numbers int64[N], edge_index int64[2, E], edge_vectors float64|float32[E, 3])
        -> (atom_energies float64[N], edge_gradients[E, 3], direct_forces[N or 0, 3])

with edges ``e = (i, j)``, ``edge_index[0] = i`` the centre, ``edge_index[1] = j`` the neighbour and
``edge_vectors[e] = r_j - r_i + S @ cell``; every pair closer than ``list_cutoff`` must be listed, in both directions.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zipfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from mindscaip import __version__
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path

CONTRACT_VERSION = 1
EDGE_CONVENTION = "edge_index[0]=center,edge_index[1]=neighbor,edge_vector=r_neighbor-r_center+S@cell"
CONTRACT_FILE = "contract"
METADATA_FILE = "metadata.json"


@dataclass(frozen=True)
class Contract:
    """What an exported model promises to every engine (contract version 1).

    ``cutoff`` and ``list_cutoff`` are in A: no edge beyond ``cutoff`` carries weight, but neighbours up to
    ``list_cutoff`` influence the ranks of those that do. ``conservative`` is false when forces are a direct output,
    ``smooth`` is false for a hard kNN graph. ``staged`` is false when the module has ``forward`` alone and not the
    stages of one layer after the other (an average over rotations). ``sha256`` covers code and weights (see
    :func:`payload_sha256`).
    """

    elements: tuple[str, ...]
    cutoff: float
    list_cutoff: float
    k: int
    num_layers: int
    dtype: str
    conservative: bool
    smooth: bool
    ranking: str
    parameters: int
    contract_version: int = CONTRACT_VERSION
    mindscaip_version: str = __version__
    torch_version: str = str(torch.__version__)
    energy_unit: str = "eV"
    length_unit: str = "Angstrom"
    edge_convention: str = EDGE_CONVENTION
    staged: bool = True
    sha256: str = ""

    def to_text(self) -> str:
        """Flat ``key value`` lines; lists are separated by blanks, booleans are ``true`` and ``false``."""
        lines: list[str] = []
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, bool):
                text = "true" if value else "false"
            elif isinstance(value, tuple):
                text = " ".join(value)
            else:
                text = repr(value) if isinstance(value, float) else str(value)
            lines.append(f"{f.name} {text}")
        return "\n".join(lines) + "\n"

    @classmethod
    def from_text(cls, text: str, source: str) -> Contract:
        """Parse :meth:`to_text`; ``source`` names the file in errors. Keys that later additions bring are ignored."""
        found = dict(line.partition(" ")[::2] for line in text.splitlines() if line.strip())
        version = found.get("contract_version", "")
        if not version.isdigit():
            raise MindscaipError(f"{source}: its contract has no readable contract_version; export the model again")
        if int(version) > CONTRACT_VERSION:
            raise MindscaipError(
                f"{source}: its contract has version {version}, this mindscaip {__version__} reads up to "
                f"{CONTRACT_VERSION}; upgrade mindscaip or export the model with this version"
            )
        kwargs: dict[str, Any] = {}
        for f in fields(cls):
            if f.name in _ADDED_LATER and f.name not in found:
                continue
            if f.name not in found:
                raise MindscaipError(f"{source}: its contract lacks the key {f.name!r}; export the model again")
            raw = found[f.name]
            try:
                kwargs[f.name] = _PARSERS[str(f.type)](raw)
            except ValueError:
                raise MindscaipError(f"{source}: its contract has {f.name} = {raw!r}, not a {f.type}") from None
        return cls(**kwargs)


_ADDED_LATER = {"staged"}
"""Keys that the first files of this version lack: their defaults are what those files are."""


def energy_warning(contract: Contract, source: str | os.PathLike) -> str | None:
    """Why energy is not conserved in NVE with this model, in one sentence, or None when it is."""
    if not contract.conservative:
        return (
            f"{source}: its forces are a direct output and not the gradient of its energy; "
            "energy is not conserved in NVE and pressure from energies does not match the forces"
        )
    if not contract.smooth:
        return f"{source}: its energy jumps when neighbours change (its contract says smooth false); it drifts in NVE"
    return None


class EnergyWarning(UserWarning):
    """The model does not conserve energy by its construction."""


def warn_of_energy(contract: Contract, source: str | os.PathLike, stacklevel: int = 2) -> None:
    """Issue :func:`energy_warning` as an :class:`EnergyWarning`; every engine calls this before dynamics."""
    text = energy_warning(contract, source)
    if text is not None:
        warnings.warn(text, EnergyWarning, stacklevel=stacklevel + 1)


def _parse_bool(raw: str) -> bool:
    if raw not in ("true", "false"):
        raise ValueError(raw)
    return raw == "true"


_PARSERS: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": _parse_bool,
    "tuple[str, ...]": lambda raw: tuple(raw.split()),
}


@dataclass(frozen=True)
class ExportedModel:
    """A loaded ``model.pt``: the TorchScript module with its contract and its record."""

    module: torch.jit.ScriptModule
    contract: Contract
    metadata: dict[str, Any]
    path: Path


def payload_sha256(path: Path) -> str:
    """SHA-256 over names and contents of the archive's code and tensors (debug tables and extra files left out)."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as archive:
        members = {name.split("/", 1)[1]: name for name in archive.namelist() if "/" in name}
        for short in sorted(members):
            if short.startswith((".data", "extra/")) or short.endswith(".debug_pkl"):
                continue
            digest.update(short.encode())
            digest.update(archive.read(members[short]))
    return digest.hexdigest()


def write_exported(
    module: torch.jit.ScriptModule, path: str | os.PathLike, contract: Contract, metadata: dict[str, Any]
) -> Contract:
    """Write ``model.pt`` in one step (a temporary file, then a rename) and return the contract with its hash."""
    with atomic_path(path) as target:
        torch.jit.save(module, str(target))
        contract = replace(contract, sha256=payload_sha256(target))
        extra = {CONTRACT_FILE: contract.to_text(), METADATA_FILE: json.dumps(metadata, indent=1, sort_keys=True)}
        torch.jit.save(module, str(target), _extra_files=extra)
    return contract


def is_exported(path: str | os.PathLike) -> bool:
    """Whether ``path`` is an archive with a contract in it, whole or not (a checkpoint of a run is not)."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f"/extra/{CONTRACT_FILE}") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def read_contract(path: str | os.PathLike) -> tuple[Contract, dict[str, Any]]:
    """Read contract and metadata of ``model.pt`` without loading its code.

    Raises:
        MindscaipError: the file is missing, cut off, foreign, damaged or from a newer contract.
    """
    path = Path(path)
    if not path.is_file():
        raise MindscaipError(f"{path}: no such file; give the path of a model.pt written by 'mindscaip export'")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.split("/", 1)[1]: name for name in archive.namelist() if "/" in name}
            if f"extra/{CONTRACT_FILE}" not in members:
                raise MindscaipError(
                    f"{path}: it is an archive with no mindscaip contract in it; "
                    "give a model.pt written by 'mindscaip export'"
                )
            text = archive.read(members[f"extra/{CONTRACT_FILE}"]).decode()
            metadata = json.loads(archive.read(members[f"extra/{METADATA_FILE}"]))
        contract = Contract.from_text(text, str(path))
        if payload_sha256(path) != contract.sha256:
            raise MindscaipError(
                f"{path}: code or weights differ from the hash in its contract; export the model again"
            )
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, json.JSONDecodeError, EOFError, OSError):
        raise MindscaipError(
            f"{path}: not a whole model.pt (truncated, damaged or of another kind); "
            "write it again with 'mindscaip export'"
        ) from None
    return contract, metadata


def load_exported(path: str | os.PathLike, device: str | torch.device = "cpu") -> ExportedModel:
    """Load ``model.pt`` after checking its contract and its hash.

    Raises:
        MindscaipError: as :func:`read_contract`, or the archive does not load with the installed torch.
    """
    contract, metadata = read_contract(path)
    try:
        module = torch.jit.load(str(path), map_location=device)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MindscaipError(
            f"{path}: torch {torch.__version__} cannot load it (written with torch {contract.torch_version}): {reason}"
        ) from None
    module.eval()
    return ExportedModel(module=module, contract=contract, metadata=metadata, path=Path(path))


def check_elements(contract: Contract, symbols: list[str] | tuple[str, ...], what: str) -> None:
    """Refuse elements that the model was not trained on.

    Raises:
        MindscaipError: names the first unknown element and lists the known ones.
    """
    unknown = sorted(set(symbols) - set(contract.elements))
    if unknown:
        raise MindscaipError(
            f"element {unknown[0]} of {what} is not in the model, which knows {' '.join(contract.elements)}"
        )
