"""Downloads from a server that drops, lies, refuses and forgets."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from essence.cli import main as cli
from essence.errors import BadFile, UserError
from essence.library import checkpoints, download, http_download
from essence.library.manifest import ModelSpec, model_sets
from essence.library.model_files import Mirror, ModelFile
from essence.runtime import folders

GOLDEN = Path(__file__).parent / "golden"
BODY = bytes(range(256)) * 40
SHA = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """`files`: path -> {"body", "drops": bytes to send before each drop, "ranges", "etag", "kind"}.
    Keeps the Range of each request, and the token that came with each path; `moved`: path -> path.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.tokens, self.moved = {}, [], {}, {}

    def add(
        self, name, body=BODY, drops=(), ranges=True, etag='"one"', kind="application/octet-stream"
    ):
        self.files["/" + name] = {
            "body": body,
            "drops": list(drops),
            "ranges": ranges,
            "etag": etag,
            "kind": kind,
        }
        return Mirror(url=f"http://127.0.0.1:{self.server_port}/{name}")


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        self.server.tokens[self.path] = self.headers.get("Authorization")
        if self.path in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[self.path])
            self.end_headers()
            return
        file = self.server.files.get(self.path)
        if file is None:
            self.send_error(404)
            return
        body, start = file["body"], 0
        same = self.headers.get("If-Range") in (None, file["etag"])
        if wanted and file["ranges"] and same:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Content-Type", file["kind"])
        self.send_header("ETag", file["etag"])
        self.end_headers()
        until = start + file["drops"].pop(0) if file["drops"] else len(body)
        self.wfile.write(body[start:until])
        self.close_connection = True


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setattr(folders, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(http_download, "PAUSE", 0)
    monkeypatch.setattr(http_download, "BLOCK", 1000)
    server = Server()
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    yield server
    server.shutdown()
    server.server_close()


def model_spec(*mirrors, sha256=SHA, size=10240, part="latents", **more):
    return ModelSpec(
        "remote", {part: ModelFile("set/file.pt", sha256, size, sources=mirrors, **more)}
    )


def files(tmp_path):
    return sorted(path.name for path in (tmp_path / "weights" / "set").iterdir())


def body(tmp_path):
    return (tmp_path / "weights" / "set" / "file.pt").read_bytes()


def test_a_file_arrives_whole_and_progress_is_told(server, tmp_path):
    told = []
    found = download.download_files(
        model_spec(server.add("a")), progress=lambda *words: told.append(words)
    )
    assert body(tmp_path) == BODY and files(tmp_path) == ["file.pt"]
    assert (
        found[0].how == "sha256" and told[-1] == ("file.pt", len(BODY), len(BODY)) and len(told) > 5
    )
    assert (
        download.download_files(model_spec(server.add("a")))[0].how == "here already"
        and len(server.asked) == 1
    )


def test_a_dropped_connection_is_taken_up_where_it_broke(server, tmp_path):
    download.download_files(model_spec(server.add("a", drops=[3000, 4000])))
    assert body(tmp_path) == BODY
    assert [wanted for _, wanted in server.asked] == [None, "bytes=3000-", "bytes=7000-"]


def test_without_ranges_it_starts_anew(server, tmp_path):
    download.download_files(model_spec(server.add("a", drops=[3000], ranges=False)))
    assert body(tmp_path) == BODY and len(server.asked) == 2


def test_a_file_that_changed_meanwhile_is_not_mixed(server, tmp_path):
    old = server.add("a", body=bytes(len(BODY)), drops=[3000], etag='"old"')

    def change(name, done, total):
        server.add("a", etag='"new"')

    download.download_files(model_spec(old), progress=change)
    assert body(tmp_path) == BODY and server.asked[1][1] == "bytes=3000-"


def test_a_second_run_goes_on_with_the_first_ones_half(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http_download, "ATTEMPTS", 1)
    mirror = server.add("a", drops=[3000, 0, 0])
    with pytest.raises(UserError, match="broke off"):
        download.download_files(model_spec(mirror))
    assert not (tmp_path / "weights" / "set" / "file.pt").exists()
    server.add("a")
    download.download_files(model_spec(mirror))
    assert body(tmp_path) == BODY and server.asked[-1][1] == "bytes=3000-"


def test_a_spoilt_half_is_thrown_away_and_fetched_again(server, tmp_path):
    mirror, folder = server.add("a"), tmp_path / "weights" / "set"
    folder.mkdir(parents=True)
    (folder / "file.part.pt").write_bytes(bytes(3000))
    (folder / "file.part.pt.json").write_text(
        json.dumps({"address": mirror.address, "etag": '"one"'})
    )
    download.download_files(model_spec(mirror))
    assert body(tmp_path) == BODY and [wanted for _, wanted in server.asked] == [
        "bytes=3000-",
        None,
    ]


@pytest.mark.parametrize("half", [len(BODY), len(BODY) + 7])
def test_a_half_that_is_too_long_is_started_anew(server, tmp_path, half):
    mirror, folder = server.add("a"), tmp_path / "weights" / "set"
    folder.mkdir(parents=True)
    (folder / "file.part.pt").write_bytes(bytes(half))
    (folder / "file.part.pt.json").write_text(json.dumps({"address": mirror.address, "etag": ""}))
    download.download_files(model_spec(mirror))
    assert body(tmp_path) == BODY


BAD = {
    "bytes": {"body": BODY[::-1]},
    "length": {"body": BODY + b"more"},
    "page": {"body": b"<html>sign in first</html>", "kind": "text/html; charset=utf-8"},
}


@pytest.mark.parametrize("kind", [*BAD, "missing"])
def test_the_next_source_serves_where_one_is_bad(server, tmp_path, kind):
    bad = (
        server.add("bad", **BAD[kind])
        if kind in BAD
        else Mirror(url=f"http://127.0.0.1:{server.server_port}/none")
    )
    found = download.download_files(model_spec(bad, server.add("good")))
    assert (
        body(tmp_path) == BODY
        and found[0].source.endswith("/good")
        and files(tmp_path) == ["file.pt"]
    )


@pytest.mark.parametrize(
    "kind, says",
    [("bytes", SHA), ("length", "another file"), ("page", "web page"), ("missing", "404")],
)
def test_where_no_source_has_it_the_error_says_what_to_do_by_hand(server, tmp_path, kind, says):
    bad = (
        server.add("bad", **BAD[kind])
        if kind in BAD
        else Mirror(url=f"http://127.0.0.1:{server.server_port}/bad")
    )
    with pytest.raises(UserError) as error:
        download.download_files(model_spec(bad))
    assert says in str(error.value) and bad.address in str(error.value)
    assert (
        "python -m essence fetch remote --part latents --from file.pt" in str(error.value)
        and files(tmp_path) == []
    )


def test_offline_is_said_at_once(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="refused.*fetch remote --part latents --from"):
        download.download_files(model_spec(Mirror(url=f"http://127.0.0.1:{server.server_port}/a")))


def test_a_hub_file_is_asked_for_with_the_persons_token_which_goes_nowhere_else(
    server, tmp_path, monkeypatch
):
    server.add("storage", drops=[3000])
    server.moved["/a/b/resolve/main/file.pt"] = "/storage"
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "nobody"))
    for token, sent in (("hf_of_somebody", "Bearer hf_of_somebody"), ("", None)):
        monkeypatch.setenv("HF_TOKEN", token)
        (tmp_path / "weights" / "set" / "file.pt").unlink(missing_ok=True)
        download.download_files(model_spec(Mirror(hub="a/b", file="file.pt")))
        assert body(tmp_path) == BODY and server.tokens["/storage"] is None
        assert server.tokens["/a/b/resolve/main/file.pt"] == sent
    assert ("/storage", "bytes=3000-") in server.asked


