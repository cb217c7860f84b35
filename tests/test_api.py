"""The endpoints for programs, through gradio_client against a launched page with tiny models."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import urllib.request
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from demo import LAUNCH, api, build
from demo.panels.downloads import saved_bytes
from essence import Essence, StudioPool, UserError

from . import fakes, pictures


@pytest.fixture(scope="module")
def studio():
    return fakes.studio()


@pytest.fixture(scope="module")
def client(studio, tmp_path_factory):
    app = build(studio)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
    yield Client(url, verbose=False, download_files=tmp_path_factory.mktemp("client"))
    app.close()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(value: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(value))).convert("RGB")


def latents(studio, count: int = 2) -> list:
    return [studio.random_source(seed).w.tolist() for seed in range(count)]


def test_only_the_endpoints_for_programs_are_public(client):
    assert set(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == {
        "/align",
        "/invert",
        "/learn",
        "/blend",
        "/instant",
        "/imagine",
        "/strengths",
    }


def test_the_example_of_the_readme(client, studio, tmp_path, monkeypatch):
    """Its very text, against this page: from photographs to a blend."""
    code = next(
        part.split("```")[0]
        for part in (pictures.ROOT / "README.md").read_text().split("```python\n")
        if "gradio_client" in part
    )
    pictures.photograph(tmp_path / "ann.jpg")
    pictures.photograph(tmp_path / "target.jpg", (1,))
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(code.replace("http://127.0.0.1:7860", client.src), found)
    assert image(found["face"]).size == (studio.models.face_size,) * 2
    assert np.shape(found["source"]) == studio.models.latent_shape
    assert [step["step"] for step in found["steps"]] == list(
        range(1, len(found["steps"]) + 1)
    ) and "essence" in found["steps"][-1]
    assert all("essence" not in step for step in found["steps"][:-1])
    assert image(found["rows"][0][0]).size == (32, 32)


def test_blend_is_what_the_studio_gives(client, studio):
    strong = Essence(3 * studio.random_source(9).w, "strong", studio.models.id)
    data = text(saved_bytes(strong, ".safetensors"))
    rows = client.predict(latents(studio, 3), [data, data], [0.5, -1], api_name="/blend")
    wanted = studio.blend(
        [studio.random_source(seed) for seed in range(3)], [strong, strong], [0.5, -1]
    )
    assert len(rows) == 2 and len(rows[0]) == 3
    for row, pixels in zip(rows, wanted, strict=True):
        for cell, one in zip(row, pixels, strict=True):
            assert np.abs(np.asarray(image(cell)).astype(int) - one).max() <= 1


def test_a_data_url_is_a_picture_too(client):
    url = "data:image/jpeg;base64," + text(pictures.SOURCES[0].read_bytes())
    assert image(client.predict(url, 0, True, api_name="/align")["picture"]).size == (256, 256)


WRONG = {
    "path": (lambda s: ("/etc/passwd",), "/align", "no base64"),
    "file of the server": (lambda s: ({"path": "/etc/passwd"},), "/align", "not a dict"),
    "no picture": (lambda s: (text(b"hello"),), "/align", "not a picture"),
    "no face": (lambda s: (text(png(Image.new("RGB", (300, 300)))),), "/align", "No face found"),
    "another generator's latents": (lambda s: (face(), [[[0.0] * 512] * 18]), "/learn", "18, 512"),
    "ragged latents": (lambda s: (face(), [[[0.0], [1.0, 2.0]]]), "/learn", "no table of numbers"),
    "not finite": (lambda s: (face(), [[[1e39] * 8] * 8]), "/learn", "not finite"),
    "too many": (lambda s: (face(), [[[0.0] * 8] * 8] * 99), "/learn", "1 to 12"),
    "unknown preset": (lambda s: (face(), latents(s), "fast"), "/learn", "quick, balanced"),
    "no steps": (lambda s: (face(), latents(s), "quick", -5), "/learn", "at least 1"),
    "no essence": (
        lambda s: (latents(s), [text(b"x" * 99)], [1.0]),
        "/blend",
        "essence.safetensors",
    ),
    "a strength missing": (
        lambda s: (latents(s), [], [1.0]),
        "/blend",
        "0 essences and 1 strengths",
    ),
    "no number": (lambda s: (latents(s), [essence(s)], ["strong"]), "/blend", "'strong'"),
    "unknown set": (
        lambda s: (face(), 0, True, "nowhere"),
        "/align",
        "no model set 'nowhere'.*There are: fake",
    ),
    "no set's name": (
        lambda s: (latents(s), [], [], ["fake"]),
        "/blend",
        "must be a model set's name",
    ),
    "no target": (lambda s: ("", latents(s)), "/learn", "a picture as base64 text, or words"),
    "too many words": (lambda s: ("x" * 999,), "/imagine", "at most 200 characters"),
    "no words": (lambda s: ("",), "/imagine", "words as text"),
    "no faces": (lambda s: ("a man", "", 0), "/imagine", "at least 1"),
    "no face number": (lambda s: (face(), "second"), "/align", "'second'"),
}


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def face() -> str:
    return text(pictures.SOURCES[0].read_bytes())


def essence(studio) -> str:
    return text(
        saved_bytes(Essence(studio.random_source(9).w, "e", studio.models.id), ".safetensors")
    )


@pytest.mark.parametrize("arguments, endpoint, expected", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said(client, studio, arguments, endpoint, expected):
    with pytest.raises(AppError, match=expected):
        client.predict(*arguments(studio), api_name=endpoint)


def test_every_endpoint_takes_another_set(tmp_path, monkeypatch):
    """Its latents, pictures and essences are that set's."""
    fakes.write_manifest(tmp_path, monkeypatch, {"one": "face", "two": "square"})
    several = StudioPool("one")
    align, invert, learn, blend, *_ = api.endpoints(several).values()
    square = align(text(pictures.SOURCES[0].read_bytes()), model="two")["picture"]
    found = {name: invert(square, 1, model=name) for name in ("", "one", "two")}
    assert found[""] == found["one"] != found["two"]
    last = list(learn(square, [found["two"]["latents"]], "quick", 2, model="two"))[-1]
    assert len(blend([found["two"]["latents"]], [last["essence"]], [1.0], model="two")) == 1
    with pytest.raises(UserError, match="two-.*one-"):
        blend([found["one"]["latents"]], [last["essence"]], [1.0])


