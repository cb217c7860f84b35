"""Files that people upload, good and bad, made of the bundled faces."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import torch
from PIL import Image

from essence import Essence

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "assets" / "sources").glob("*.jpg"))


def face(number: int, side: int) -> Image.Image:
    with Image.open(SOURCES[number % len(SOURCES)]) as image:
        return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def photograph(path: Path, numbers: tuple[int, ...] = (0,), side: int = 420) -> Path:
    """Faces side by side on grey, the first one somewhat larger."""
    sides = [side + 40 * (i == 0) for i in range(len(numbers))]
    canvas = Image.new(
        "RGB", (sum(sides) + 40 * (len(sides) + 1), max(sides) + 160), (140, 140, 135)
    )
    left = 40
    for number, size in zip(numbers, sides, strict=True):
        canvas.paste(face(number, size), (left, 80))
        left += size + 40
    canvas.save(path, quality=92)
    return path


def no_face(path: Path) -> Path:
    Image.linear_gradient("L").resize((500, 400)).convert("RGB").save(path)
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def truncated(path: Path) -> Path:
    data = photograph(path).read_bytes()
    path.write_bytes(data[: len(data) // 3])
    return path


def text(path: Path) -> Path:
    path.write_text("I am no picture at all.\n" * 20)
    return path


def huge(path: Path, side: int = 20_000) -> Path:
    """A PNG of side x side pixels in black and white, written without ever being decoded: some 50
    KB.
    """
    row = b"\0" + bytes((side + 7) // 8)
    squeeze = zlib.compressobj(9)
    data = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


def animation(path: Path) -> Path:
    """Two frames, a face on each."""
    frames = [Image.new("RGB", (460, 460), (140, 140, 135)) for _ in range(2)]
    for number, frame in enumerate(frames):
        frame.paste(face(number, 380), (40, 40))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=0)
    return path


def strange_essence(path: Path, shape: tuple[int, int] = (18, 512), model: str = "another") -> Path:
    """An essence of another generator."""
    Essence(torch.zeros(shape), path.stem, model, "optimize").save(path)
    return path


def corrupted_essence(path: Path) -> Path:
    data = strange_essence(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path