def test_where_no_hash_is_known_the_tensors_decide_and_the_hash_seen_is_kept(server, tmp_path):
    good = (GOLDEN / "e4e_narrow.pt").read_bytes()
    damaged, other = (
        server.add("damaged", body=good[:-3000]),
        server.add("other", body=(GOLDEN / "optimizer_trace.pt").read_bytes()),
    )
    wanted = model_spec(
        damaged, other, server.add("good", body=good), sha256="", size=0, part="inverter"
    )
    found = download.download_files(wanted)[0]
    seen = hashlib.sha256(good).hexdigest()
    assert (
        found.how == "structure"
        and "no hash is published" in str(found)
        and seen in str(found)
        and body(tmp_path) == good
    )
    part = wanted.components["inverter"]
    assert (
        json.loads(part.record_path.read_text())["sha256"] == seen
        and part.verified_path() == part.path
    )
    part.path.write_bytes(good[:-1] + b"x")
    with pytest.raises(BadFile, match="sha256 differs"):
        part.verified_path()


def test_a_full_disk_is_said_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(http_download, "FREE_SPACE", 1 << 62)
    with pytest.raises(UserError, match="GB free"):
        download.download_files(model_spec(server.add("a")))


@pytest.mark.parametrize("given", ["file", "another name", "folder"])
def test_a_persons_own_file_is_taken_in(server, tmp_path, given):
    own = tmp_path / "own" / ("file.pt" if given != "another name" else "download (1).pt")
    own.parent.mkdir()
    own.write_bytes(BODY)
    found = download.import_files(model_spec(), own.parent if given == "folder" else own)
    assert (
        body(tmp_path) == BODY
        and own.exists()
        and found[0].how == "sha256"
        and files(tmp_path) == ["file.pt"]
    )


