"""Bundles from a store: what breaks off goes on, what changed is not glued, what is wrong is not used."""

from __future__ import annotations

import datetime
import hashlib
import http.server
import ipaddress
import json
import shutil
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
import tiny_bundle

from bev_perception import store as module
from bev_perception.archive import pack_bundle
from bev_perception.bundle import load_bundle
from bev_perception.download import DownloadError, Patience, check_address, download, read_address
from bev_perception.model_spec import BundleError
from bev_perception.store import (
    MANIFEST,
    Manifest,
    Release,
    StoreError,
    choose_release,
    fetch_release,
    main,
    parse_manifest,
    place_of,
    read_manifest,
)

QUICK = Patience(timeout_s=2.0, tries=3, wait_s=0.0)


@dataclass
class Site:
    """A static web server with faults.

    cut: bytes after which answers break off, one for each; answers: their status, one for each; etag, modified and
    length: what it states; ranges: whether it knows `Range`; shift: by how much its parts begin elsewhere; asked:
    (path, Range, If-Range) of each request.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cut: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    ranges: bool = True
    etag: bool = True
    modified: str = ""
    heeds_if_range: bool = True
    shift: int = 0
    redirects: dict[str, str] = field(default_factory=dict)
    encoding: str = ""
    length: bool = True
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    address: str = ""

    def tag(self, path: str) -> str:
        return f'"{hashlib.sha256(self.files[path]).hexdigest()[:16]}"'


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """With a parameter, a function that makes key and certificate in one file, it speaks HTTPS."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            wanted, condition = self.headers.get("Range", ""), self.headers.get("If-Range", "")
            site.asked.append((self.path, wanted, condition))
            if site.answers and (code := site.answers.pop(0)) != 200:
                self.send_error(code)
            elif self.path in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif self.path not in site.files:
                self.send_error(404)
            else:
                self.give(site.files[self.path], wanted, condition)

        def give(self, data: bytes, wanted: str, condition: str) -> None:
            same = not site.heeds_if_range or condition in (site.tag(self.path) if site.etag else "", site.modified)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and site.ranges and same else 0
            if start > len(data):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start + site.shift}-{len(data) - 1}/{len(data)}")
            for name, value in (
                ("ETag", site.tag(self.path) if site.etag else ""),
                ("Last-Modified", site.modified),
                ("Content-Encoding", site.encoding),
                ("Content-Length", str(len(data) - start) if site.length else ""),
            ):
                if value:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data[start : start + site.cut.pop(0)] if site.cut else data[start:])
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:  # who asked has gone: what the tests are about
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if certificate := getattr(request, "param", None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate(tmp_path))
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site.address = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def own_certificate(folder: Path) -> Path:
    """Of 127.0.0.1, signed by itself."""
    x509 = pytest.importorskip("cryptography.x509", reason="needs cryptography")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(
        name, name, key.public_key(), 1, now - datetime.timedelta(1), now + datetime.timedelta(1)
    )
    certificate = made.add_extension(address, False).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path = folder / "certificate.pem"
    path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + certificate.public_bytes(pem))
    return path


def said(lines: list[str]) -> str:
    return "\n".join(lines)


# ---- parts of a file

DATA = bytes(range(256)) * 4000


def test_what_breaks_off_goes_on(site: Site, tmp_path: Path) -> None:
    site.files["/a"] = DATA
    site.cut = [100_000, 1, 300_000]
    lines: list[str] = []
    download(f"{site.address}/a", tmp_path / "a", len(DATA), QUICK, lines.append)
    assert (tmp_path / "a").read_bytes() == DATA
    assert [wanted for _, wanted, _ in site.asked] == ["", "bytes=100000-", "bytes=100001-", "bytes=400001-"]
    assert {condition for _, _, condition in site.asked[1:]} == {site.tag("/a")}
    assert len(lines) == 3 and all("the connection ended after" in line for line in lines)


def test_a_later_call_goes_on(site: Site, tmp_path: Path) -> None:
    site.files["/a"] = DATA
    site.cut, site.answers = [100_000], [200, 500, 500]
    with pytest.raises(DownloadError, match=r"answers 500 .*, 3 times in a row; .* the next call goes on from there"):
        download(f"{site.address}/a", tmp_path / "a", len(DATA), QUICK, print)
    assert (tmp_path / "a").stat().st_size == 100_000
    site.asked.clear()
    download(f"{site.address}/a", tmp_path / "a", len(DATA), QUICK, print)
    assert site.asked == [("/a", "bytes=100000-", site.tag("/a"))] and (tmp_path / "a").read_bytes() == DATA
    download(f"{site.address}/a", tmp_path / "a", len(DATA), QUICK, print)
    assert len(site.asked) == 1, "what is whole is not asked for again"


