"""What a build depends on, and what it says of every molecule and bond."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mindscaip.bsct.dataset import MIN_FRAMES
from mindscaip.bsct.geometry import PUBLISHED_FRAMES
from mindscaip.errors import MindscaipError

PUBLISHED_BONDS = ("C-C", "C-N", "C-O", "C-P", "C-S", "N-N", "N-O", "N-P", "O-P")
WITH_REFERENCE, UNRELAXED = "reference", "none"
"""Values of :attr:`BuildSettings.relaxation` besides the name of a calculator."""
ALL_PAIRS, NONBONDED = "all", "nonbonded"
"""Values of :attr:`BuildSettings.overlap`."""

SCANNED, EXCLUDED, NOT_SAMPLED, FAILED = "scanned", "excluded", "not sampled", "failed"
TYPE, OVERLAPPING, SAMPLING, REFERENCE, DISCONTINUOUS = "type", "overlap", "sampling", "reference", "continuity"


@dataclass(frozen=True)
class BuildSettings:
    """What a scan depends on besides its molecule; a resumed build must have the same.

    Attributes:
        reference: name of the calculator of energies and forces.
        frames: per scan.
        seed: of the geometries that RDKit finds and of the choice of bonds.
        relaxation: ``reference``: with the reference; ``none``: keep the geometry as given; or the name of another
            calculator.
        overlap: which pairs of atoms, besides the scanned bond, must not come close: ``all``, as published, or
            ``nonbonded``, those without a bond in the unperturbed molecule.
    """

    reference: str = "gfn2-xtb"
    frames: int = PUBLISHED_FRAMES
    seed: int = 0
    relaxation: str = WITH_REFERENCE
    overlap: str = ALL_PAIRS

    def __post_init__(self) -> None:
        if self.frames < MIN_FRAMES:
            raise MindscaipError(f"{self.frames} frames are too few for a scan; give at least {MIN_FRAMES}")
        if self.seed < 0:
            raise MindscaipError(f"seed {self.seed} is negative; give 0 or larger")
        if self.overlap not in (ALL_PAIRS, NONBONDED):
            raise MindscaipError(f"overlap is {self.overlap!r}; give {ALL_PAIRS} (as published) or {NONBONDED}")


@dataclass(frozen=True)
class BondRecord:
    """What became of one bond of one molecule.

    Attributes:
        molecule: its name, as given.
        bond: bond type, such as ``C-O``.
        atoms: the two atoms, counted from 0 in the order of the scan.
        id: name of the scan within its bond type: ``<formula>-<atom>-<atom>-<hash of molecule and seed>``, or the id of
            the scan that the molecule was taken from.
        status: ``scanned``, ``excluded``, ``not sampled`` or ``failed``.
        rule: where it was not scanned, the rule that decided: ``ring``, ``single atom``, ``type``, ``overlap``,
            ``sampling``, ``reference`` or ``continuity``.
        reason: the same as a sentence.
        closest: smallest distance of another pair in units of its covalent sum, or None where not looked at.
        closest_atoms: that pair.
        closest_bonded: whether it is itself a bond of the molecule.
        closest_nonbonded: the same distance among pairs without a bond; what counts with ``nonbonded``.
        continuity: largest continuity error in eV, or None.
        unchecked: bond lengths in A, from and to, between which the grid is too coarse (few frames, or frames without a
            reference) to tell a jump of the reference from the error of the integral: continuity is not checked there.
        start: the frame that the reference began with, or None.
        failed_frames: number of the frame and the reason, for every frame without a reference.
        seconds: time that the reference took for all frames.
        unfinished: whether it failed before every frame had an answer or a reason of its own; its frames are kept, and
            the same command goes on with them.
    """

    molecule: str
    bond: str
    atoms: tuple[int, int]
    id: str
    status: str
    rule: str = ""
    reason: str = ""
    closest: float | None = None
    closest_atoms: tuple[int, int] | None = None
    closest_bonded: bool = False
    closest_nonbonded: float | None = None
    continuity: float | None = None
    unchecked: list[tuple[float, float]] = field(default_factory=list)
    start: int | None = None
    failed_frames: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    unfinished: bool = False


@dataclass(frozen=True)
class BuildResult:
    """Number of scans written, and what became of every molecule and bond.

    Attributes:
        num_scans: scans in the file.
        num_molecules: molecules whose bonds were looked at.
        records: one per bond.
        failed_molecules: name and reason.
        resumed: frames taken over from an earlier, interrupted build.
        num_frames: frames with a reference.
        kept: the work folder, where something in it is still of use; None where it was removed.
        why_kept: what that is and how to go on, as sentences.
    """

    num_scans: int
    num_molecules: int
    records: list[BondRecord]
    failed_molecules: list[tuple[str, str]]
    resumed: int
    num_frames: int
    kept: Path | None = None
    why_kept: list[str] = field(default_factory=list)


def count_bonds(records: list[BondRecord]) -> dict[str, dict[str, int]]:
    """Bond type to number of bonds by outcome (``scanned`` or the rule that decided), both sorted by name."""
    table: dict[str, Counter[str]] = {}
    for record in records:
        table.setdefault(record.bond, Counter())[record.rule or record.status] += 1
    return {bond: dict(sorted(table[bond].items())) for bond in sorted(table)}
