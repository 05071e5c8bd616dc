"""Data sets of any known format into one store: read as a stream, checked, filtered, merged, all or nothing."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from mindscaip import __version__
from mindscaip.data.checks import Finding, check_isolated, check_structures, raise_on_error
from mindscaip.data.collection import geometry_hash
from mindscaip.data.distances import nearest_neighbors
from mindscaip.data.formats import read_structures
from mindscaip.data.readers import SourceSettings, files_of
from mindscaip.data.readers.base import ISOLATED_GROUP, FileUnits, ReadOptions, group_name, subset_of
from mindscaip.data.store import Store, write_store
from mindscaip.data.structure import Structure
from mindscaip.errors import MindscaipError

FIRST_BLOCK = 1000
"""Structures at the beginning of a file that are checked before any is written."""
LATER_BLOCK = 300
LATER_EVERY = 50_000
"""Later in a file, so many in a row are checked every so many."""


@dataclass(frozen=True)
class Rules:
    """Which structures are left out.

    Attributes:
        max_force: eV/A; a structure with a larger force on an atom is dropped.
        max_atoms: larger structures are dropped.
        min_distance: A; a structure with two atoms closer is dropped.
        elements: symbols; a structure with another element is dropped. Empty: all elements.
        drop_duplicates: of structures with equal elements, positions and cell, the first is kept.
    """

    max_force: float | None = None
    max_atoms: int | None = None
    min_distance: float | None = None
    elements: tuple[str, ...] = ()
    drop_duplicates: bool = False

    def __post_init__(self) -> None:
        for symbol in self.elements:
            if symbol not in chemical_symbols[1:]:
                raise MindscaipError(f"{symbol!r} is not the symbol of an element; write H,C,N,O")


@dataclass
class SourceSummary:
    """What became of one file."""

    path: str
    format: str
    units: FileUnits
    read: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """For the provenance of a store."""
        return {
            "file": Path(self.path).name,
            "format": self.format,
            "units": self.units.record(),
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "checks": {finding.name: finding.record() for finding in self.findings},
        }


@dataclass
class ImportSummary:
    """What an import did."""

    path: str
    structures: int = 0
    atoms: int = 0
    elements: list[str] = field(default_factory=list)
    isolated: dict[str, float] = field(default_factory=dict)
    sources: list[SourceSummary] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def dropped(self) -> Counter[str]:
        """How many structures were left out, by reason."""
        return sum((source.dropped for source in self.sources), Counter())

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {
            "path": self.path,
            "structures": self.structures,
            "atoms": self.atoms,
            "elements": self.elements,
            "isolated_energies": self.isolated,
            "dropped": dict(self.dropped),
            "sources": [source.record() for source in self.sources],
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class ImportSettings(SourceSettings):
    """How to import.

    Attributes:
        rules: which structures are left out.
        isolated: file of isolated atoms, in the same units; None: those marked in the sources.
    """

    rules: Rules = Rules()
    isolated: Path | None = None


def import_data(
    sources: Sequence[str | Path],
    output: str | Path,
    settings: ImportSettings | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[float, int], None] = lambda fraction, structures: None,
) -> ImportSummary:
    """Read all sources one after the other into a new store; memory does not grow with their size.

    Structures without energy or forces, or with values that are not finite, are dropped and counted. With several
    sources, the name of each becomes the subset of its structures where they have none.

    Args:
        sources: files, or folders of files.
        output: the store to write (``.h5``).
        settings: how to read, check and filter.
        overwrite: replace an existing store (when the new one is whole).
        progress: is told the part that is done, 0 to 1, and the number of structures read.

    Raises:
        MindscaipError: an unreadable source, failed checks, nothing left to write, an existing output.
    """
    settings = settings or ImportSettings()
    output = Path(output)
    _check_output(output, overwrite)
    start = time.monotonic()
    work = _Import([Path(source) for source in sources], settings, progress)
    summary = ImportSummary(str(output), isolated=work.isolated, sources=work.summaries)
    provenance: dict[str, Any] = {"made_by": f"mindscaip {__version__}, data import"}

    def stream() -> Iterator[Structure]:
        elements = np.zeros(len(chemical_symbols), dtype=bool)
        for structure in work.structures():
            summary.structures += 1
            summary.atoms += len(structure)
            elements[structure.numbers] = True
            yield structure
        if summary.structures == 0:
            raise MindscaipError(f"no structure is left to write into {output} ({_listed(summary.dropped)} dropped)")
        summary.elements = [chemical_symbols[z] for z in np.flatnonzero(elements)]
        provenance["sources"] = [source.record() for source in work.summaries]
        provenance["checked"] = settings.check

    write_store(output, stream(), work.isolated, provenance)
    summary.seconds = time.monotonic() - start
    return summary


def _check_output(output: Path, overwrite: bool) -> None:
    if output.suffix.lower() not in (".h5", ".hdf5"):
        raise MindscaipError(f"{output} should end in .h5: the import writes a store")
    if output.exists() and not overwrite:
        raise MindscaipError(f"{output} exists; name another file or give --overwrite")


class _Import:
    """The stream from all sources, with what is learnt on the way."""

    def __init__(self, sources: list[Path], settings: ImportSettings, progress: Callable[[float, int], None]) -> None:
        self._settings = settings
        self._progress = progress
        self._files: list[tuple[Path, str]] = []
        for source in sources:
            label = source.resolve().stem if len(sources) > 1 else ""
            self._files += [(path, label) for path in files_of(source)]
        self._sizes = np.array([path.stat().st_size if path.exists() else 0 for path, _ in self._files], dtype=float)
        self._done = 0.0
        self._read = 0
        self._hashes: set[int] = set()
        self._allowed = {chemical_symbols.index(symbol) for symbol in settings.rules.elements}
        self.summaries: list[SourceSummary] = []
        # Everything that can be wrong with names and units is found before the first file is read.
        for path, _ in self._files:
            name, units = settings.layout_of(path)
            self.summaries.append(SourceSummary(str(path), name, units))
        self.isolated: dict[str, float] = {}
        self._isolated_given = settings.isolated is not None
        if settings.isolated is not None:
            self._read_isolated(settings.isolated)

    def structures(self) -> Iterator[Structure]:
        for number, ((path, label), summary) in enumerate(zip(self._files, self.summaries, strict=True)):
            self._done = float(self._sizes[:number].sum())
            if summary.format == "store" and not self._isolated_given:
                with Store(path) as store:
                    for symbol, energy in store.isolated_energies.items():
                        self._add_isolated(symbol, energy, str(path))
            yield from self._filtered(self._checked(self._source(path, summary, number), path, summary), label, summary)

    def _source(self, path: Path, summary: SourceSummary, number: int) -> Iterator[Structure]:
        def report(fraction: float) -> None:
            total = float(self._sizes.sum()) or 1.0
            self._progress((self._done + fraction * self._sizes[number]) / total, self._read)

        for structure in self._settings.read(path, summary.format, summary.units, report):
            summary.read += 1
            self._read += 1
            if structure.group == ISOLATED_GROUP and structure.energy is not None:
                summary.dropped["isolated atom, kept as reference energy"] += 1
                if not self._isolated_given:
                    self._add_isolated(structure.symbols[0], structure.energy, str(path))
                continue
            reason = _unlabelled(structure)
            if reason:
                summary.dropped[reason] += 1
                continue
            yield structure
        if summary.kept == 0 and summary.read > 0:
            self._explain(path, summary)

    def _explain(self, path: Path, summary: SourceSummary) -> None:
        """Raise what is wrong where nothing of a file could be used for want of labels."""
        unlabelled = sum(summary.dropped[reason] for reason in ("no energy", "no forces"))
        if unlabelled < summary.read:
            return
        options = self._settings.options
        if summary.format == "extxyz":
            keys = {"energy_key": options.energy_key, "forces_key": options.forces_key}
            next(read_structures(path, index="0", **keys))  # type: ignore[arg-type]
        what = " and ".join(name for name in ("energy", "forces") if summary.dropped[f"no {name}"])
        raise MindscaipError(f"{path}: no structure has {what}; name the label with --energy-key or --forces-key")

    def _checked(self, structures: Iterator[Structure], path: Path, summary: SourceSummary) -> Iterator[Structure]:
        """The same structures, tested in blocks unless that is not wanted."""
        if not self._settings.check:
            yield from structures
            return
        yield from checked(structures, lambda block: self._check(block, path, summary))

    def _check(self, block: list[Structure], path: Path, summary: SourceSummary) -> None:
        findings = check_structures(block, summary.units)
        if self.isolated:
            findings.append(check_isolated(block, self.isolated))
        if not summary.findings:
            summary.findings = findings
        raise_on_error(findings, str(path))

    def _filtered(self, structures: Iterator[Structure], label: str, summary: SourceSummary) -> Iterator[Structure]:
        for structure in structures:
            reason = self._reason(structure)
            if reason:
                summary.dropped[reason] += 1
                continue
            if label and not subset_of(structure.group):
                structure.group = group_name(label, structure.group)
            summary.kept += 1
            yield structure

    def _reason(self, structure: Structure) -> str:
        """Why a structure is left out; empty if it is not."""
        rules = self._settings.rules
        assert structure.forces is not None
        if rules.max_atoms is not None and len(structure) > rules.max_atoms:
            return f"more than {rules.max_atoms} atoms"
        if self._allowed and not self._allowed.issuperset(structure.numbers.tolist()):
            return "another element"
        if rules.max_force is not None and np.max((structure.forces**2).sum(axis=1)) > rules.max_force**2:
            return f"a force above {rules.max_force:g} eV/A"
        if rules.min_distance is not None and nearest_neighbors(structure)[0].min() < rules.min_distance:
            return f"two atoms closer than {rules.min_distance:g} A"
        if rules.drop_duplicates:
            key = geometry_hash(structure)
            if key in self._hashes:
                return "duplicate"
            self._hashes.add(key)
        return ""

    def _add_isolated(self, symbol: str, energy: float, where: str) -> None:
        before = self.isolated.setdefault(symbol, energy)
        if abs(before - energy) > 1e-6:
            raise MindscaipError(
                f"{where} gives an isolated {symbol} atom {energy} eV, an earlier one has {before} eV; give the right "
                "energies with --isolated FILE"
            )

    def _read_isolated(self, path: Path) -> None:
        given = self._settings
        options = ReadOptions(energy_key=given.options.energy_key)
        settings = SourceSettings(options, units=given.units, forces_are_gradients=given.forces_are_gradients)
        name, units = settings.layout_of(path)
        if name == "store":
            with Store(path) as store:
                self.isolated.update(store.isolated_energies)
        else:
            for structure in settings.read(path, name, units):
                if len(structure) != 1 or structure.energy is None:
                    what = f"{len(structure)} atoms" if len(structure) != 1 else "no energy"
                    raise MindscaipError(f"{path} has a frame with {what}; isolated atoms come one per frame, labelled")
                self._add_isolated(structure.symbols[0], structure.energy, str(path))
        if not self.isolated:
            raise MindscaipError(f"{path} holds no energies of isolated atoms")


def checked(structures: Iterator[Structure], check: Callable[[list[Structure]], None]) -> Iterator[Structure]:
    """The same structures; a block at the beginning and now and then one later is given to ``check`` before it goes on.

    Args:
        structures: of one file.
        check: raises on what must not go on.
    """
    block: list[Structure] = []
    for count, structure in enumerate(structures):
        size = FIRST_BLOCK if count < LATER_EVERY else LATER_BLOCK
        if count % LATER_EVERY < size:
            block.append(structure)
            if len(block) == size:
                check(block)
                yield from block
                block = []
        else:
            yield structure
    if block:
        check(block)
        yield from block


def _unlabelled(structure: Structure) -> str:
    if structure.energy is None:
        return "no energy"
    if structure.forces is None:
        return "no forces"
    if not math.isfinite(structure.energy):
        return "energy not finite"
    if not np.isfinite(structure.forces).all():
        return "forces not finite"
    if structure.stress is not None and not np.isfinite(structure.stress).all():
        return "stress not finite"
    return ""


def _listed(dropped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.most_common()) or "none"