@pytest.mark.parametrize("how", ["no Range", "no ETag", "a time", "nothing that identifies it", "no length"])
def test_servers_that_know_less(site: Site, tmp_path: Path, how: str) -> None:
    site.files["/a"] = DATA
    site.cut = [100_000]
    site.ranges, site.length = how != "no Range", how != "no length"
    site.etag = how in ("no Range", "no length")
    site.modified = "Mon, 30 Nov 2026 12:00:00 GMT" if how == "a time" else ""
    download(f"{site.address}/a", tmp_path / "a", len(DATA), QUICK, print)
    assert (tmp_path / "a").read_bytes() == DATA
    went_on = how in ("a time", "no Range", "no length")
    assert site.asked[1][1:] == (("bytes=100000-", site.modified or site.tag("/a")) if went_on else ("", ""))


@pytest.mark.parametrize("heeds", [True, False], ids=["If-Range heeded", "If-Range ignored"])
def test_a_file_that_changed_between_two_parts_is_not_glued(site: Site, tmp_path: Path, heeds: bool) -> None:
    site.files["/a"], site.cut, site.heeds_if_range = DATA, [100_000], heeds
    changed = DATA[::-1]

    def change(_: str) -> None:
        site.files["/a"] = changed

    download(f"{site.address}/a", tmp_path / "a", len(DATA), QUICK, change)
    assert (tmp_path / "a").read_bytes() == changed


def test_another_part_than_was_asked_for_is_not_glued(site: Site, tmp_path: Path) -> None:
    site.files["/a"], site.cut, site.shift = DATA, [100_000], 1
    lines: list[str] = []
    download(f"{site.address}/a", tmp_path / "a", len(DATA), QUICK, lines.append)
    assert (tmp_path / "a").read_bytes() == DATA
    assert [wanted for _, wanted, _ in site.asked] == ["", "bytes=100000-", ""], said(lines)


def test_a_file_that_became_shorter(site: Site, tmp_path: Path) -> None:
    """What is here is longer than what the server has: 416, from the start again."""
    site.files["/a"], site.cut, site.heeds_if_range = DATA, [len(DATA) - 10], False
    short = DATA[:1000]

    def change(_: str) -> None:
        site.files["/a"] = short

    with pytest.raises(DownloadError, match="has 1000 bytes, the manifest says 1024000"):
        download(f"{site.address}/a", tmp_path / "a", len(DATA), QUICK, change)
    assert [wanted for _, wanted, _ in site.asked] == ["", f"bytes={len(DATA) - 10}-", ""]


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "not stated"])
def test_too_large(site: Site, tmp_path: Path, stated: bool) -> None:
    site.files["/a"], site.length = DATA, stated
    with pytest.raises(DownloadError, match=r"has 1024000 bytes, the manifest says 1000|larger than the 1000 bytes"):
        download(f"{site.address}/a", tmp_path / "a", 1000, QUICK, print)
    assert not (tmp_path / "a").exists() or (tmp_path / "a").stat().st_size <= 1000
    with pytest.raises(DownloadError, match="larger than the 1000 bytes"):
        read_address(f"{site.address}/a", 1000, QUICK, print)
    assert len(site.asked) == 2, "and not tried again"


def test_answers_that_end_it_and_answers_that_do_not(site: Site) -> None:
    site.files["/a"] = b"small"
    for code in (400, 401, 403, 404, 410):
        site.asked.clear()
        site.answers = [code]
        with pytest.raises(DownloadError, match=f"/a: the server answers {code}"):
            read_address(f"{site.address}/a", 100, QUICK, print)
        assert len(site.asked) == 1
    for code in (408, 429, 500, 502, 503):
        site.answers = [code, code]
        assert read_address(f"{site.address}/a", 100, QUICK, print) == b"small"
    site.cut = [2]
    assert read_address(f"{site.address}/a", 100, QUICK, print) == b"small"


def test_no_server(tmp_path: Path, site: Site) -> None:
    lines: list[str] = []
    with pytest.raises(DownloadError, match=r"Connection refused, 3 times in a row; look at the network"):
        read_address("http://127.0.0.1:9/a", 100, QUICK, lines.append)
    assert len(lines) == 2


