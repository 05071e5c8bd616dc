"""One table of several runs over the same scans: a row per potential, both metrics, errors and time.

Means over different scans cannot be compared, so runs over different scans are refused, or restricted to the scans that
all of them scored.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindscaip.bsct.score import read_summary
from mindscaip.bsct.statistics import describe
from mindscaip.errors import MindscaipError, did_you_mean

ENERGY_TOLERANCE = 1e-4
"""eV; the same scan has the same reference minimum, whatever layout it was read from."""
LENGTH_TOLERANCE = 1e-4
"""A; the same for where the minimum is."""
NAMED = 3
"""So many scans are named in a refusal."""


@dataclass(frozen=True)
class Column:
    """A column of the comparison: name, heading with unit, decimals, and what it means."""

    name: str
    heading: str
    digits: int
    meaning: str


COLUMNS = (
    Column("fsd", "FSD (1/A)", 2, "published metric, mean over scans"),
    Column("fsd_compress", "compress", 2, "published metric, up to the reference minimum"),
    Column("fsd_stretch", "stretch", 2, "published metric, from the reference minimum on"),
    Column("fsd_low", "95 % from", 2, "bootstrap interval of the mean FSD"),
    Column("fsd_high", "to", 2, "bootstrap interval of the mean FSD"),
    Column("fsd_intrinsic", "FSD intrinsic (1/A)", 2, "smoothness apart from accuracy, mean over scans"),
    Column("fsd_intrinsic_low", "95 % from", 2, "bootstrap interval of the mean intrinsic FSD"),
    Column("fsd_intrinsic_high", "to", 2, "bootstrap interval of the mean intrinsic FSD"),
    Column("dense", "dense", 0, "geometries per frame interval, on which the intrinsic metric rests"),
    Column("energy_mae", "E MAE (eV)", 3, "total energies as they are"),
    Column("energy_mae_shifted", "E MAE shifted (eV)", 3, "after the mean difference over each scan was removed"),
    Column("force_mae", "F MAE (eV/A)", 3, "mean over frames, atoms and components"),
    Column("unresolved", "unresolved", 0, "scans in which the grid does not resolve a change (max_log_step above 1)"),
    Column("ms_per_geometry", "ms per geometry", 1, "wall time of the run over the geometries it evaluated"),
    Column("seconds", "time (s)", 1, "wall time of all geometries, summed over processes"),
)
SORTABLE = tuple(column.name for column in COLUMNS)


@dataclass(frozen=True)
class Comparison:
    """The table.

    Attributes:
        rows: one per run, sorted: ``potential``, ``run`` (its folder) and the names of ``COLUMNS``.
        scans: the scans that all rows are over.
        left_out: per run, scans that are not among them.
        sort: the column that the rows are sorted by.
    """

    rows: list[dict[str, Any]]
    scans: tuple[str, ...]
    left_out: dict[str, tuple[str, ...]]
    sort: str

    @property
    def headings(self) -> list[str]:
        return ["potential", *(column.heading for column in COLUMNS)]

    def cells(self) -> list[list[str]]:
        """The rows as text, numbers rounded, ``-`` where there is none."""
        return [
            [str(row["potential"]), *(_text(row[column.name], column.digits) for column in COLUMNS)]
            for row in self.rows
        ]

    @property
    def notes(self) -> list[str]:
        """What a reader of the table must know: values that do not rest on the same geometries or scans."""
        densities = {str(row["potential"]): row["dense"] for row in self.rows}
        return [note for note in (density_note(densities), coverage_note(self.rows)) if note]

    def text(self) -> str:
        """Aligned columns."""
        table = [self.headings, *self.cells()]
        widths = [max(len(line[c]) for line in table) for c in range(len(table[0]))]
        lines = [
            "  ".join(
                cell.ljust(w) if c == 0 else cell.rjust(w) for c, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in table
        ]
        lines = [lines[0], "-" * len(lines[0]), *lines[1:], *self.notes]
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def markdown(self) -> str:
        """A Markdown table."""
        rule = ["---", *["---:"] * len(COLUMNS)]
        lines = [[cell.replace("|", "\\|") for cell in line] for line in [self.headings, rule, *self.cells()]]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
        return table + "".join(f"\n{note}\n" for note in self.notes)

    def csv(self) -> str:
        """Comma-separated values in full precision; columns by name, empty where there is no value."""
        out = io.StringIO()
        writer = csv.DictWriter(out, ["potential", "run", "num_scans", "num_intrinsic", *SORTABLE], lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({name: "" if _absent(value) else value for name, value in row.items()})
        return out.getvalue()


def compare_runs(folders: Sequence[Path], *, common: bool = False, sort: str = "fsd_intrinsic") -> Comparison:
    """Compare the runs in ``folders``.

    Args:
        common: restrict the comparison to the scans that all runs scored.
        sort: name of the column to sort by, smallest first; rows without a value come last.

    Raises:
        MindscaipError: no run, a folder that is not a finished run, an unknown column, runs over different scans
            (without ``common``), or no common scan.
    """
    if not folders:
        raise MindscaipError(
            "name the folders of the runs to compare, as written by 'mindscaip bsct score ... -o FOLDER'"
        )
    if sort not in SORTABLE:
        raise MindscaipError(
            f"there is no column {sort!r}{did_you_mean(sort, SORTABLE)}; known are {', '.join(SORTABLE)}"
        )
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise MindscaipError("a run is named twice; name each folder once")
    runs = [read_summary(folder) for folder in folders]
    tables = [{f"{row['bond']}/{row['id']}": row for row in run["scans"]} for run in runs]
    same = _common_scans(runs, tables)
    labels = [str(folder) for folder in folders]
    left_out = {
        label: tuple(key for key in table if key not in same) for label, table in zip(labels, tables, strict=True)
    }
    if not common and any(left_out.values()):
        raise MindscaipError(_difference(labels, runs, tables, same))
    if not same:
        raise MindscaipError(f"{' and '.join(labels)} have no scan in common; score them on the same data set")
    names = _names(runs, folders)
    rows = [
        _row(name, folder, run, [table[key] for key in same])
        for name, folder, run, table in zip(names, folders, runs, tables, strict=True)
    ]
    rows.sort(key=lambda row: (_absent(row[sort]), 0 if _absent(row[sort]) else row[sort]))
    return Comparison(rows, tuple(same), left_out, sort)


def _common_scans(runs: Sequence[Mapping[str, Any]], tables: Sequence[Mapping[str, Any]]) -> dict[str, None]:
    first, rest = tables[0], tables[1:]
    return {
        key: None
        for key in first
        if all(
            key in table and same_scan(runs[0], first[key], run, table[key], key)
            for run, table in zip(runs[1:], rest, strict=True)
        )
    }


def same_scan(
    run_a: Mapping[str, Any], a: Mapping[str, Any], run_b: Mapping[str, Any], b: Mapping[str, Any], key: str
) -> bool:
    """Whether two rows are over the same frames and reference, whatever layout these were read from."""
    minima = [run.get("reference_minima", {}).get(key) for run in (run_a, run_b)]
    return (
        all(a[name] == b[name] for name in ("num_atoms", "num_frames", "formula"))
        and same_length(a["minimum_bond_length"], b["minimum_bond_length"])
        and (None in minima or same_energy(*minima))
    )


def same_length(a: float, b: float) -> bool:
    """Whether two bond lengths in A are of the same frame, whatever layout they were read from; NaN never is."""
    return abs(a - b) <= LENGTH_TOLERANCE


def same_energy(a: float, b: float) -> bool:
    """The same for two reference energies in eV."""
    return abs(a - b) <= ENERGY_TOLERANCE


def _difference(
    labels: Sequence[str],
    runs: Sequence[Mapping[str, Any]],
    tables: Sequence[Mapping[str, Any]],
    same: Mapping[str, None],
) -> str:
    everywhere = set.intersection(*(set(table) for table in tables))
    other = [key for key in sorted(everywhere) if key not in same]
    parts = [f"{label} has {len(table)} scans" for label, table in zip(labels, tables, strict=True)]
    for label, table in zip(labels, tables, strict=True):
        lacking = sorted({key for t in tables for key in t} - set(table))
        if lacking:
            parts.append(f"{label} lacks {len(lacking)} ({_some(lacking)})")
    if other:
        parts.append(f"{len(other)} scans of one name have different frames or references ({_some(other)})")
    return f"the runs are over different scans: {'; '.join(parts)}; compare the {len(same)} common ones with --common"


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:NAMED]) + (", ..." if len(keys) > NAMED else "")


def _row(name: str, folder: Path, run: Mapping[str, Any], scans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def described(column: str) -> Any:
        return describe([math.nan if row.get(column) is None else float(row[column]) for row in scans])

    fsd, intrinsic = described("fsd"), described("fsd_intrinsic")
    seconds = sum(float(row["seconds"]) for row in scans)
    geometries = sum(_geometries(run, row) for row in scans)
    return {
        "potential": name,
        "run": str(folder),
        "num_scans": len(scans),
        "num_intrinsic": sum(row.get("fsd_intrinsic") is not None for row in scans),
        "fsd": fsd.mean,
        "fsd_compress": described("fsd_compress").mean,
        "fsd_stretch": described("fsd_stretch").mean,
        "fsd_low": fsd.low,
        "fsd_high": fsd.high,
        "fsd_intrinsic": intrinsic.mean,
        "fsd_intrinsic_low": intrinsic.low,
        "fsd_intrinsic_high": intrinsic.high,
        "dense": density(scans),
        "energy_mae": described("energy_mae").mean,
        "energy_mae_shifted": described("energy_mae_shifted").mean,
        "force_mae": described("force_mae").mean,
        "unresolved": sum(float(row["max_log_step"]) > 1 for row in scans),
        "ms_per_geometry": 1000 * seconds / geometries if geometries else math.nan,
        "seconds": seconds,
    }


def density(scans: Iterable[Mapping[str, Any]]) -> float:
    """Geometries per frame interval of the scans of one run; NaN where they differ."""
    found = {int(float(row.get("dense") or 0)) for row in scans}
    return found.pop() if len(found) == 1 else math.nan


def density_note(potentials: Mapping[str, float]) -> str:
    """What must be said where potentials were evaluated on paths of different density; empty where they were not.

    A sparser path steps over narrow peaks, so the metrics that rest on it are smaller there; the published FSD, the
    errors, flips, jumps and tortuosity rest on the frames alone.

    Args:
        potentials: name to :func:`density`.
    """
    known = {name: value for name, value in potentials.items() if value != 0}  # 0: without those metrics
    if len(known) < 2 or (len(set(known.values())) == 1 and not any(map(math.isnan, known.values()))):
        return ""
    each = ", ".join(f"{name} {'mixed' if math.isnan(value) else f'{value:.0f}'}" for name, value in known.items())
    common = math.gcd(*(int(value) for value in known.values() if not math.isnan(value)))
    cure = f"--dense {common}" + ("" if any(map(math.isnan, known.values())) else ", which needs no new geometry,")
    return (
        f"Geometries per frame interval differ ({each}): intrinsic FSD and conservation error are not comparable "
        f"between these rows; give the 'mindscaip bsct score' commands again with {cure} to have them on equal paths."
    )


def coverage_note(rows: Iterable[Mapping[str, Any]]) -> str:
    """What must be said where an intrinsic FSD is the mean over fewer scans than the row; empty where none is."""
    fewer = [
        f"{row['potential']} {row['num_intrinsic']} of {row['num_scans']}"
        for row in rows
        if 0 < row["num_intrinsic"] < row["num_scans"]
    ]
    if not fewer:
        return ""
    return (
        f"Means of the intrinsic FSD are over fewer scans, since a geometry between frames failed: {', '.join(fewer)}."
    )


def _geometries(run: Mapping[str, Any], row: Mapping[str, Any]) -> int:
    found = run.get("geometries", {}).get(f"{row['bond']}/{row['id']}")
    if found is not None:
        return int(found)
    # A run from before they were counted, in which frames dropped at the ends are taken for a part of the path.
    dense = int(row.get("dense", 0))
    return (int(row["num_frames"]) + int(row["num_dropped"]) - 1) * dense + 1 if dense else int(row["num_frames"])


def _names(runs: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> list[str]:
    """Names of the potentials, no two the same: as much of the folder's path follows as tells them apart."""
    names = [str(run["potential"]["name"]) for run in runs]
    names = [Path(name).name if name.endswith(".pt") else name for name in names]
    paths = [folder.resolve().parts for folder in folders]
    found = []
    for name, path in zip(names, paths, strict=True):
        same = [other for other_name, other in zip(names, paths, strict=True) if other_name == name]
        depth = 1
        while len({other[-depth:] for other in same}) < len(same):
            depth += 1
        found.append(f"{name} ({Path(*path[-depth:])})" if len(same) > 1 else name)
    return found


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: Any, digits: int) -> str:
    return "-" if _absent(value) else f"{value:.{digits}f}"
