"""Which bonds are scanned: bridges, of the types asked for, without collisions, at most so many of each type."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mindscaip.bsct import records
from mindscaip.bsct.bridges import Bridge, bond_type, bridge_bonds
from mindscaip.bsct.dataset import displace
from mindscaip.bsct.geometry import OVERLAP, closest_approach, scan_lengths
from mindscaip.bsct.inputs import Source
from mindscaip.bsct.records import BondRecord, BuildSettings
from mindscaip.bsct.relax import Molecule


@dataclass(frozen=True)
class Job:
    """One bond that is to be scanned."""

    molecule: Molecule
    bridge: Bridge
    record: BondRecord

    @property
    def name(self) -> str:
        return f"{self.record.bond}/{self.record.id}"


def candidates(
    molecules: Sequence[Molecule], settings: BuildSettings, wanted: Sequence[str]
) -> tuple[list[Job], list[BondRecord]]:
    """Steps 1 to 3: the bonds to scan, and the records of those that are not."""
    jobs: list[Job] = []
    found: list[BondRecord] = []

    def leave_out(record: BondRecord, rule: str, reason: str) -> None:
        found.append(replace(record, status=records.EXCLUDED, rule=rule, reason=reason))

    for molecule in molecules:
        good, excluded = bridge_bonds(len(molecule.numbers), molecule.source.bonds)
        if molecule.source.scan is not None:
            good, excluded = _only(molecule.source, good, excluded)
        for atoms, (rule, reason) in excluded.items():
            leave_out(_record(molecule, atoms, settings), rule, reason)
        for bridge in good:
            record = _record(molecule, bridge.atoms, settings)
            if wanted and record.bond not in wanted:
                leave_out(record, records.TYPE, f"bond type {record.bond} was not asked for")
                continue
            lengths = lengths_of(molecule, bridge, settings)
            positions = displace(molecule.positions, bridge.atoms, bridge.labels, lengths)
            bonds = {(min(pair), max(pair)) for pair in molecule.source.bonds}
            closest = closest_approach(molecule.numbers, positions, bridge.atoms)
            apart = closest_approach(molecule.numbers, positions, bridge.atoms, bonds)
            record = replace(
                record,
                closest=closest[0] if np.isfinite(closest[0]) else None,
                closest_atoms=closest[2],
                closest_bonded=closest[2] in bonds,
                closest_nonbonded=apart[0] if np.isfinite(apart[0]) else None,
            )
            # Where atoms without a bond collide too, they are the reason: leaving bonds out would not help.
            ratio, frame, pair = apart if settings.overlap == records.NONBONDED or apart[0] < OVERLAP else closest
            if ratio < OVERLAP:
                reason = _overlap_reason(ratio, pair, float(lengths[frame]), bonded=pair in bonds)
                leave_out(record, records.OVERLAPPING, reason)
            else:
                jobs.append(Job(molecule, bridge, record))
    names = Counter(job.name for job in jobs)
    return [_named(job, settings, names) for job in jobs], found


def _overlap_reason(ratio: float, pair: tuple[int, int], length: float, *, bonded: bool) -> str:
    i, j = pair
    if bonded:
        return (
            f"atoms {i} and {j}, which are bonded, stand at {ratio:.3f} of their covalent sum (limit {OVERLAP}) in "
            "every frame, as double and triple bonds do; --overlap nonbonded leaves bonded pairs out of this rule"
        )
    return (
        f"atoms {i} and {j} come as close as {ratio:.3f} of their covalent sum (limit {OVERLAP}) "
        f"at bond length {length:.2f} A"
    )


def _named(job: Job, settings: BuildSettings, names: Counter[str]) -> Job:
    """The job, its id made longer where scans from two files have the same one."""
    if names[job.name] == 1:
        return job
    longer = f"{job.record.id}-{job.molecule.source.identity(settings.seed)}"
    return replace(job, record=replace(job.record, id=longer))


def _only(
    source: Source, good: list[Bridge], excluded: dict[tuple[int, int], tuple[str, str]]
) -> tuple[list[Bridge], dict[tuple[int, int], tuple[str, str]]]:
    """Of a molecule that was taken from a scan, the bond of that scan, its atoms in the order of that scan."""
    assert source.scan is not None
    first, second = source.scan[2]
    atoms = (min(first, second), max(first, second))
    turned = [Bridge((first, second), b.labels if first < second else 1 - b.labels) for b in good if b.atoms == atoms]
    return turned, {atoms: excluded[atoms]} if atoms in excluded else {}


def lengths_of(molecule: Molecule, bridge: Bridge, settings: BuildSettings) -> np.ndarray:
    """The bond lengths of a scan in A, ``[K]``."""
    return scan_lengths(molecule.numbers, bridge.atoms, settings.frames)


def _record(molecule: Molecule, atoms: tuple[int, int], settings: BuildSettings) -> BondRecord:
    i, j = atoms
    source = molecule.source
    return BondRecord(
        molecule=source.name,
        bond=bond_type(source.numbers[i], source.numbers[j]),
        atoms=(int(i), int(j)),
        id=source.scan[1] if source.scan else f"{source.formula}-{i}-{j}-{source.identity(settings.seed)}",
        status="",
    )


def sample(jobs: list[Job], per_bond: int | None, seed: int) -> tuple[list[Job], list[BondRecord]]:
    """Step 4: at most ``per_bond`` of each bond type."""
    if per_bond is None:
        return jobs, []
    by_bond: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_bond[job.record.bond].append(job)
    kept: list[Job] = []
    dropped: list[BondRecord] = []
    for bond, group in sorted(by_bond.items()):
        # One stream per bond type: adding a type does not change the choice in the others.
        rng = np.random.default_rng([seed, *bond.encode()])
        chosen = set(rng.permutation(len(group))[:per_bond].tolist())
        reason = f"{per_bond} of {len(group)} {bond} bonds were chosen"
        for k, job in enumerate(group):
            if k in chosen:
                kept.append(job)
            else:
                dropped.append(replace(job.record, status=records.NOT_SAMPLED, rule=records.SAMPLING, reason=reason))
    return kept, dropped
