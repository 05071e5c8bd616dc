"""The main job from end to end: label, train, export, run in two engines, score, and one page with the results.

    python examples/demo.py            about ten minutes on two cores; results in demo/
    python examples/demo.py --quick    the same path with far too little training, in about a minute; demo-quick/

Each step prints the command that it runs. Steps that are done are kept: after Ctrl-C, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mindscaip import __version__
from mindscaip.console import exit_on_error
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path
from mindscaip.report.page import (
    Command,
    Commands,
    Facts,
    Number,
    NumberTable,
    Page,
    Section,
    Table,
    format_seconds,
)
from mindscaip.units import EV_TO_MEV

if TYPE_CHECKING:
    from mindscaip.contract import Contract

SCANS = Path(__file__).resolve().parent.parent / "tests" / "data_files" / "bsct-gfn2-small.h5"
NEEDED = {
    "tblite": "the reference method, GFN2-xTB",
    "rdkit": "geometries from SMILES",
    "openmm": "OpenMM",
    "openmmtorch": "OpenMM's bridge to torch",
    "lammps": "LAMMPS",
}


@dataclass(frozen=True)
class Size:
    """How much of everything: the whole demo, or the quick one that only shows that the path works."""

    molecules: tuple[str, ...]
    train_sampling: tuple[str, ...]
    test_sampling: tuple[str, ...]
    minutes: float
    nve_molecule: str
    nve_steps: int
    relax: bool
    folder: str


FULL = Size(
    molecules=("O", "CO", "CCO", "COC", "CC=O", "NC=O", "CN", "CC"),
    train_sampling=("--frames", "150", "--trajectories", "4"),
    test_sampling=("--frames", "20", "--trajectories", "2", "--seed", "1"),
    minutes=5.0,
    nve_molecule="CCO",
    nve_steps=1000,
    relax=True,
    folder="demo",
)
QUICK = Size(
    molecules=("O", "CO", "CN"),
    train_sampling=("--frames", "20", "--trajectories", "1", "--equilibration", "50"),
    test_sampling=("--frames", "4", "--trajectories", "1", "--equilibration", "50", "--seed", "1"),
    minutes=0.15,
    nve_molecule="CO",
    nve_steps=50,
    # Ten seconds of training give no minimum to speak of.
    relax=False,
    folder="demo-quick",
)
TEMPERATURE = 500.0
NVE_TEMPERATURE = 300.0
TIMESTEP = 0.5


class Demo:
    """Runs the steps in order and remembers which are done, by their commands, in ``steps.json``."""

    def __init__(self, folder: Path, total: int) -> None:
        self.folder = folder
        self.total = total
        self.commands: list[Command] = []
        self._changed = False
        self._file = folder / "steps.json"
        self._done: dict[str, dict] = json.loads(self._file.read_text()) if self._file.exists() else {}

    def heading(self, title: str) -> None:
        print(f"\n[{len(self.commands) + 1}/{self.total}] {title}", flush=True)

    def run(
        self,
        title: str,
        arguments: Sequence[str],
        output: Path,
        *,
        resume: Sequence[str] | None = None,
    ) -> None:
        """Run ``mindscaip ARGUMENTS`` unless the same command has made ``output`` before.

        Args:
            resume: arguments that go on with this step after an interruption; by default the same ones.
        """
        command = "mindscaip " + shlex.join(arguments)
        entry = self._done.get(title, {})
        same = entry.get("command") == command and not self._changed
        self.heading(title)
        print(f"$ {_wrapped(command)}", flush=True)
        if same and entry["seconds"] is not None and output.exists():
            print(f"done before, in {format_seconds(entry['seconds'])}: {output}")
            self.commands.append(Command(title, command, entry["seconds"]))
            return
        self._changed = True
        if not same:
            _remove(output)
            _remove(output.with_name(output.name + ".work"))
        elif resume is not None and output.exists():
            arguments = resume
            print(f"interrupted before; going on with: mindscaip {shlex.join(resume)}", flush=True)
        elif output.is_file():
            _remove(output)
        self._remember(title, command, None)
        seconds = _run_mindscaip(arguments)
        self._remember(title, command, seconds)
        self.commands.append(Command(title, command, seconds))
        print(f"took {format_seconds(seconds)}")

    def _remember(self, title: str, command: str, seconds: float | None) -> None:
        self._done[title] = {"command": command, "seconds": seconds}
        with atomic_path(self._file) as temporary:
            temporary.write_text(json.dumps(self._done, indent=1) + "\n")


def _run_mindscaip(arguments: Sequence[str]) -> float:
    """Run a command of the package; on Ctrl-C let it put its work away first."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "mindscaip.cli", *arguments])
    try:
        status = process.wait()
    except KeyboardInterrupt:
        # A terminal signals both processes, other callers only this one.
        for stop in (None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if stop is not None:
                process.send_signal(stop)
            try:
                process.wait(timeout=5)
                break
            except subprocess.TimeoutExpired:
                continue
        raise
    if status != 0:
        print(f"\nthis step ended with status {status}; mend it and run the same command again: what is done is kept")
        sys.exit(status if status > 0 else 1)
    return time.monotonic() - started


def run_demo(folder: Path, size: Size) -> None:
    """All steps; each one reads what an earlier one wrote into ``folder``."""
    train, test, run, model = folder / "train.h5", folder / "test.h5", folder / "run", folder / "model.pt"
    scans = Path(os.path.relpath(SCANS))
    demo = Demo(folder, total=9)

    labels = ["--temperature", f"{TEMPERATURE:g}", "--workers", str(min(2, os.cpu_count() or 1))]
    demo.run(
        "Label molecules with GFN2-xTB, sampled by molecular dynamics",
        ["label", *size.molecules, "-o", str(train), *size.train_sampling, *labels],
        train,
    )
    demo.run(
        "Label test frames from trajectories of their own",
        ["label", *size.molecules, "-o", str(test), *size.test_sampling, *labels],
        test,
    )
    demo.run(
        "Train the tiny preset",
        [
            *("train", "preset=tiny", f"data.train={train}", f"run={run}"),
            *("training.epochs=10000", f"training.max_minutes={size.minutes:g}"),
            *(f"smoothness.scans={scans}", "smoothness.num_scans=2", "smoothness.every=3"),
        ],
        run,
        resume=["train", "--resume", str(run)],
    )
    demo.run(
        "Export one file for every engine, in double precision",
        ["export", str(run), "-o", str(model), "--dtype", "float64"],
        model,
    )
    print(_model_line(model))

    demo.heading("Errors on the test frames")
    command = f"mindscaip evaluate {model} {test}"
    print(f"$ {command}", flush=True)
    demo.commands.append(
        Command("Errors on the test frames", command, _run_mindscaip(["evaluate", str(model), str(test)]))
    )

    demo.heading("Build pair_style mindscaip for LAMMPS")
    print("$ mindscaip lammps build", flush=True)
    seconds = _run_mindscaip(["lammps", "build"])
    demo.commands.append(Command("Build pair_style mindscaip for LAMMPS", "mindscaip lammps build", seconds))

    dynamics = ["--temperature", f"{NVE_TEMPERATURE:g}", "--timestep", f"{TIMESTEP:g}", "--steps", str(size.nve_steps)]
    if not size.relax:
        dynamics.append("--no-relax")
    for name, engine in (("OpenMM", "openmm"), ("LAMMPS", "lammps")):
        output = folder / f"nve-{engine}"
        demo.run(
            f"Constant-energy dynamics in {name}",
            ["md", str(model), size.nve_molecule, "--engine", engine, *dynamics, "-o", str(output)],
            output,
        )
    demo.run(
        "Smoothness along bond scans labelled with GFN2-xTB",
        ["bsct", "score", str(model), str(scans), "-o", str(folder / "bsct")],
        folder / "bsct",
    )

    numbers = write_report(folder, size, scans, demo.commands)
    _print_summary(numbers, folder, model)


def write_report(folder: Path, size: Size, scans_path: Path, commands: Sequence[Command]) -> dict[str, list[Number]]:
    """Gather the results in ``folder``, write ``report.html`` and return the numbers of its table."""
    # Here and not above, so that the first step starts without waiting for torch.
    from mindscaip.bsct.dataset import open_scans
    from mindscaip.bsct.fsd import fsd
    from mindscaip.bsct.score import read_prediction
    from mindscaip.contract import load_exported
    from mindscaip.data.store import Store
    from mindscaip.engines.batched import evaluate
    from mindscaip.metrics import error_statistics
    from mindscaip.report.figures import bond_scan, learning_curves, nve_energies, parity
    from mindscaip.report.training import read_curves, smoothness_curves
    from mindscaip.studies.nve import compare, drift
    from mindscaip.studies.read import read_record

    exported = load_exported(folder / "model.pt")
    contract, record = exported.contract, exported.metadata["record"]
    curves = read_curves(folder / "run" / "curves.csv")

    with Store(folder / "test.h5") as store:
        frames = list(store)
    predictions = evaluate(exported, frames)
    errors = error_statistics(frames, predictions)
    # Relative to the mean of its molecule: the differences between molecules are large and easy.
    energy = np.array([f.energy for f in frames])
    predicted = np.array([p.energy for p in predictions])
    molecules = np.array([f.group for f in frames])
    atoms = np.array([len(f) for f in frames])
    means = {name: energy[molecules == name].mean() for name in set(molecules)}
    offset = np.array([means[name] for name in molecules])
    forces = np.concatenate([f.forces.ravel() for f in frames if f.forces is not None])
    predicted_forces = np.concatenate([p.forces.ravel() for p in predictions])

    openmm = read_record(folder / "nve-openmm")
    lammps = read_record(folder / "nve-lammps")
    agreement = compare(openmm, lammps)
    drifts = {"OpenMM": drift(openmm), "LAMMPS": drift(lammps)}

    summary = json.loads((folder / "bsct" / "summary.json").read_text())
    scan_set = open_scans(scans_path)
    zero = np.mean(
        [fsd(s, np.zeros_like(s.energy), np.zeros_like(s.forces)).full.value for s in map(scan_set.load, scan_set.keys)]
    )
    worst = max(summary["scans"], key=lambda row: row["fsd"])
    worst_key = f"{worst['bond']}/{worst['id']}"
    prediction = read_prediction(folder / "bsct", worst_key)
    if prediction is None:
        raise MindscaipError(f"{folder / 'bsct'} lacks the prediction of {worst_key}; run the demo again with --fresh")
    mean = summary["mean"]

    reference_rms = float(np.sqrt((forces**2).mean())) * EV_TO_MEV
    nve_note = f"{size.nve_molecule}, {NVE_TEMPERATURE:g} K, {size.nve_steps} steps of {TIMESTEP:g} fs"
    numbers = {
        "Data": [
            Number("Training frames", record["num_train"], "", f"{len(size.molecules)} molecules at {TEMPERATURE:g} K"),
            Number("Validation frames", record["num_val"], "", "split off at random"),
            Number("Test frames", len(frames), "", "from trajectories and conformers of their own"),
            Number("Reference forces, RMS", reference_rms, "meV/Å", "the size of what is predicted"),
        ],
        "Training": [
            Number("Parameters", contract.parameters, "", "preset tiny"),
            Number(
                "Time",
                record["minutes"],
                "min",
                f"{record['steps']} steps, {record['epochs']} epochs (best checkpoint)",
            ),
        ],
        "Errors on the test frames": [
            Number("Energy MAE", errors["energy_mae"], "meV/atom"),
            Number("Energy RMSE", errors["energy_rmse"], "meV/atom"),
            Number("Force MAE", errors["forces_mae"], "meV/Å", "over components"),
            Number("Force RMSE", errors["forces_rmse"], "meV/Å", "over components"),
        ],
        "Constant-energy dynamics": [
            Number(
                "OpenMM against LAMMPS, energy",
                float(agreement.energy.max()),
                "meV/atom",
                f"largest of all steps; {nve_note}",
            ),
            Number(
                "OpenMM against LAMMPS, position",
                float(agreement.position.max()),
                "Å",
                "largest of all atoms and steps",
            ),
            *(
                number
                for engine, d in drifts.items()
                for number in (
                    Number(f"{engine}: max |E(t) − E(0)|", d.max_deviation, "meV/atom"),
                    Number(f"{engine}: |E(end) − E(0)|", d.end_deviation, "meV/atom"),
                    Number(
                        f"{engine}: slope",
                        d.slope,
                        "meV/atom/ns",
                        f"standard error {d.slope_error:.2g}; a short run does not measure a drift",
                    ),
                )
            ),
        ],
        "Bond scans": [
            Number(
                "FSD, mean", mean["fsd"], "Å⁻¹", f"{mean['num_scans']} scans; a model of zero force scores {zero:.3g}"
            ),
            Number("FSD, compress", mean["fsd_compress"], "Å⁻¹"),
            Number("FSD, stretch", mean["fsd_stretch"], "Å⁻¹"),
            Number("intrinsic FSD, mean", mean["fsd_intrinsic"], "Å⁻¹", "smoothness apart from accuracy"),
            Number("Energy MAE", mean["energy_mae"], "eV", "breaking bonds is far outside of the training data"),
            Number("Force MAE", mean["force_mae"], "eV/Å"),
        ],
    }
    page = Page(
        title="From molecules to one model.pt in OpenMM and LAMMPS",
        lead=(
            f"A small MinDScAIP model, trained for {format_seconds(60 * record['minutes'])} on GFN2-xTB energies and "
            "forces of small molecules and exported to one file, which gave every number on this page."
        ),
        headline=[
            Number("force MAE on test frames", errors["forces_mae"], "meV/Å"),
            Number("energy MAE on test frames", errors["energy_mae"], "meV/atom"),
            Number("OpenMM against LAMMPS, total energy at any step", float(agreement.energy.max()), "meV/atom"),
            Number("max |E(t) − E(0)| in NVE", max(d.max_deviation for d in drifts.values()), "meV/atom"),
            Number("FSD, mean of the bond scans", mean["fsd"], "Å⁻¹"),
        ],
        sections=[
            Section("What was run", [_facts(contract, size)]),
            Section("Learning curves", [*learning_curves(curves), *smoothness_curves(curves)], side_by_side=True),
            Section(
                "Test errors",
                [
                    parity(
                        (energy - offset) / atoms * EV_TO_MEV,
                        (predicted - offset) / atoms * EV_TO_MEV,
                        quantity="energy per atom",
                        unit="meV",
                        labels=list(molecules),
                    ),
                    parity(forces, predicted_forces, quantity="force component", unit="eV/Å"),
                ],
                text="Frames that the training has not seen. Energies are relative to the mean reference energy of the "
                "molecule, so that the picture shows what the model must resolve within one molecule.",
                side_by_side=True,
            ),
            Section(
                "Energy conservation in two engines",
                nve_energies([openmm, lammps]),
                text=f"The same file, the same start and the same velocities ({nve_note}) in OpenMM and in LAMMPS.",
                side_by_side=True,
            ),
            Section(
                "Bond scans",
                [
                    bond_scan(scan_set.load(worst_key), prediction.energy, prediction.forces, reference="GFN2-xTB"),
                    Table(
                        (
                            "molecule",
                            "bond",
                            "FSD (Å⁻¹)",
                            "compress",
                            "stretch",
                            "intrinsic",
                            "energy MAE (eV)",
                            "force MAE (eV/Å)",
                        ),
                        [
                            tuple(
                                row[name]
                                for name in (
                                    "smiles",
                                    "bond",
                                    "fsd",
                                    "fsd_compress",
                                    "fsd_stretch",
                                    "fsd_intrinsic",
                                    "energy_mae",
                                    "force_mae",
                                )
                            )
                            for row in summary["scans"]
                        ],
                        caption="Force Smoothness Deviation as published. It never stands without the errors beside "
                        f"it: a model of zero force would score {zero:.3g} Å⁻¹ on these scans.",
                    ),
                ],
                text="A bond is compressed and stretched with rigid fragments, far beyond the training data. FSD is "
                "the steepest change, along the bond, of the ratio between the model's and the reference's force "
                "change. The figure shows the scan with the highest FSD.",
            ),
            Section("All numbers", [NumberTable(numbers)]),
            Section("Commands", [Commands(commands)], text="The steps that led to this page, with the time each took."),
        ],
        footer=f"Written by mindscaip {__version__}. Energies in eV, lengths in Å, times in fs unless said.",
    )
    page.write(folder / "report.html")
    return numbers


def _facts(contract: Contract, size: Size) -> Facts:
    return Facts(
        {
            "Model contract": {
                "elements": " ".join(contract.elements),
                "cutoff": f"{contract.cutoff:g} Å (neighbour lists reach {contract.list_cutoff:g} Å)",
                "neighbours": f"k = {contract.k}, ranked in {contract.ranking} windows",
                "layers": str(contract.num_layers),
                "parameters": f"{contract.parameters:,}".replace(",", "\u202f"),
                "precision": contract.dtype,
                "conservative": "yes" if contract.conservative else "no",
                "smooth": "yes" if contract.smooth else "no",
                "sha256": contract.sha256[:16] + "…",
            },
            "Data": {
                "reference": "GFN2-xTB",
                "molecules": " ".join(size.molecules),
                "sampling": f"Langevin dynamics at {TEMPERATURE:g} K",
            },
            "Versions": {
                "mindscaip": __version__,
                "torch": version("torch"),
                "OpenMM": f"{version('openmm')} (openmmtorch {version('openmmtorch')})",
                "LAMMPS": version("lammps"),
                "tblite": version("tblite"),
                "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
            },
        }
    )


def _model_line(model: Path) -> str:
    return f"{model}: {model.stat().st_size / 1e6:.1f} MB; 'mindscaip info {model}' shows what it promises"


def _print_summary(numbers: dict[str, list[Number]], folder: Path, model: Path) -> None:
    print("\nResults")
    for group, entries in numbers.items():
        if group in ("Data", "Training"):
            continue
        print(f"  {group}")
        for number in entries:
            value = number.value
            text = f"{value:.3g}" if isinstance(value, float) and not math.isnan(value) else str(value)
            print(f"    {number.name:<38} {text:>10} {number.unit}")
    print(
        f"\nLook at  {folder / 'report.html'}  (it opens without a network)"
        f"\nThen     mindscaip info {model}"
        f"\n         mindscaip md {model} CO --engine lammps -o {folder / 'my-run'}"
        "\n         mindscaip doctor        (which engines work here)"
    )


def _wrapped(command: str) -> str:
    """The command as one would type it, in lines of at most 100 characters; options stay with their values."""
    lines = [""]
    for part in re.split(r" (?=-|\S+=)", command):
        if lines[-1] and len(lines[-1]) + len(part) > 96:
            lines.append("   ")
        lines[-1] += (" " if lines[-1] else "") + part
    return " \\\n".join(lines)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _check_installed() -> None:
    missing = [f"{name} ({use})" for name, use in NEEDED.items() if find_spec(name) is None]
    if missing:
        raise MindscaipError(f"the demo needs {', '.join(missing)}; run: make setup (or pip install 'mindscaip[all]')")
    if shutil.which("g++") is None:
        raise MindscaipError("the demo builds the LAMMPS plugin and needs g++; on Debian and Ubuntu: apt install g++")
    if not SCANS.is_file():
        raise MindscaipError(f"{SCANS} is missing; run the demo from a whole checkout")


def main() -> None:
    parser = argparse.ArgumentParser(description="Label, train, export, run in two engines, score, report.")
    parser.add_argument("--quick", action="store_true", help="only show that the path works, in about a minute")
    parser.add_argument("--fresh", action="store_true", help="remove the results of an earlier run first")
    parser.add_argument("-o", "--output", type=Path, help="folder of the results (default: demo, or demo-quick)")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    folder = arguments.output or Path(size.folder)
    # Where other programs share the cores, two threads that wait for each other are several times slower than one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = time.monotonic()
    with exit_on_error("demo", interrupted="interrupted; the same command goes on from here"):
        _check_installed()
        if arguments.fresh and (folder / "steps.json").exists():
            _remove(folder)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"The whole path in nine steps; results go to {folder}/. The commands are meant to be copied.")
        run_demo(folder, size)
        print(f"\n{format_seconds(time.monotonic() - started)} in all")


if __name__ == "__main__":
    main()
