"""A calculator without physics that is instant and conservative, as a module of its own for ``ase:module:callable``."""

from __future__ import annotations

SPRINGS = '''
import os
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

class Springs(Calculator):
    """Every atom on a spring to the place where its molecule was first seen."""
    implemented_properties = ["energy", "forces"]
    broken = staticmethod(lambda length: False)
    jump = 0.0
    homes = {}
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        center = atoms.positions - atoms.positions.mean(0)
        length = atoms.get_distance(0, 1)
        with open("calls.txt", "a") as file:
            file.write(f"{atoms.get_chemical_formula()} {length:.3f}\\n")
        if self.broken(length):
            raise RuntimeError("no convergence")
        x = center - self.homes.setdefault(atoms.numbers.tobytes(), center)
        self.results = {"energy": float(0.5 * (x**2).sum()) + (self.jump if length > 2.0 else 0.0), "forces": -x}

class Jumps(Springs):
    jump = 0.05

class Sometimes(Springs):
    broken = staticmethod(lambda length: 1.9 < length < 2.0)

class Rarely(Springs):
    broken = staticmethod(lambda length: not 1.4 < length < 1.6)

class Killed(Springs):
    """The process dies at one bond length, as long as there is no file ``revived``."""
    @staticmethod
    def broken(length):
        if length > 2.2 and not os.path.exists("revived"):
            os._exit(9)
        return False

class Unmade(Springs):
    """Cannot be made once there is a file ``uninstalled``."""
    def __init__(self, **options):
        if os.path.exists("uninstalled"):
            raise RuntimeError("no licence")
        super().__init__(**options)

class UnmadeOnce(Springs):
    """The second one cannot be made, as long as there is no file ``licence``."""
    made = 0
    def __init__(self, **options):
        UnmadeOnce.made += 1
        if UnmadeOnce.made == 2 and not os.path.exists("licence"):
            raise RuntimeError("no licence")
        super().__init__(**options)

class NoOxygen(Springs):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if 8 in atoms.numbers:
            self.results["energy"] = float("nan")
'''
