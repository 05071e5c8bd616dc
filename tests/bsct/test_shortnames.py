from __future__ import annotations

import dataclasses
import sys
import types

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones

from mindscaip.bsct.dataset import open_scans
from mindscaip.bsct.path import scan_path
from mindscaip.bsct.potentials import resolve_potential
from mindscaip.bsct.score import score_scans
from mindscaip.bsct.shortnames import SHORT_NAMES, InBox, resolve_short_name
from mindscaip.errors import MindscaipError
from tests.bsct.makers import FIXTURE, random_scan


class Log(list):
    """Records calls of fake packages; every constructor returns a Lennard-Jones calculator."""

    def constructor(self, name: str, returns=None):
        def made(*args, **kwargs):
            self.append((name, args, kwargs))
            return LennardJones() if returns is None else returns

        return made


def install(monkeypatch, **modules):
    """Put fake modules into ``sys.modules``, parents first; names with ``__`` for dots."""
    for name, attributes in modules.items():
        dotted = name.replace("__", ".")
        parts = dotted.split(".")
        for depth in range(1, len(parts) + 1):
            part = ".".join(parts[:depth])
            if part not in sys.modules or depth == len(parts):
                fake = sys.modules.get(part) if part in sys.modules else types.ModuleType(part)
                fake.__path__ = []
                monkeypatch.setitem(sys.modules, part, fake)
                if depth > 1:
                    monkeypatch.setattr(
                        sys.modules[".".join(parts[: depth - 1])], parts[depth - 1], fake, raising=False
                    )
        for key, value in attributes.items():
            monkeypatch.setattr(sys.modules[dotted], key, value, raising=False)


def made(name: str, device: str = "cpu"):
    return resolve_short_name(name, device)()


def test_a_folder_of_results_may_have_the_short_name(tmp_path, monkeypatch):
    """``score chgnet scans.h5 -o chgnet`` given again."""
    monkeypatch.chdir(tmp_path)
    install(monkeypatch, mace__calculators={"mace_mp": Log().constructor("mace_mp")})
    (tmp_path / "mace").mkdir()
    assert resolve_potential("mace").name == "mace"
    (tmp_path / "mace").rmdir()
    (tmp_path / "mace").write_text("a file is one's own model")
    with pytest.raises(MindscaipError, match=r"not a whole model\.pt"):
        resolve_potential("mace")


@pytest.mark.parametrize(
    ("name", "function", "variant"),
    [
        ("mace", "mace_mp", "medium"),
        ("mace:large", "mace_mp", "large"),
        ("mace:medium-mpa-0", "mace_mp", "medium-mpa-0"),
        ("mace-off", "mace_off", "medium"),
        ("mace-off:small", "mace_off", "small"),
    ],
)
def test_mace(monkeypatch, name, function, variant):
    log = Log()
    functions = {f: log.constructor(f) for f in ("mace_mp", "mace_off")}
    install(monkeypatch, mace__calculators=functions)
    assert isinstance(made(name, "cuda:1"), LennardJones)
    assert log == [(function, (), {"model": variant, "device": "cuda:1", "default_dtype": "float64"})]


@pytest.mark.parametrize(("name", "variant"), [("aimnet2", "aimnet2"), ("aimnet2:b973c", "aimnet2_b973c")])
def test_aimnet2(monkeypatch, name, variant):
    log = Log()
    install(monkeypatch, aimnet__calculators={"AIMNet2ASE": log.constructor("ase")})
    made(name)
    assert log == [("ase", (variant,), {})]


def test_ani2x(monkeypatch):
    log = Log()

    class Model:
        def to(self, device):
            log.append(("to", (device,), {}))
            return self

        def double(self):
            log.append(("double", (), {}))
            return self

        def ase(self):
            return LennardJones()

    install(monkeypatch, torchani__models={"ANI2x": log.constructor("ANI2x", Model())})
    made("ani2x", "cuda")
    assert log == [("ANI2x", (), {"periodic_table_index": True}), ("to", ("cuda",), {}), ("double", (), {})]


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("orb", "orb_v3_conservative_omol"),
        ("orb:omat", "orb_v3_conservative_inf_omat"),
        ("orb:direct", "orb_v3_direct_omol"),
        ("orb:orb_v2", "orb_v2"),
    ],
)
@pytest.mark.parametrize("adapter", [False, True])
def test_orb_of_both_interfaces(monkeypatch, name, variant, adapter):
    log = Log()
    loaded = ("model", "adapter") if adapter else "model"
    module = "orb_models__forcefield__inference__calculator" if adapter else "orb_models__forcefield__calculator"
    install(
        monkeypatch,
        orb_models__forcefield__pretrained={variant: log.constructor(variant, loaded)},
        **{module: {"ORBCalculator": log.constructor("ORBCalculator")}},
    )
    made(name)
    more = {"atoms_adapter": "adapter"} if adapter else {}
    assert log == [
        (variant, (), {"device": "cpu", "precision": "float64"}),
        ("ORBCalculator", ("model",), {**more, "device": "cpu"}),
    ]