def test_a_persons_other_file_is_not(server, tmp_path):
    own = tmp_path / "file.pt"
    own.write_bytes(BODY[::-1])
    with pytest.raises(UserError, match="not taken in.*sha256.*--model"):
        download.import_files(model_spec(), own)
    assert files(tmp_path) == [] and own.read_bytes() == BODY[::-1]
    with pytest.raises(UserError, match="no file or folder"):
        download.import_files(model_spec(), tmp_path / "nope.pt")
    with pytest.raises(UserError, match="holds none of the files"):
        download.import_files(model_spec(), tmp_path / "weights")


def test_fetch_from_then_load_gives_the_recorded_pictures(server, tmp_path, capsys):
    """The whole way of a public file: taken in by the command line, read by the registry."""
    path = GOLDEN / "e4e_narrow.pt"
    manifest = f"""
[narrow]
aligned = "square"
[narrow.generator]
file = "narrow/e4e.pt"
sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"
licence = "none"
means = "For tests."
[narrow.inverter]
same_as = "generator"
"""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "manifest.toml").write_text(manifest)
    assert cli.main(["fetch", "narrow", "--from", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["checked"] == ["sha256"] and "For tests." in err
    io = torch.load(GOLDEN / "e4e_narrow_io.pt")
    parts = model_sets()["narrow"].components
    generator = checkpoints.load_generator(parts["generator"].verified_path())
    inverter = checkpoints.load_inverter(parts["inverter"].verified_path())
    with torch.no_grad():
        torch.testing.assert_close(
            generator.synthesis(inverter(io["x"].float())), io["image"], atol=1e-4, rtol=0
        )


def test_the_command_to_run_by_hand_works(server, tmp_path, monkeypatch, capsys):
    """Also where the file has another name at its source than here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    manifest = f"""
[far.generator]
file = "far/ours.pt"
sha256 = "{SHA}"
sources = [{{hub = "a/b", revision = "c", file = "theirs.pt"}}]
[far.clip]
file = "far/clip.pt"
"""
    (tmp_path / "weights" / "manifest.toml").write_text(manifest)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    assert cli.main(["fetch", "far", "--part", "generator"]) == 2
    says = capsys.readouterr().err
    assert f"127.0.0.1:{server.server_port}/a/b/resolve/c/theirs.pt" in says
    (tmp_path / "theirs.pt").write_bytes(BODY)
    assert cli.main(says.split("`python -m essence ")[1].split("`")[0].split()) == 0
    assert (tmp_path / "weights" / "far" / "ours.pt").read_bytes() == BODY