def test_waits_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    waits: list[float] = []
    monkeypatch.setattr("bev_perception.download.time.sleep", waits.append)
    with pytest.raises(DownloadError, match="6 times"):
        read_address("http://127.0.0.1:9/a", 100, Patience(longest_wait_s=5.0), print)
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]
    waits.clear()
    with pytest.raises(DownloadError, match="3 times"):
        read_address("http://127.0.0.1:9/a", 100, Patience(total_s=3.5), print)
    assert waits == [1.0, 2.0], "the next would end too late"
    with pytest.raises(ValueError, match="times must be positive and tries at least one"):
        Patience(tries=0)


def test_a_server_that_says_nothing_more(site: Site) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        with pytest.raises(DownloadError, match="timed out, 2 times in a row"):
            read_address(address, 100, Patience(timeout_s=0.05, tries=2, wait_s=0.0), print)


def test_a_drip_is_not_waited_for_for_ever(site: Site, tmp_path: Path) -> None:
    site.files["/a"] = DATA
    with pytest.raises(DownloadError, match="takes too long; what was received is kept"):
        download(f"{site.address}/a", tmp_path / "a", len(DATA), Patience(total_s=1e-9), print)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,hello", "gopher://x/"])
def test_redirects_lead_to_web_servers_only(site: Site, target: str) -> None:
    site.redirects["/a"] = target
    with pytest.raises(DownloadError, match=r"not allowed|which is not followed|answers 302"):
        read_address(f"{site.address}/a", 10_000, QUICK, print)


@pytest.mark.parametrize("site", [own_certificate], indirect=True)
def test_https_with_a_certificate_that_is_trusted_and_one_that_is_not(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/a"] = b"secret"
    lines: list[str] = []
    with pytest.raises(DownloadError, match="certificate verify failed"):
        read_address(f"{site.address}/a", 100, QUICK, lines.append)
    assert lines == [] and site.asked == [], "a certificate does not get better by waiting"
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    assert read_address(f"{site.address}/a", 100, QUICK, print) == b"secret"
    site.redirects["/b"] = site.address.replace("https", "http") + "/a"
    with pytest.raises(DownloadError, match="which is not followed: expected https"):
        read_address(f"{site.address}/b", 100, QUICK, print)


def test_redirects_are_followed_a_few_times(site: Site) -> None:
    site.files["/b"] = b"here"
    site.redirects = {"/a": "/b", "/c": "/c"}
    assert read_address(f"{site.address}/a", 100, QUICK, print) == b"here"
    with pytest.raises(DownloadError, match="answers 302"):
        read_address(f"{site.address}/c", 100, QUICK, print)


def test_a_compressed_answer_is_refused(site: Site) -> None:
    site.files["/a"], site.encoding = b"x", "gzip"
    with pytest.raises(DownloadError, match="compresses it, which was not asked for"):
        read_address(f"{site.address}/a", 100, QUICK, print)


def test_proxies_of_the_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files["http://store.example/a"] = b"through the proxy"
    site.files["/a"] = b"direct"
    monkeypatch.setenv("http_proxy", site.address)
    assert read_address("http://store.example/a", 100, QUICK, print) == b"through the proxy"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert read_address(f"{site.address}/a", 100, QUICK, print) == b"direct"


def test_addresses() -> None:
    assert check_address("https://host:8443/models/") == "https://host:8443/models"
    for address in ("file:///tmp", "ftp://host/", "http://", "https:/host"):
        with pytest.raises(DownloadError, match="is no address of a web server"):
            check_address(address)
    for address in ("https://me:secret@host/", "https://host/?token=secret", "https://host/#secret"):
        with pytest.raises(DownloadError, match="password, a query or a fragment") as told:
            check_address(address)
        assert "secret" not in str(told.value)


# ---- the manifest

RELEASE: dict[str, Any] = {
    "version": "2", "file": "b.zip", "sha256": "0" * 64, "bytes": 9, "runtime": "0.1", "share": 0.5,
}  # fmt: skip


def manifest(*releases: dict[str, Any], **more: Any) -> str:
    return json.dumps({"format": 1, "releases": [RELEASE | release for release in releases]} | more)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "m: .*; upload the manifest again"),
        ("", "m: "),
        ("[]", "m: format 'list'; this version reads 1"),
        (manifest(format=2), "m: format 2; this version reads 1; update bev_perception on this machine"),
        (manifest(format=True), "m: format True"),
        (manifest({"share": 1.5}), r"share must be within \[0, 1\], found 1.5"),
        (manifest({"share": -0.1}), "share must be within"),
        (manifest({"bytes": 0}), "bytes must be within"),
        (manifest({"bytes": 2**40}), "bytes must be within"),
        (manifest({"sha256": "abc"}), "sha256 must match"),
        (manifest({"sha256": "A" * 64}), "sha256 must match"),
        (manifest({"file": "../b.zip"}), "file must match"),
        (manifest({"file": "a/b.zip"}), "file must match"),
        (manifest({"file": "http://evil/b.zip"}), "file must match"),
        (manifest({"version": "../2"}), "version must match"),
        (manifest({"runtime": "new"}), "runtime of 2: 'new', expected major.minor"),
        (manifest({}, {}), "at most 1000 versions, each once; found 2"),
        (manifest({"extra": 1}), r"unknown keys \['extra'\]"),
        ('{"format": 1, "releases": [], "releases": []}', "stand twice"),
        (manifest().replace("[]", '[{"share": NaN}]'), "NaN is no number"),
    ],
)
def test_a_damaged_manifest_is_refused_by_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        parse_manifest(text, "m")