def test_uma(monkeypatch):
    log = Log()
    pretrained = types.SimpleNamespace(get_predict_unit=log.constructor("unit", "unit"))
    install(
        monkeypatch,
        fairchem__core={"pretrained_mlip": pretrained, "FAIRChemCalculator": log.constructor("calculator")},
    )
    made("uma:medium", "cuda")
    assert log == [("unit", ("uma-m-1p1",), {"device": "cuda"}), ("calculator", ("unit",), {"task_name": "omol"})]


def test_sevennet(monkeypatch):
    log = Log()
    install(monkeypatch, sevenn__calculator={"SevenNetCalculator": log.constructor("sevenn")})
    made("sevennet:7net-l3i5")
    assert log == [("sevenn", (), {"model": "7net-l3i5", "device": "cpu"})]


def test_chgnet_is_given_a_box(monkeypatch):
    log = Log()
    seen: list[Atoms] = []

    class Crystals(LennardJones):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            seen.append(atoms.copy())

    model = types.SimpleNamespace(load=log.constructor("load", "model"))
    install(
        monkeypatch,
        chgnet__model__dynamics={"CHGNetCalculator": log.constructor("calculator", Crystals())},
        chgnet__model__model={"CHGNet": model},
    )
    calculator = made("chgnet")
    assert log == [
        ("load", (), {"model_name": "0.3.0", "use_device": "cpu"}),
        ("calculator", (), {"model": "model", "use_device": "cpu"}),
    ]
    atoms = Atoms("C2", [[0, 0, 0], [0, 0, 1.2]])
    plain = LennardJones()
    assert calculator.get_potential_energy(atoms) == pytest.approx(plain.get_potential_energy(atoms))
    np.testing.assert_allclose(calculator.get_forces(atoms), plain.get_forces(atoms), atol=1e-10)
    assert all(boxed.pbc.all() for boxed in seen)
    np.testing.assert_allclose(seen[0].cell.lengths(), [30, 30, 31.2])
    assert not atoms.pbc.any()


def test_a_short_name_is_scored_like_any_calculator(monkeypatch):
    infos = []

    class Recorder(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            infos.append(dict(atoms.info))
            self.results = {"energy": 1.0, "forces": np.zeros((len(atoms), 3))}

    install(monkeypatch, mace__calculators={"mace_off": lambda **kwargs: Recorder()})
    potential = resolve_potential("mace-off:small")
    energy, forces = potential.predict(scan_path(random_scan(1)))
    assert energy.tolist() == [1.0] * 30
    assert forces.shape == (30, 4, 3)
    assert potential.identity["kind"] == "mace-off"
    assert potential.identity["variant"] == "small"
    assert infos[0] == {"charge": 0, "spin": 1}  # 16 electrons


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_what_to_install(monkeypatch, name):
    top = SHORT_NAMES[name].module.partition(".")[0]
    for module in [m for m in sys.modules if m.partition(".")[0] == top]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, top, None)  # importing it raises ImportError
    with pytest.raises(MindscaipError) as found:
        resolve_potential(name)
    assert f"run: pip install '{SHORT_NAMES[name].package}'" in str(found.value)
    assert SHORT_NAMES[name].title in str(found.value)


def test_a_variant_that_the_package_does_not_know(monkeypatch):
    def fails(**kwargs):
        raise ValueError("no model huge")

    install(monkeypatch, mace__calculators={"mace_off": fails})
    with pytest.raises(
        MindscaipError, match=r"mace-off:huge: mace-torch could not make 'huge' on cpu, ValueError: no mo"
    ):
        made("mace-off:huge")
    with pytest.raises(MindscaipError, match="did you mean 'sevennet'"):
        resolve_short_name("sevnnet")
    with pytest.raises(MindscaipError, match="did you mean 'mace-off'"):
        resolve_potential("maceoff")


def test_a_potential_that_cannot_be_made_ends_the_run_at_once(monkeypatch):
    calls = []

    def fails(**kwargs):
        calls.append(kwargs)
        raise OSError("no network")

    install(monkeypatch, mace__calculators={"mace_off": fails})
    with pytest.raises(MindscaipError, match=r"could not make 'medium' on cpu, OSError: no network \(academic licence"):
        score_scans(resolve_potential("mace-off"), open_scans(FIXTURE))
    assert len(calls) == 1


def test_a_package_whose_own_dependency_is_missing(monkeypatch):
    install(monkeypatch, mace={})

    def needs(*args):
        raise ModuleNotFoundError("No module named 'e3nn'", name="e3nn")

    monkeypatch.setitem(SHORT_NAMES, "mace", dataclasses.replace(SHORT_NAMES["mace"], make=needs))
    with pytest.raises(MindscaipError, match=r"mace .* needs 'e3nn', which is missing; run: pip install e3nn"):
        made("mace")


def test_a_box_leaves_periodic_structures_alone():
    seen = []

    class Recorder(LennardJones):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            seen.append(atoms.cell.lengths().tolist())
            super().calculate(atoms, properties, system_changes)

    InBox(Recorder()).get_potential_energy(Atoms("C", cell=[4, 5, 6], pbc=True))
    assert seen[0] == [4, 5, 6]
