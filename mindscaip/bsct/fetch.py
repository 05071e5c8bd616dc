"""The published data set: download, check, unpack.

BSCT-SPICE (485 scans of 100 frames, wB97M-D3(BJ)/def2-TZVPPD; R. Liu et al., arXiv:2602.04861; MIT licence) lives in
the authors' repository, in the folder ``bsct_spice``. The archive of one fixed commit is fetched. It is checked three
ways: its compression carries a checksum of the content, its header names the commit, and two of its scans have known
SHA-256 hashes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mindscaip.bsct.convert import convert_scans
from mindscaip.bsct.dataset import HDF5_SUFFIXES, PROVENANCE, UPSTREAM_FOLDER
from mindscaip.errors import MindscaipError

COMMIT = "79d915b0f1780a6cc680595984b4c210b5660038"
TIMEOUT = 60.0
"""Seconds without an answer."""
BLOCK = 1 << 18
_MEMBER = re.compile(
    rf"[^/]+/{UPSTREAM_FOLDER}/([A-Z][a-z]?-[A-Z][a-z]?)/([^/.][^/]*)/((?:atoms_\d+|unperturbed)\.xyz|partition\.npz)"
)

Progress = Callable[[int, int | None], None]
"""Called with bytes so far and their total (None when the server does not say)."""


@dataclass(frozen=True)
class Source:
    """Where a data set is, and how it is told from something else.

    Attributes:
        url: of a gzipped tar archive.
        commit: that the header of the archive names.
        num_scans: scans that its authors state; another number is reported, not refused.
        hashes: folder of a scan, below the data set, to the SHA-256 of its files (:func:`scan_hash`).
        provenance: level of theory, origin, licence.
    """

    url: str
    commit: str
    num_scans: int
    hashes: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, str] = field(default_factory=dict)


BSCT_SPICE = Source(
    url=f"https://github.com/ryanliu30/bsct/archive/{COMMIT}.tar.gz",
    commit=COMMIT,
    num_scans=485,
    hashes={
        "C-N/25729": "191af8d33e10e565961be52a15f7e9743182211c716fa141da68c9c26ad4fc8e",
        "N-O/4583": "20479deaaa1db844fe6e33340535d4dd3bc6df0963de74915d9258fd48c468e2",
    },
    provenance={
        "level_of_theory": "wB97M-D3(BJ)/def2-TZVPPD (Psi4)",
        "licence": "MIT, Copyright (c) 2026 ryanliu30",
        "source": f"github.com/ryanliu30/bsct @ {COMMIT}, {UPSTREAM_FOLDER}/",
        "reference": "arXiv:2602.04861",
    },
)


@dataclass(frozen=True)
class FetchResult:
    """What was fetched: number of scans, SHA-256 of the archive."""

    num_scans: int
    archive_sha256: str


def fetch(
    output: str | os.PathLike,
    *,
    archive: str | os.PathLike | None = None,
    source: Source = BSCT_SPICE,
    overwrite: bool = False,
    on_bytes: Progress | None = None,
    on_scan: Callable[[str], None] | None = None,
) -> FetchResult:
    """Fetch the data set into ``output``: a packed file if it ends in .h5, else a folder in the published layout.

    A download that was cut off goes on where the server allows it. The archive is removed when all is done.

    Args:
        archive: an archive that was downloaded by other means.
        on_bytes: progress of the download.
        on_scan: called with the key of each scan that is unpacked.

    Raises:
        MindscaipError: the output exists; no network (says what to do by hand); a damaged or foreign archive.
    """
    output = Path(output)
    if output.exists() and not overwrite:
        raise MindscaipError(f"{output} exists; give another name, or --overwrite to replace it")
    output.parent.mkdir(parents=True, exist_ok=True)
    file = Path(archive) if archive is not None else output.with_name(output.name + ".tar.gz")
    if archive is not None and not file.is_file():
        raise MindscaipError(f"{file}: no such file; download {source.url} and name it here")
    if archive is None and not file.exists():
        download(source.url, file, on_bytes)
    digest = _sha256(file)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        unpacked = Path(temporary) / "scans"
        try:
            count = unpack(file, unpacked, source, on_scan)
        except MindscaipError:
            if archive is None:
                file.unlink()  # a damaged download is not kept; the next call starts anew
            raise
        record = {**source.provenance, "archive": source.url, "archive_sha256": digest}
        (unpacked / PROVENANCE).write_text(json.dumps(record, indent=1) + "\n")
        if output.suffix.lower() in HDF5_SUFFIXES:
            convert_scans(unpacked, output, overwrite=overwrite)
        else:
            if output.exists():
                shutil.rmtree(output) if output.is_dir() else output.unlink()
            os.replace(unpacked, output)
    if archive is None:
        file.unlink()
    return FetchResult(count, digest)


def download(url: str, target: Path, on_bytes: Progress | None = None) -> None:
    """Download ``url`` into ``target``; what an interrupted download left in ``<target>.part`` is not fetched again.

    Raises:
        MindscaipError: the server cannot be reached, refuses, or ends early.
    """
    part = target.with_name(target.name + ".part")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "mindscaip", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _network(url), urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if answer.status != 206:  # the server sends all of it again
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        with part.open("ab" if have else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                have += len(block)
                if on_bytes is not None:
                    on_bytes(have, total)
    if total is not None and have < total:
        raise MindscaipError(
            f"the download of {url} ended after {have} of {total} bytes; give the same command again to go on"
        )
    os.replace(part, target)


@contextmanager
def _network(url: str) -> Iterator[None]:
    by_hand = f"download {url} on another machine and give it with --archive FILE"
    try:
        yield
    except urllib.error.HTTPError as error:
        raise MindscaipError(f"{url}: the server says {error.code} {error.reason}; try later, or {by_hand}") from None
    except urllib.error.URLError as error:
        raise MindscaipError(f"{url} cannot be reached ({error.reason}); without a network, {by_hand}") from None
    except (OSError, EOFError) as error:  # a connection that breaks half-way
        raise MindscaipError(
            f"the download of {url} broke off ({error}); give the same command again to go on, or {by_hand}"
        ) from None


def unpack(
    archive: Path, folder: Path, source: Source = BSCT_SPICE, on_scan: Callable[[str], None] | None = None
) -> int:
    """Unpack the scans of ``archive`` into ``folder`` and check them; return their number.

    Only files of the layout of scans are taken, whatever else the archive holds.

    Raises:
        MindscaipError: truncated, damaged, of another commit, with other scans.
    """
    seen: dict[str, None] = {}
    try:
        # The end of the archive comes before the checksum, so reading the archive alone would not compare it.
        with gzip.open(archive) as file:
            while file.read(BLOCK):
                pass
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                found = _MEMBER.fullmatch(member.name)
                content = tar.extractfile(member) if found and member.isfile() else None
                if found is None or content is None:
                    continue
                key = f"{found[1]}/{found[2]}"
                place = folder / key
                if key not in seen:
                    place.mkdir(parents=True, exist_ok=True)
                    seen[key] = None
                    if on_scan is not None:
                        on_scan(key)
                (place / found[3]).write_bytes(content.read())
            commit = tar.pax_headers.get("comment", "")
    except (tarfile.TarError, EOFError, OSError, zlib.error, gzip.BadGzipFile) as error:
        raise MindscaipError(f"{archive}: a damaged or truncated archive ({error}); download it again") from None
    if commit != source.commit:
        raise MindscaipError(
            f"{archive}: it is of commit {commit or 'unknown'}, expected {source.commit}; download {source.url}"
        )
    for key, expected in source.hashes.items():
        if key not in seen or scan_hash(folder / key) != expected:
            raise MindscaipError(f"{archive}: scan {key} is not the published one; download {source.url} again")
    return len(seen)


def scan_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of the files of one scan, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(f"{file.name}\n".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()
