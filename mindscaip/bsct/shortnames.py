"""Short names for the learned potentials that people compare with, when their packages are installed.

``NAME`` or ``NAME:VARIANT``; each makes the ASE calculator that the package's own documentation makes. Nothing is
imported before a calculator is asked for.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms

from mindscaip.data.point import PointCalculator
from mindscaip.errors import MindscaipError, did_you_mean
from mindscaip.packages import installed_version

VACUUM = 15.0
"""A; half of the box that a potential for crystals only is given around a molecule."""


@dataclass(frozen=True)
class ShortName:
    """One short name.

    Attributes:
        title: what it is, for people.
        package: name to ``pip install``.
        module: what must be importable.
        make: from variant and torch device to a calculator.
        default: variant when none is given.
        variants: short variants and what they stand for in the package; any other text is handed on as it is.
        note: what else to know (licence, log-in).
    """

    title: str
    package: str
    module: str
    make: Callable[[str, str], Any]
    default: str
    variants: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def _mace_mp(variant: str, device: str) -> Any:
    from mace.calculators import mace_mp

    return mace_mp(model=variant, device=device, default_dtype="float64")


def _mace_off(variant: str, device: str) -> Any:
    from mace.calculators import mace_off

    return mace_off(model=variant, device=device, default_dtype="float64")


def _aimnet2(variant: str, device: str) -> Any:
    from aimnet.calculators import AIMNet2ASE

    return AIMNet2ASE(variant)  # it takes a GPU when there is one


def _ani(variant: str, device: str) -> Any:
    import torchani

    return getattr(torchani.models, variant)(periodic_table_index=True).to(device).double().ase()


def _orb(variant: str, device: str) -> Any:
    from orb_models.forcefield import pretrained

    loaded = getattr(pretrained, variant)(device=device, precision="float64")
    if isinstance(loaded, tuple):  # from release 0.6 on: model and adapter
        from orb_models.forcefield.inference.calculator import ORBCalculator

        model, adapter = loaded
        return ORBCalculator(model, atoms_adapter=adapter, device=device)
    from orb_models.forcefield.calculator import ORBCalculator

    return ORBCalculator(loaded, device=device)


def _uma(variant: str, device: str) -> Any:
    from fairchem.core import FAIRChemCalculator, pretrained_mlip

    return FAIRChemCalculator(pretrained_mlip.get_predict_unit(variant, device=device), task_name="omol")


def _sevennet(variant: str, device: str) -> Any:
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(model=variant, device=device)


def _chgnet(variant: str, device: str) -> Any:
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    return InBox(CHGNetCalculator(model=CHGNet.load(model_name=variant, use_device=device), use_device=device))


SHORT_NAMES: dict[str, ShortName] = {
    "mace": ShortName("MACE-MP, inorganic materials", "mace-torch", "mace", _mace_mp, "medium"),
    "mace-off": ShortName(
        "MACE-OFF, organic molecules", "mace-torch", "mace", _mace_off, "medium", note="academic licence"
    ),
    "aimnet2": ShortName(
        "AIMNet2, organic molecules", "aimnet[ase]", "aimnet", _aimnet2, "aimnet2", {"b973c": "aimnet2_b973c"}
    ),
    "ani2x": ShortName(
        "ANI-2x, H C N O F S Cl",
        "torchani",
        "torchani",
        _ani,
        "ANI2x",
        {"2x": "ANI2x", "1x": "ANI1x", "1ccx": "ANI1ccx"},
    ),
    "orb": ShortName(
        "Orb v3 and OrbMol",
        "orb-models",
        "orb_models",
        _orb,
        "orb_v3_conservative_omol",
        {
            "conservative": "orb_v3_conservative_omol",
            "direct": "orb_v3_direct_omol",
            "omat": "orb_v3_conservative_inf_omat",
            "v2": "orbmol_v2",
        },
    ),
    "uma": ShortName(
        "UMA (task omol)",
        "fairchem-core",
        "fairchem.core",
        _uma,
        "uma-s-1p1",
        {"small": "uma-s-1p1", "medium": "uma-m-1p1"},
        note="its weights need a log-in to Hugging Face",
    ),
    "sevennet": ShortName("SevenNet", "sevenn", "sevenn", _sevennet, "7net-0"),
    "chgnet": ShortName("CHGNet, inorganic materials", "chgnet", "chgnet", _chgnet, "0.3.0"),
}


class InBox(PointCalculator):
    """A calculator for crystals, with molecules put into a periodic box of vacuum; energy and forces only."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's interface)

    def __init__(self, calculator: Any, vacuum: float = VACUUM) -> None:
        super().__init__()
        self.inner = calculator
        self.vacuum = vacuum

    def _compute(self, atoms: Atoms) -> dict[str, Any]:
        boxed = atoms.copy()
        if not boxed.pbc.any():
            boxed.set_cell(np.ptp(boxed.positions, axis=0) + 2 * self.vacuum)
            boxed.center()
            boxed.pbc = True
        return {
            "energy": float(self.inner.get_property("energy", boxed)),
            "forces": np.array(self.inner.get_property("forces", boxed), dtype=np.float64),
        }


