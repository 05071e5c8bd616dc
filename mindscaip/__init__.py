"""mindscaip: a smooth attention-based interatomic potential, one file for Python, OpenMM and LAMMPS.

Heavy modules (torch, engines) are imported by the rooms that need them, not here.
"""

__version__ = "0.1.0"
