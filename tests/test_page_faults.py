"""200 malformed uploads, by seed, through the running page: each is a clear message, and nothing
stays behind.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from benchmarks.load import resident
from benchmarks.visitor import Refused, Visitor, visiting
from demo import LAUNCH, build
from essence import Essence

from . import fakes, pictures

SEED, COUNT = 6, 200
# MB: a picture of nearly 64 million pixels is among them, and is refused only once it is decoded
GROWTH = 600
TRACEBACK = re.compile(r'Traceback|File \\?"|\.py\b|line \d+, in ')
FORMATS = {
    "plain.jpg": ("JPEG", {}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "a.png": ("PNG", {}),
    "a.webp": ("WEBP", {}),
    "a.gif": ("GIF", {}),
    "plain.tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "zip.tiff": ("TIFF", {"compression": "tiff_deflate"}),
    "a.avif": ("AVIF", {}),
    "a.bmp": ("BMP", {}),
}

Upload = tuple[str, bytes]


# ---- the files


def uploads(good: Path) -> list[Upload]:
    """The same ones each time; `good` is an essence of this generator."""
    chance, fixed = random.Random(SEED), [*headers(), *essences(), *names()]
    made = list(fixed)
    for name, data in cut_and_mutated(chance, {**encoded(), **essence_files(good)}):
        made.append((f"{len(made)}-{name}", data))
        if len(made) == COUNT:
            return made


def encoded() -> dict[str, bytes]:
    face, found = pictures.face(0, 64), {}
    for name, (kind, options) in FORMATS.items():
        buffer = io.BytesIO()
        try:
            face.save(buffer, kind, **options)
        except (KeyError, OSError):  # Pillow was built without it
            continue
        found[name] = buffer.getvalue()
    return found


def essence_files(good: Path) -> dict[str, bytes]:
    array, tensor, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros((8, 8), np.float32))
    torch.save(torch.zeros(8, 8), tensor)
    torch.save({"delta": torch.zeros(8, 8)}, archive, _use_new_zipfile_serialization=False)
    return {
        "e.safetensors": good.read_bytes(),
        "e.npy": array.getvalue(),
        "e.pt": tensor.getvalue(),
        "old.pth": archive.getvalue(),
    }


def cut_and_mutated(chance: random.Random, intact: dict[str, bytes]) -> Iterator[Upload]:
    """Random bytes, cut files, files with wrong bytes in their first part, and the wrong extension,
    in turn.
    """
    while True:
        for name, data in intact.items():
            yield name, chance.randbytes(chance.randrange(1, 4000))
            yield name, data[: chance.randrange(1, len(data) * 3 // 4)]
            wrong = bytearray(data)
            for _ in range(12):
                wrong[chance.randrange(min(len(data), 200))] = chance.randrange(256)
            yield name, bytes(wrong)
            other = chance.choice(
                [other for other in intact if is_essence(other) != is_essence(name)]
            )
            yield other, data


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *extra: bytes, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(extra)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def headers() -> Iterator[Upload]:
    """Pictures that are larger than they look, and what is no picture."""
    for width, height in (
        (2**31 - 1, 2**31 - 1),
        (60_000, 60_000),
        (1, 2**30),
        (8001, 8001),
        (0, 10),
    ):
        yield f"{width}x{height}.png", png(width, height)
    yield (
        "text-bomb.png",
        png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))), data=bytes(200)),
    )
    yield "profile-bomb.png", png(7999, 8000, data=bytes(1000))
    yield (
        "wide.bmp",
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
    )
    yield (
        "wide.gif",
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\0\0,"
        + struct.pack("<HHHH", 0, 0, 65535, 65535)
        + b"\0\2\0;",
    )
    tags = [
        (256, 4, 1, 2**31),
        (257, 4, 1, 2**31),
        (258, 3, 1, 8),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (279, 4, 1, 2**32 - 1),
    ]
    yield (
        "wide.tif",
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        + bytes(4),
    )
    yield (
        "program.jpg",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n",
    )
    yield "archive.jpg", zipped(a=bytes(30_000_000))
    yield "empty.jpg", b""
    yield "vector.png", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def essences() -> Iterator[Upload]:
    """Files of numbers that claim what they do not hold."""

    def table(header: str) -> bytes:
        return (
            b"\x93NUMPY\x01\x00"
            + struct.pack("<H", len(header) + 1)
            + header.encode()
            + b"\n"
            + bytes(64)
        )

    def tensor(value: object) -> bytes:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()

    for name, kind, shape in (
        ("long", "<f8", (10**12, 8)),
        ("longer", "<f8", (10**30, 8)),
        ("minus", "<f4", (-8, 8)),
        ("object", "|O", (8, 8)),
        ("nothing", "|V0", (10**12, 8)),
        ("date", "<M8[s]", (1, 8)),
    ):
        yield f"{name}.npy", table(str({"descr": kind, "fortran_order": False, "shape": shape}))
    yield "deep.npy", table("(" * 3000)
    yield "bomb.npy", zipped(**{"a.npy": bytes(50_000_000)})
    yield "bomb.pt", zipped(**{"archive/data.pkl": bytes(50_000_000)})
    yield "stretched.pt", tensor(torch.zeros(1).expand(2**20, 2**20))
    yield "sparse.pt", tensor(torch.zeros(8, 8).to_sparse())
    yield "nowhere.pt", tensor(torch.zeros(8, 8, device="meta"))
    yield "code.pt", pickle.dumps(print)
    yield "code.pth", tensor({"a": [1], "b": "c"})
    delta = {"delta": torch.zeros(8, 8)}
    for name, header in (
        ("deep", "[" * 100_000),
        ("list", "[1]"),
        ("text", '"x"'),
        ("bare", "{}"),
        ("half", '{"format": "essence/1"}'),
    ):
        yield f"{name}.safetensors", save(delta, metadata={"essence": header})
    whole = {"format": "essence/1", "name": "n", "model": "", "method": "", "strength": "strong"}
    yield "strong.safetensors", save(delta, metadata={"essence": json.dumps(whole)})
    yield (
        "whole-numbers.safetensors",
        save(
            {"delta": torch.zeros(8, 8).int()},
            metadata={"essence": json.dumps({**whole, "strength": 1})},
        ),
    )
    yield "header.safetensors", struct.pack("<Q", 2**60) + b"{}"
    yield "empty.safetensors", b""


def names() -> Iterator[Upload]:
    """What a file may be called."""
    for name in (
        "..",
        "../../etc/passwd.png",
        ".png",
        "a" * 300 + ".jpg",
        "no extension",
        "ü 'q\" <b onclick=x>.png",
        "a\tb\n.jpg",
        "程序.gif",
        "%2e%2e%2f.png",
        "x.svg",
        "x.html",
        "x.jpg.exe",
        "CON.png",
        " .jpg",
        "-rf.webp",
    ):
        yield name, b"no picture: " + name.encode()


# ---- the page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def page(folder):
    studio = fakes.studio()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        app = build(studio)
        _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **LAUNCH)
        yield app, url
        app.close()


def is_essence(name: str) -> bool:
    return name.endswith((".safetensors", ".npy", ".pt", ".pth"))


def outcome(visitor: Visitor, name: str, data: bytes) -> tuple[str, str]:
    """(what the visitor is told, everything that came over the wire)."""
    part = "targets-upload" if is_essence(name) else "sources-upload"
    try:
        answer = visitor.call(
            part, "upload", {part: [visitor.upload(name, data)], "refine-steps": 0}
        )
    except Refused as refused:
        return str(refused), str(refused)
    return " | ".join(answer.messages), answer.raw


def left(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def shown(visitor: Visitor, name: str) -> bool:
    return any(
        f'title="{Path(name).stem}:' in html for html in visitor.call("sources", "undo").data[:2]
    )


def answers(visitor: Visitor) -> bool:
    """A good upload gives a source with its picture."""
    source = pictures.SOURCES[0]
    visitor.call(
        "sources-upload",
        "upload",
        {"sources-upload": [visitor.upload(source.name, source.read_bytes())], "refine-steps": 0},
    )
    return "data-item=" in visitor.call("sources", "undo").data[0]


def test_200_malformed_uploads(page, folder, tmp_path, record_property):
    app, url = page
    Essence(torch.zeros(8, 8), "good", "fake-0", thumbnail=pictures.face(0, 64)).save(
        tmp_path / "good.safetensors"
    )
    files = uploads(tmp_path / "good.safetensors")
    assert len(files) == COUNT
    taken, leaking = [], []
    with visiting(url) as visitor:
        assert answers(visitor)
        before, began = resident_here(), time.monotonic()
        for name, data in files:
            said, raw = outcome(visitor, name, data)
            if not said:  # some wrong bytes are only wrong pixels: then it is a source like another
                assert shown(visitor, name), name
                taken.append(name)
            else:
                assert len(said) > 12, (name, said)
            if TRACEBACK.search(said) or "Traceback" in raw:
                leaking.append((name, said))
        record_property("seconds", round(time.monotonic() - began))
        record_property("MB", round(resident_here() - before))
        assert not leaking and len(taken) < 5
        assert resident_here() - before < GROWTH
    with visiting(url) as visitor:
        assert answers(visitor)
    assert left(folder)  # until an hour has passed, or the page is closed
    app.close()
    deadline = time.monotonic() + 300
    while left(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left(folder)


def resident_here() -> float:
    return resident(os.getpid())
