"""The page on machines with proxies, used ports and odd terminals; and that it leaves no photograph
behind, however it ends.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import httpx
import pytest

from demo import command, proxies, uploads

ROOT = Path(__file__).parents[1]
NO_PROXY_SERVER = "127.0.0.1:9"  # nobody listens there


# -- the words of the command


@pytest.mark.parametrize(
    "words, says",
    [
        ("--port 0", "--port"),
        ("--port 65536", "--port"),
        ("--port http", "--port"),
        ("--root-path essence", "--root-path"),
        ("--model nonsense", "nonsense"),
        ("--port 80 --host nowhere.invalid", "--host"),
    ],
)
def test_a_mistake_is_one_line(words, says, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(words.split())
    said = capsys.readouterr()
    assert stop.value.code == 2 and says in said.err
    assert said.out == "" and len(said.err.splitlines()) == 1


def test_a_port_in_use_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as stop:
        command.main(["--port", str(taken.getsockname()[1])])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "--port" in said and len(said.splitlines()) == 1


# -- proxies


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_loopback_needs_no_proxy_and_others_stay(monkeypatch, name):
    for each in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "intranet.example,127.0.0.1")
    monkeypatch.setenv("HTTP_PROXY", f"http://{NO_PROXY_SERVER}")
    proxies.bypass_proxies(*proxies.LOOPBACK)
    assert os.environ[name] == "intranet.example,127.0.0.1,localhost,::1"
    with socket.create_server(("127.0.0.1", 0)) as server, httpx.Client() as client:
        url = httpx.URL(f"http://127.0.0.1:{server.getsockname()[1]}")
        assert client._transport_for_url(url) is client._transport
        elsewhere = client._transport_for_url(httpx.URL("http://example.org"))
        assert elsewhere is not client._transport


def test_a_proxy_that_cannot_be_used_is_not_used(monkeypatch):
    monkeypatch.setattr(proxies, "find_spec", lambda name: None)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("ALL_PROXY", f"socks5://{NO_PROXY_SERVER}")
    proxies.bypass_proxies("localhost")
    httpx.Client().close()


# -- uploads


@pytest.fixture
def everybodys(monkeypatch, tmp_path):
    """The system's folder for temporary files; no page in this process has one of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(uploads, "_own", {})
    monkeypatch.setattr(uploads.atexit, "register", lambda *_: None)
    monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    return tmp_path


def test_a_page_has_a_folder_that_only_it_can_read(everybodys):
    uploads.use_own_folder()
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    (folder / "upload").mkdir()
    (folder / "upload" / "me.jpg").write_bytes(b"a face")
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o700
    uploads.delete_own_folder()
    assert list(everybodys.iterdir()) == []


def test_what_killed_pages_left_is_deleted_and_nothing_else(everybodys):
    killed = everybodys / f"essence-{'0' * 16}"
    alive = everybodys / f"essence-{'1' * 16}"
    others = everybodys / "essence-cache-0"
    for folder in (killed, alive, others):
        folder.mkdir()
        (folder / "me.jpg").write_bytes(b"a face")
    Path(uploads.lock_of(killed).lock_file).touch()
    with uploads.lock_of(alive):
        uploads.use_own_folder()
        assert not killed.exists() and not list(everybodys.glob(f"{killed.name}*"))
        assert (alive / "me.jpg").exists() and (others / "me.jpg").exists()


def test_a_folder_that_somebody_chose_is_left_to_them(everybodys, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(everybodys / "chosen"))
    uploads.use_own_folder()
    assert list(everybodys.iterdir()) == []


# -- a page as a process of its own


class Server:
    """`python app.py`, with the environment and words given."""

    def __init__(self, folder: Path, *words: str, **surroundings: str):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        inherited = {
            k: v for k, v in os.environ.items() if k not in ("GRADIO_TEMP_DIR", "NO_PROXY")
        }
        self.log = folder / "log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "app.py"), "--model", "mini", "--port", str(self.port)]
                + list(words),
                env={**inherited, "TMPDIR": str(folder), **surroundings},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def open(self, path: str, data: bytes | None = None, **headers: str) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return direct.open(request, timeout=300).read().decode()

    def wait(self) -> str:
        """The page, once it is up."""
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                return self.open("/")
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def upload(self) -> Path:
        """A photograph; where the server keeps it."""
        body = (
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="me.jpg"\r\n'
            b"Content-Type: image/jpeg\r\n\r\na face\r\n--x--\r\n"
        )
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        return Path(re.search(r'"(.+)"', self.open("/gradio_api/upload", body, **kind))[1])


@pytest.mark.skipif(os.name == "nt", reason="POSIX's signals")
def test_a_page_behind_proxies_leaves_no_photograph_however_it_ends(tmp_path):
    odd = {"HTTP_PROXY": f"http://{NO_PROXY_SERVER}", "PYTHONIOENCODING": "ascii"}
    odd["http_proxy"] = odd["HTTP_PROXY"]
    killed = Server(tmp_path, "--root-path", "/faces", **odd)
    try:
        assert "/faces" in killed.wait()
        left = killed.upload()
        assert left.read_bytes() == b"a face"
    finally:
        killed.process.kill()
        killed.process.wait()
    assert left.exists()

    stopped = Server(tmp_path, ALL_PROXY=f"socks5://{NO_PROXY_SERVER}")
    try:
        stopped.wait()
        assert not left.exists(), "what the killed one left is still there"
        assert stopped.upload().exists()
        stopped.process.terminate()
        assert stopped.process.wait(60) == 0
    finally:
        stopped.process.kill()
    assert not list(tmp_path.rglob("me.jpg")) and not list(tmp_path.glob("essence-*"))
    assert "Traceback" not in stopped.log.read_text()
