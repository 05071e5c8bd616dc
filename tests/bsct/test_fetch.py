from __future__ import annotations

import dataclasses
import functools
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator

import pytest

from mindscaip.bsct import fetch as fetching
from mindscaip.bsct.dataset import open_scans, read_scans
from mindscaip.bsct.fetch import BSCT_SPICE, Source, fetch, scan_hash
from mindscaip.errors import MindscaipError
from tests.bsct.makers import random_scan, reference_data, write_folder
from tests.bsct.test_dataset import assert_same
from tests.bsct.test_score import call

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def published(tmp_path):
    """A folder as the authors publish it, and the archive that a server makes of it."""
    root = tmp_path / "published" / "bsct_spice"
    write_folder(root, random_scan(1, id="1"))
    write_folder(root, random_scan(3, id="12", bond="C-C", numbers=(6, 6, 1, 1)))
    archive = tmp_path / "served" / "archive.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": COMMIT}) as tar:
        tar.add(root, "bsct-0123456/bsct_spice")
        for name in ("bsct-0123456/README.md", "bsct-0123456/bsct_spice/../../evil.xyz", "../evil.xyz"):
            info = tarfile.TarInfo(name)
            info.size = 5
            tar.addfile(info, io.BytesIO(b"hello"))
    return root, archive


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files, with ranges if ``ranges``; ``cut`` ends an answer after so many bytes."""

    ranges = True
    cut = 0
    asked: list[str | None]

    def do_GET(self):
        file = (self.server.folder / self.path.lstrip("/")) if self.path != "/gone" else None
        if file is None or not file.exists():
            self.send_error(404, "Not Found")
            return
        data = file.read_bytes()
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        self.wfile.write(data[first : self.server.cut or None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(published) -> Iterator[http.server.HTTPServer]:
    made = http.server.HTTPServer(("127.0.0.1", 0), functools.partial(Handler))
    made.folder, made.asked, made.cut = published[1].parent, [], 0
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def source_of(server, root, **more) -> Source:
    return Source(
        **{
            "url": f"http://127.0.0.1:{server.server_port}/archive.tar.gz",
            "commit": COMMIT,
            "num_scans": 2,
            "hashes": {"C-O/1": scan_hash(root / "C-O" / "1")},
            "provenance": {"licence": "MIT"},
            **more,
        }
    )


@pytest.mark.parametrize("name", ["bsct_spice", "scans.h5"])
def test_download_check_and_unpack(server, published, tmp_path, name):
    seen = []
    source = source_of(server, published[0])
    result = fetch(tmp_path / "out" / name, source=source, on_bytes=lambda have, total: seen.append((have, total)))
    assert result.num_scans == 2
    assert seen[-1][0] == seen[-1][1] == published[1].stat().st_size
    for fetched, original in zip(read_scans(tmp_path / "out" / name), read_scans(published[0]), strict=True):
        assert_same(fetched, original, atol=1e-9)
    provenance = open_scans(tmp_path / "out" / name).provenance
    assert provenance["licence"] == "MIT"
    assert provenance["archive_sha256"] == result.archive_sha256
    # Nothing else is left, and nothing was written outside.
    assert [p.name for p in (tmp_path / "out").iterdir()] == [name]
    assert not list(tmp_path.rglob("evil.xyz"))
    with pytest.raises(MindscaipError, match="exists; give another name, or --overwrite"):
        fetch(tmp_path / "out" / name, source=source)
    fetch(tmp_path / "out" / name, source=source, overwrite=True)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(server, published, tmp_path, monkeypatch, ranges):
    monkeypatch.setattr(Handler, "ranges", ranges)
    source = source_of(server, published[0])
    server.cut = 1000
    with pytest.raises(MindscaipError, match="give the same command again to go on"):
        fetch(tmp_path / "scans.h5", source=source)
    assert not (tmp_path / "scans.h5").exists()
    server.cut = 0
    assert fetch(tmp_path / "scans.h5", source=source).num_scans == 2
    assert server.asked == [None, "bytes=1000-"]


def test_no_network_says_what_to_do(server, published, tmp_path):
    source = source_of(server, published[0])
    closed = dataclasses.replace(source, url="http://127.0.0.1:9/archive.tar.gz")
    with pytest.raises(MindscaipError, match=r"cannot be reached \(.*without a network, download .* --archive FILE"):
        fetch(tmp_path / "a.h5", source=closed)
    gone = dataclasses.replace(source, url=source.url.replace("archive.tar.gz", "gone"))
    with pytest.raises(MindscaipError, match="the server says 404"):
        fetch(tmp_path / "a.h5", source=gone)
    assert fetch(tmp_path / "a.h5", source=closed, archive=published[1]).num_scans == 2
    assert published[1].exists()
    with pytest.raises(MindscaipError, match="no such file"):
        fetch(tmp_path / "b.h5", source=closed, archive=tmp_path / "absent.tar.gz")


def test_archives_that_are_refused(server, published, tmp_path):
    root, archive = published
    source = source_of(server, root)
    other = dataclasses.replace(source, commit="f" * 40)
    with pytest.raises(MindscaipError, match=f"it is of commit {COMMIT}, expected f"):
        fetch(tmp_path / "a.h5", source=other)
    changed = dataclasses.replace(source, hashes={"C-O/1": "0" * 64})
    with pytest.raises(MindscaipError, match="scan C-O/1 is not the published one"):
        fetch(tmp_path / "a.h5", source=changed)
    whole = archive.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:3000] + b"\0\0\0\0" + whole[3004:], b"<html>no archive</html>"):
        archive.write_bytes(damaged)
        with pytest.raises(MindscaipError, match="damaged or truncated archive"):
            fetch(tmp_path / "a.h5", source=source)
    # A damaged download is not kept.
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("a.h5")] == []


def test_the_published_scans_have_the_hashes_that_are_checked():
    root = reference_data("upstream-layout") / "bsct_spice"
    assert len(BSCT_SPICE.hashes) == 2
    for key, expected in BSCT_SPICE.hashes.items():
        assert scan_hash(root / key) == expected
    assert BSCT_SPICE.commit in BSCT_SPICE.url


def test_the_command(server, published, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "BSCT_SPICE", source_of(server, published[0]))
    defaults = {**fetching.fetch.__kwdefaults__, "source": fetching.BSCT_SPICE}
    monkeypatch.setattr(fetching.fetch, "__kwdefaults__", defaults)
    shown = call("fetch", "-o", tmp_path / "scans.h5").stderr.replace("\n", " ")
    assert "Wrote 2 scans to" in shown
    assert "MIT" in shown
    assert len(open_scans(tmp_path / "scans.h5")) == 2
