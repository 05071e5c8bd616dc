"""Which OpenMM is there: versions that belong together, imports with a cure, platforms, and errors in one sentence.

``openmm`` and ``openmmtorch`` are imported when a function needs them, so that this module imports without them.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from mindscaip.engines.batched import first_line
from mindscaip.errors import MindscaipError
from mindscaip.packages import installed_version

if TYPE_CHECKING:
    import openmm

OPENMMTORCH_BUILT_FOR = {"1.5": {"torch": "2.9", "openmm": "8.5"}}
"""Releases of openmmtorch on PyPI and the releases of torch and OpenMM whose C++ interfaces each is bound to.

A wrong torch breaks every evaluation. With OpenMM 8.6 openmmtorch 1.5 evaluates, but reading a System from XML crashes
the process: ``SerializationNode::getStringProperty`` returns a string by value there and a reference in 8.5.
"""
WORKING_SET = "'openmm==8.5.2' 'openmmtorch==1.5' 'torch==2.9.1'"
"""What to install together (see ``docs/openmm.md``)."""
MARKER = "mindscaip: "
"""What errors raised inside the scripted module begin with."""


def release(version: str) -> str:
    """``"2.9"`` of ``"2.9.1+cu128"``."""
    return ".".join(version.split(".")[:2])


def import_openmm() -> Any:
    """Import ``openmm``.

    Raises:
        MindscaipError: it is missing or broken; names what to install.
    """
    try:
        import openmm
    except (ImportError, OSError) as error:
        raise MindscaipError(
            f"OpenMM does not import ({first_line(error)}); install it: pip install {WORKING_SET}"
        ) from None
    return openmm


def import_openmm_torch() -> Any:
    """Import ``openmmtorch`` beside ``openmm``, with the plugins of both loaded.

    Raises:
        MindscaipError: one is missing, or openmmtorch does not match the installed torch; names what to install.
    """
    mm = import_openmm()
    version = installed_version("openmmtorch")
    wanted = OPENMMTORCH_BUILT_FOR.get(version or "", {}).get("torch")
    # A mismatched pair may import and crash only at the first evaluation, so the versions are compared first.
    if wanted is not None and release(torch.__version__) != wanted:
        raise MindscaipError(
            f"openmmtorch {version} is built for torch {wanted}, and torch {torch.__version__} is installed; "
            f"install the set that belongs together: pip install {WORKING_SET}"
        )
    try:
        with _without_warnings():
            import openmmtorch
    except (ImportError, OSError) as error:
        raise MindscaipError(
            f"openmmtorch {version or '(not installed)'} does not import beside torch {torch.__version__} "
            f"({first_line(error)}); install the set that belongs together: pip install {WORKING_SET}"
        ) from None
    _load_torch_plugins(mm)
    return openmmtorch


def torch_force_problem() -> str | None:
    """Why ``TorchForce`` should not be used here, in one sentence with its cure, or None when it works.

    Raises:
        MindscaipError: OpenMM itself is missing.
    """
    mm = import_openmm()
    try:
        import_openmm_torch()
    except MindscaipError as error:
        return str(error)
    version = installed_version("openmmtorch")
    wanted = OPENMMTORCH_BUILT_FOR.get(version or "", {}).get("openmm")
    have = mm.version.short_version
    if wanted is not None and release(have) != wanted:
        return (
            f"openmmtorch {version} is built for OpenMM {wanted}, and OpenMM {have} is installed, with which reading a "
            f"System from XML crashes; install the set that belongs together: pip install {WORKING_SET}"
        )
    return None


def _load_torch_plugins(mm: Any) -> None:
    """Load again the plugins of openmm-torch that did not load at ``import openmm``.

    OpenMM loads its plugins when it is imported. They link torch's libraries, which are found only once torch is
    imported; after ``import openmm`` and then ``import torch`` a Context would lack the kernels of TorchForce.
    """
    for failure in mm.Platform.getPluginLoadFailures():
        library = re.search(r"(\S*OpenMMTorch\w*\.(?:so|dylib|dll))", failure)
        if library is not None and library.group(1) not in _reloaded:
            _reloaded.add(library.group(1))
            # Those of GPU platforms that this machine does not have fail once more.
            with contextlib.suppress(mm.OpenMMException):
                mm.Platform.loadPluginLibrary(library.group(1))


_reloaded: set[str] = set()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep logged warnings back: openmmtorch imports OpenMM by its old name, which logs one at every start."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def find_platform(name: str) -> openmm.Platform:
    """The OpenMM platform ``name``.

    Raises:
        MindscaipError: it is not there; lists those that are.
    """
    mm = import_openmm()
    names = [mm.Platform.getPlatform(i).getName() for i in range(mm.Platform.getNumPlatforms())]
    if name not in names:
        raise MindscaipError(f"OpenMM has no platform {name!r} here; it has {', '.join(names)}")
    return mm.Platform.getPlatformByName(name)


@contextlib.contextmanager
def openmm_errors() -> Iterator[None]:
    """Turn an ``OpenMMException`` of the block into one sentence, without TorchScript's listing around it."""
    mm = import_openmm()
    try:
        yield
    except mm.OpenMMException as error:
        raise MindscaipError(sentence_of(error)) from None


def sentence_of(error: BaseException) -> str:
    """What an error of OpenMM or TorchScript says, in one sentence."""
    for line in reversed(str(error).splitlines()):  # the listing of the code comes before the message
        if MARKER in line:
            return line[line.index(MARKER) + len(MARKER) :].strip()
    text = first_line(error)
    if "while holding the GIL" in text:
        return (
            "this function of OpenMM keeps Python's lock, with which a TorchForce cannot differentiate; "
            "create the force with backend='python' to use it"
        )
    if "coordinate is NaN" in text:  # OpenMM's own check comes first on some platforms
        return "a position is not finite (NaN); the run has blown up"
    return f"OpenMM: {text}"
