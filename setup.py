"""What pyproject.toml cannot say: the plugin sources, which stand beside the package, are installed inside it."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["mindscaip*"]),
        "mindscaip.plugin_sources.lammps",
        "mindscaip.plugin_sources.openmm",
    ],
    package_dir={
        "mindscaip.plugin_sources.lammps": "plugins/lammps",
        "mindscaip.plugin_sources.openmm": "plugins/openmm",
    },
)