def chosen(text: str, vehicle_id: str | None) -> tuple[str | None, str]:
    choice = choose_release(parse_manifest(text), vehicle_id)
    return choice.release.version if choice.release else None, said(list(choice.reasons))


def test_the_newest_release_that_is_for_this_vehicle() -> None:
    text = manifest({"version": "3", "runtime": "99.0"}, {"share": 0.0}, {"version": "1", "share": 1})
    version, why = chosen(text, "car 7")
    assert version == "1"
    assert "version 3: needs bev_perception 99.0 or newer, this is" in why
    assert "version 2: is for 0.00% of the vehicles so far" in why and why.endswith("chosen, it is for all vehicles")
    version, why = chosen(manifest({}), None)
    assert version is None and "without --vehicle-id this one is not among them" in why
    assert chosen(manifest(), "car 7") == (None, "")
    for nothing in ("", " \n"):
        with pytest.raises(ValueError, match="the vehicle's id is empty"):
            chosen(manifest({}), nothing)


def test_a_share_is_even_keeps_its_vehicles_and_begins_with_others() -> None:
    cars = [f"vehicle-{i}" for i in range(4000)]
    shares = (0.0, 0.01, 0.1, 0.5, 1.0)
    offered = [parse_manifest(manifest({"share": share})) for share in shares]
    taking = [{car for car in cars if choose_release(offer, car).release} for offer in offered]
    for share, now, more in zip(shares, taking, [*taking[1:], set(cars)]):
        assert now <= more, "a vehicle that had the release lost it when the share grew"
        assert abs(len(now) / len(cars) - share) < 4 * (share * (1 - share) / len(cars)) ** 0.5 + 1e-9
    other = {car for car in cars if place_of(car, "3") < 0.1}
    assert len(other & taking[2]) / len(taking[2]) < 0.2, "always the same vehicles are first"
    assert all(0 <= place_of(car, "2") < 1 for car in cars)
    assert place_of("vehicle-7", "2") == 0.6212539700745762, "of all machines and versions of Python"