def test_a_cancelled_learning_lets_the_next_one_in(client, studio):
    job = client.submit(face(), latents(studio), "thorough", 1000, api_name="/learn")
    next(iter(job))
    job.cancel()
    values = list(client.submit(face(), latents(studio), "quick", 2, api_name="/learn"))
    assert values[-1]["step"] == 2


def test_words_from_a_sentence_to_a_blend(client, studio, tmp_path):
    said = {"text": "an old man", "neutral": "a man"}
    faces = client.predict("a smiling woman", "", 2, 5, api_name="/imagine")
    assert [image(each).size for each in faces["pictures"]] == [(32, 32)] * 2
    again = client.predict("a smiling woman", "", 2, 5, api_name="/imagine")
    assert np.allclose(faces["latents"], again["latents"], atol=1e-4)
    found = client.predict(**said, api_name="/instant")["essence"]
    (tmp_path / "e.safetensors").write_bytes(base64.b64decode(found))
    essence = Essence.load(tmp_path / "e.safetensors")
    assert (essence.method, essence.text, essence.neutral) == ("map", "an old man", "a man")
    suited = client.predict(faces["latents"], found, api_name="/strengths")
    source = studio.from_latents(torch.tensor(faces["latents"][0]))
    assert suited[0] == pytest.approx(studio.auto_strength(source, essence)) and len(suited) == 2
    options = ("", faces["latents"], "quick", 2)
    *_, last = client.submit(*options, **said, api_name="/learn")
    rows = client.predict(faces["latents"], [found, last["essence"]], [1, 1], api_name="/blend")
    assert [len(row) for row in rows] == [2, 2]


def test_models_without_a_mapper_say_what_to_do():
    instant = api.endpoints(StudioPool.around(fakes.studio(with_mapper=False)))["instant"]
    with pytest.raises(UserError, match="use /learn"):
        instant(text="an old man")


def test_the_page_can_be_installed_and_brings_its_own_icon(client):
    page = urllib.request.urlopen(client.src).read().decode()
    assert re.search(r'rel="manifest"[^>]*manifest.json', page)
    manifest = json.loads(urllib.request.urlopen(f"{client.src}manifest.json").read())
    assert manifest["name"] == "Essence" and manifest["icons"][0]["src"].endswith("pwa_icon")
    icon = urllib.request.urlopen(f"{client.src}pwa_icon").read()
    assert icon == (pictures.ROOT / "assets" / "icon.svg").read_bytes()


def test_mcp_follows_the_extra():
    assert LAUNCH["mcp_server"] == (find_spec("mcp") is not None)


def test_the_endpoints_are_tools_of_the_model_context_protocol(client):
    """Where the extra is installed."""
    pytest.importorskip("mcp")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def ask() -> tuple[set[str], str, bool]:
        address = f"{client.src}gradio_api/mcp/"
        streams = streamablehttp_client(address)
        async with streams as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            tools = {tool.name for tool in (await session.list_tools()).tools}
            made = await session.call_tool("instant", {"text": "an old man"})
            wrong = await session.call_tool("instant", {"text": ""})
            return tools, made.content[0].text, wrong.isError

    tools, made, wrong = asyncio.run(ask())
    assert tools == set(api.endpoints(StudioPool.around(fakes.studio())))
    assert "'essence': '" in made and wrong
