"""Read back what :func:`mindscaip.studies.write.write_record` wrote."""

from __future__ import annotations

import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from mindscaip.engines.record import NVERecord
from mindscaip.errors import MindscaipError


def read_record(folder: Path) -> NVERecord:
    """The record in ``folder``, at full precision.

    Raises:
        MindscaipError: there is none, or it is damaged.
    """
    try:
        with np.load(folder / "record.npz", allow_pickle=False) as file:
            arrays = {f.name: file[f.name] for f in fields(NVERecord)}
        return NVERecord(**{**arrays, "engine": str(arrays["engine"])})
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        raise MindscaipError(f"{folder} holds no whole NVE run; make one with 'mindscaip md ... -o {folder}'") from None