# ---- the whole way


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one bundle, for all."""
    folder = tmp_path_factory.mktemp("shelf")
    tiny_bundle.write_bundle(folder / "bundle")
    pack_bundle(folder / "bundle", folder / "b.zip")
    shutil.rmtree(folder / "bundle")
    data = (folder / "b.zip").read_bytes()
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "share": 1}
    (folder / MANIFEST).write_text(manifest(facts))
    return folder


def put(site: Site, shelf: Path) -> Release:
    site.files |= {f"/models/{file.name}": file.read_bytes() for file in shelf.iterdir()}
    return parse_manifest((shelf / MANIFEST).read_text()).releases[0]


def test_a_folder_is_a_store(shelf: Path, tmp_path: Path, capsys: Any) -> None:
    assert main([str(shelf), "--out", str(tmp_path / "bundles")]) == 0
    told = capsys.readouterr()
    folder = Path(told.out.strip())
    assert load_bundle(folder).spec.name == "tiny" and folder.name.startswith("2-")
    assert told.err == "version 2: chosen, it is for all vehicles\n"
    assert [f.name for f in folder.parent.iterdir()] == [folder.name], "nothing else is left"
    assert main([str(shelf), "--out", str(tmp_path / "bundles")]) == 0
    told = capsys.readouterr()
    assert Path(told.out.strip()) == folder and "is there already" in told.err


def test_a_web_server_is_a_store(site: Site, shelf: Path, tmp_path: Path, capsys: Any) -> None:
    put(site, shelf)
    assert main([f"{site.address}/models/", "--vehicle-id", "x", "--out", str(tmp_path)]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert load_bundle(folder) and [f.name for f in tmp_path.iterdir()] == [folder.name]
    assert [path for path, _, _ in site.asked] == ["/models/manifest.json", "/models/b.zip"]
    site.asked.clear()
    assert main([f"{site.address}/models", "--vehicle-id", "x", "--out", str(tmp_path)]) == 0
    assert [path for path, _, _ in site.asked] == ["/models/manifest.json"], "nothing new, nothing fetched"


def test_a_broken_line_is_taken_up_by_the_next_call(site: Site, shelf: Path, tmp_path: Path) -> None:
    release = put(site, shelf)
    site.cut, site.answers = [1000], [200, 503, 503]
    with pytest.raises(DownloadError, match="answers 503"):
        fetch_release(f"{site.address}/models", release, tmp_path, QUICK, print)
    site.asked.clear()
    assert fetch_release(f"{site.address}/models", release, tmp_path, QUICK, print)
    assert [wanted for _, wanted, _ in site.asked] == ["bytes=1000-"]


def test_whatever_the_server_does_there_is_the_right_bundle_or_none(site: Site, shelf: Path, tmp_path: Path) -> None:
    """Servers that break off, fail, exchange the file and lie about it, at random; then an honest one."""
    release = put(site, shelf)
    right, path = site.files["/models/b.zip"], "/models/b.zip"
    rng = np.random.default_rng(5)
    stamps = ("", "Mon, 30 Nov 2026 12:00:00 GMT")
    came = []
    for episode in range(40):
        out = tmp_path / str(episode)
        for _ in range(4):
            site.cut = [int(n) for n in rng.integers(0, len(right), rng.integers(3))]
            site.answers = [int(n) for n in rng.choice([200, 404, 500, 503], rng.integers(4))]
            site.ranges, site.etag, site.heeds_if_range, site.length = (bool(n) for n in rng.random(4) < 0.7)
            site.modified, site.shift = stamps[rng.integers(2)], int(rng.random() < 0.1)

            def exchange(_: str) -> None:
                site.files[path] = (right, rng.bytes(len(right)), right[: len(right) // 2])[rng.integers(3)]

            exchange("")
            try:
                fetch_release(f"{site.address}/models", release, out, QUICK, exchange)
            except (StoreError, DownloadError):
                assert not any(f.is_dir() for f in out.iterdir()), "a folder of an archive that was refused"
                continue
            break
        came.append(any(f.is_dir() for f in out.iterdir()))
        site.files[path], site.cut, site.answers = right, [], []
        site.ranges = site.etag = site.heeds_if_range = site.length = True
        site.shift = 0
        bundle = fetch_release(f"{site.address}/models", release, out, QUICK, print)
        pack_bundle(bundle.path, tmp_path / "again.zip")
        assert (tmp_path / "again.zip").read_bytes() == right
        assert [f.name for f in out.iterdir()] == [bundle.path.name]
    assert 5 < sum(came) < 35, "too kind or too cruel to say anything"


@pytest.mark.parametrize("kind", ["folder", "web server"])
def test_what_has_another_hash_is_not_used(
    site: Site, shelf: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shelf, tmp_path / "shelf")
    data = bytearray((shelf / "b.zip").read_bytes())
    data[100] ^= 1
    (tmp_path / "shelf" / "b.zip").write_bytes(data)
    release = put(site, tmp_path / "shelf")

    def never(*_: Any) -> None:
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(module, "unpack_bundle", never)
    place = f"{site.address}/models" if kind == "web server" else tmp_path / "shelf"
    with pytest.raises(StoreError, match=r"has sha256 .*, the manifest expects .*; nothing of it was used"):
        fetch_release(place, release, tmp_path / "out", QUICK, print)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_part_that_does_not_belong_is_received_anew(site: Site, shelf: Path, tmp_path: Path) -> None:
    """Begun from a server that then had another file, without saying so."""
    release = put(site, shelf)
    site.etag, site.modified = False, "Mon, 30 Nov 2026 12:00:00 GMT"
    right = site.files["/models/b.zip"]
    site.files["/models/b.zip"], site.cut = bytes(len(right)), [1000]

    def change(_: str) -> None:
        site.answers = [500] * 2

    with pytest.raises(DownloadError):
        fetch_release(f"{site.address}/models", release, tmp_path, QUICK, change)
    site.files["/models/b.zip"], site.answers = right, []
    lines: list[str] = []
    assert fetch_release(f"{site.address}/models", release, tmp_path, QUICK, lines.append)
    assert "does not belong to it, it is received anew" in said(lines)


def test_errors_of_the_command(site: Site, shelf: Path, tmp_path: Path, capsys: Any) -> None:
    out = ["--out", str(tmp_path / "out"), "--tries", "1"]
    site.files["/bad/manifest.json"] = b"\xff"
    (tmp_path / "empty").mkdir()
    for place, message in (
        (f"{site.address}/none", "none/manifest.json: the server answers 404"),
        (f"{site.address}/bad", "bad/manifest.json: is not UTF-8"),
        (str(tmp_path / "nowhere"), "nowhere is no folder; a store is a folder with manifest.json"),
        (str(tmp_path / "empty"), "No such file"),
        ("file:///tmp", "is no address of a web server"),
    ):
        assert main([place, *out]) == 1
        assert message in capsys.readouterr().err
    put(site, shelf)
    site.files["/models/manifest.json"] = manifest({"share": 0}).encode()
    assert main([f"{site.address}/models", *out, "--vehicle-id", "x"]) == 1
    assert capsys.readouterr().err.endswith("has no release for this vehicle\n")
    (tmp_path / "empty" / MANIFEST).write_bytes(bytes(2**20 + 1))
    with pytest.raises(StoreError, match="has 1048577 bytes, at most 1048576 are read; a manifest is JSON"):
        read_manifest(tmp_path / "empty")


def test_what_was_received_of_a_withdrawn_release_goes_with_the_next_one(shelf: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mine = [".notes.archive", "2-0123456789ab.archive", ".2-0123456789ab.zip"]
    withdrawn = [".2+a-0123456789ab.archive", ".2+a-0123456789ab.archive.note", ".9-ba9876543210.archive"]
    for name in (*mine, *withdrawn):
        (out / name).write_text("some of it")
    bundle = fetch_release(shelf, read_manifest(shelf).releases[0], out)
    assert sorted(path.name for path in out.iterdir()) == sorted([*mine, bundle.path.name])


@pytest.mark.parametrize("given", [["--tries", "0"], ["--timeout", "nan"]])
def test_patience_that_is_none_is_said(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--out", str(tmp_path / "out"), *given]) == 1
    assert capsys.readouterr().err.startswith("error: times must be positive and tries at least one, found")


def test_an_archive_that_is_no_bundle_is_refused_after_its_hash(shelf: Path, tmp_path: Path) -> None:
    shutil.copytree(shelf, tmp_path / "shelf")
    data = b"not a zip, with the hash that the manifest states"
    (tmp_path / "shelf" / "b.zip").write_bytes(data)
    release = Release("9", "b.zip", hashlib.sha256(data).hexdigest(), len(data), "0.1", 1.0)
    with pytest.raises(BundleError, match="does not end like a zip"):
        fetch_release(tmp_path / "shelf", release, tmp_path / "out", QUICK, print)
    assert list((tmp_path / "out").iterdir()) == [], "what can never be unpacked is not kept"


def test_a_full_disk_is_known_before(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"1000 bytes are free, \d+ are needed for b\.zip; make room"):
        fetch_release(shelf, read_manifest(shelf).releases[0], tmp_path / "out", QUICK, print)
    assert list((tmp_path / "out").iterdir()) == []


def test_one_process_at_a_time(shelf: Path, tmp_path: Path) -> None:
    with module._alone(tmp_path), pytest.raises(BlockingIOError, match="another process fetches into it"):
        fetch_release(shelf, read_manifest(shelf).releases[0], tmp_path, QUICK, print)


def test_a_manifest_is_its_dataclasses() -> None:
    found = parse_manifest(manifest({}))
    assert found == Manifest(1, (Release("2", "b.zip", "0" * 64, 9, "0.1", 0.5),))
