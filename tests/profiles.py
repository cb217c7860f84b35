"""ICC profiles, written by hand: of RGB colours with given primaries, of greys, and of inks."""

from __future__ import annotations

import struct

import numpy as np

# Primaries and white as the profiles' fixed point has them: XYZ of red, green and blue under D50.
SRGB = ((0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139))
DISPLAY_P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE_RGB = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
PROPHOTO = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))
WHITE = (0.9642, 1.0, 0.8249)


def rgb_profile(primaries: tuple, gamma: float) -> bytes:
    """Colours made of light of three primaries, all with one gamma."""
    tags = {
        name: xyz(colour) for name, colour in zip(("rXYZ", "gXYZ", "bXYZ"), primaries, strict=True)
    }
    return profile("RGB ", "XYZ ", tags | {name: curve(gamma) for name in ("rTRC", "gTRC", "bTRC")})


def grey_profile(gamma: float) -> bytes:
    return profile("GRAY", "XYZ ", {"kTRC": curve(gamma)})


def ink_profile() -> bytes:
    """Lightness from the inks alone, so that the result is grey: L is 100 less 25 for each ink."""
    inks = np.indices((2, 2, 2, 2)).reshape(4, -1).sum(0)
    table = np.stack([255 * (1 - inks / 4), 0 * inks + 128, 0 * inks + 128], -1)
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * value for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    head = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + matrix
    body = identity * 4 + table.round().astype(np.uint8).tobytes() + identity * 3
    return profile("CMYK", "Lab ", {"A2B0": head + body}, kind="prtr")


def profile(space: str, connection: str, tags: dict[str, bytes], kind: str = "mntr") -> bytes:
    """A version 2 profile: the header, a table of where the tags lie, the tags."""
    tags = {"wtpt": xyz(WHITE), **tags}
    place, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name.encode() + struct.pack(">II", place + len(body), len(data))
        body += data
    header = struct.pack(
        ">I4sI4s4s4s12s4s28s12s48s",
        place + len(body),
        b"",
        0x02400000,
        kind.encode(),
        space.encode(),
        connection.encode(),
        struct.pack(">6H", 2026, 1, 1, 0, 0, 0),
        b"acsp",
        b"",
        struct.pack(">3i", *(round(65536 * value) for value in WHITE)),
        b"",
    )
    return header + table + body


def xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in values))


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma))