def is_short_name(name: str) -> bool:
    """Whether ``name`` is ``NAME`` or ``NAME:VARIANT`` of :data:`SHORT_NAMES`."""
    return name.partition(":")[0] in SHORT_NAMES


@dataclass(frozen=True)
class ShortNameFactory:
    """What makes the calculator of a short name; travels to other processes as its name."""

    name: str
    device: str = "cpu"

    def __call__(self) -> Any:
        """Return a new calculator.

        Raises:
            MindscaipError: the package does not load, or it does not know the variant.
        """
        short, variant = _split(self.name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # packages of this kind warn on import
                return short.make(variant, self.device)
        except ImportError as error:
            raise _not_installed(self.name, short, error) from error
        except Exception as error:
            hint = f" ({short.note})" if short.note else ""
            raise MindscaipError(
                f"{self.name}: {short.package} could not make {variant!r} on {self.device}, "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{hint}"
            ) from error


def resolve_short_name(name: str, device: str = "cpu") -> ShortNameFactory:
    """Return what makes the calculator of ``name``.

    Raises:
        MindscaipError: no such short name; its package is not installed (says what to install).
    """
    if not is_short_name(name):
        raise MindscaipError(
            f"there is no short name {name!r}{did_you_mean(name, SHORT_NAMES)}; known are {', '.join(SHORT_NAMES)}"
        )
    short, _ = _split(name)
    try:
        importlib.import_module(short.module)
    except ImportError as error:
        raise _not_installed(name, short, error) from error
    except Exception as error:
        raise MindscaipError(f"{name}: {short.module} fails on import, {type(error).__name__}: {error}") from error
    return ShortNameFactory(name, device)


def identity(name: str) -> dict[str, str]:
    """What a resumed run must agree on: the variant and the version of the package."""
    short, variant = _split(name)
    distribution = short.package.partition("[")[0]
    found = installed_version(distribution) or "unknown"
    return {"kind": name.partition(":")[0], "variant": variant, distribution: found}


def _split(name: str) -> tuple[ShortName, str]:
    head, _, variant = name.partition(":")
    short = SHORT_NAMES[head]
    return short, short.variants.get(variant, variant) or short.default


def _not_installed(name: str, short: ShortName, error: ImportError) -> MindscaipError:
    missing = getattr(error, "name", None)
    if missing is not None and not missing.startswith(short.module.partition(".")[0]):
        return MindscaipError(f"{name} ({short.title}) needs {missing!r}, which is missing; run: pip install {missing}")
    return MindscaipError(
        f"{name} ({short.title}) needs the package {short.package}, which does not load ({error}); "
        f"run: pip install '{short.package}'" + (f" ({short.note})" if short.note else "")
    )
