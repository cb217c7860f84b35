"""Pictures as other people have them: colour profiles, deep colour, HEIC; dark, on their side."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from essence import RefineOptions, Studio
from essence.cli.main import main
from essence.errors import UnreadableImage, UserError
from essence.pictures import align, faces
from essence.pictures.loading import load_image

from . import profiles
from .pictures import face, photograph

COLOURS = np.random.default_rng(0).integers(60, 190, (8, 8, 3)).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read(image: Image.Image, kind: str = "PNG", **options) -> np.ndarray:
    return np.asarray(load_image(encoded(image, kind, **options)), int)


# ---- colour profiles


def srgb_of(colours: np.ndarray, primaries: tuple, gamma: float) -> np.ndarray:
    """What colours of the given primaries look like in sRGB, by the definition of both."""
    light = (colours / 255) ** gamma @ np.array(primaries) @ np.linalg.inv(profiles.SRGB)
    light = light.clip(0, 1)
    curved = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * curved).round()


@pytest.mark.parametrize(
    "primaries, gamma",
    [(profiles.DISPLAY_P3, 2.2), (profiles.ADOBE_RGB, 2.2), (profiles.PROPHOTO, 1.8)],
    ids=["Display P3", "Adobe RGB", "ProPhoto"],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_colours_are_those_that_the_profile_means(kind, primaries, gamma):
    options = {"lossless": True} if kind == "WEBP" else {}
    profile = profiles.rgb_profile(primaries, gamma)
    loaded = read(Image.fromarray(COLOURS), kind, icc_profile=profile, **options)
    wanted = srgb_of(COLOURS, primaries, gamma)
    assert np.abs(wanted - COLOURS).mean() > 3
    assert np.abs(loaded - wanted).max() <= 2


def test_an_open_image_and_its_transparency_keep_the_profile_in_force():
    profile = profiles.rgb_profile(profiles.ADOBE_RGB, 2.2)
    alpha = np.full((8, 8, 1), 255, np.uint8)
    alpha[0] = 0
    image = Image.fromarray(np.concatenate([COLOURS, alpha], -1))
    image.info["icc_profile"] = profile
    loaded = np.asarray(load_image(image), int)
    assert (loaded[0] == 255).all()
    wanted = srgb_of(COLOURS, profiles.ADOBE_RGB, 2.2)
    assert np.abs(loaded[1:] - wanted[1:]).max() <= 2
    assert image.info["icc_profile"] == profile


def test_srgb_under_any_name_changes_no_pixel():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for options in ({}, {"icc_profile": profile}):
        assert np.array_equal(read(Image.fromarray(COLOURS), **options), COLOURS)


def test_grey_profiles_and_profiles_of_inks_are_honoured():
    grey = Image.fromarray(COLOURS[..., 0])
    loaded = read(grey, icc_profile=profiles.grey_profile(1.0))
    wanted = srgb_of(COLOURS[..., :1].repeat(3, 2), profiles.SRGB, 1.0)
    assert np.abs(loaded - wanted).max() <= 1
    inks = Image.new("CMYK", (8, 8), (255, 255, 0, 0))
    for kind in ("TIFF", "JPEG"):
        loaded = read(inks, kind, icc_profile=profiles.ink_profile())
        assert np.abs(loaded - 119).max() <= 2, kind  # L 50; blue by Pillow's own conversion
    cut_out = grey.convert("LA")
    loaded = read(cut_out, icc_profile=profiles.grey_profile(1.0))
    assert np.abs(loaded - wanted).max() <= 1


def test_a_grey_picture_with_a_profile_for_colours_is_read():
    grey = Image.fromarray(COLOURS[..., 0])
    profile = profiles.rgb_profile(profiles.ADOBE_RGB, 1.0)
    wanted = srgb_of(COLOURS[..., :1].repeat(3, 2), profiles.SRGB, 1.0)
    assert np.abs(read(grey, icc_profile=profile) - wanted).max() <= 2


def broken_profiles() -> dict[str, bytes]:
    whole = profiles.rgb_profile(profiles.DISPLAY_P3, 2.2)
    scrambled = bytearray(whole)
    scrambled[132:300] = bytes(168)
    return {
        "no profile at all": b"this is no profile",
        "cut short": whole[:150],
        "without a table": bytes(scrambled),
        "for greys": profiles.grey_profile(1.0),
        "for inks": profiles.ink_profile(),
    }


@pytest.mark.parametrize("profile", broken_profiles().values(), ids=broken_profiles())
def test_profiles_that_make_no_sense_are_ignored(profile):
    image = Image.fromarray(COLOURS)
    assert np.array_equal(read(image, icc_profile=profile), COLOURS)
    inks = image.convert("CMYK")
    if profile != profiles.ink_profile():
        loaded = read(inks, "TIFF", icc_profile=profile)
        assert np.array_equal(loaded, np.asarray(inks.convert("RGB")))


# ---- deep colour


def deep_png(values: np.ndarray) -> bytes:
    """16 bits in each of 1 to 4 channels, [H, W, C]: Pillow writes no such colours."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        length, check = len(data).to_bytes(4, "big"), zlib.crc32(kind + data).to_bytes(4, "big")
        return length + kind + data + check

    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def deep_tiff(values: np.ndarray, order: str = "<", packed: bool = False) -> bytes:
    """16 bits in each of three channels, [H, W, 3]; `order` of the bytes as `struct` names it."""
    height, width, _ = values.shape
    data = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if packed else data
    count, place = 9, 8 + 2 + 9 * 12 + 4
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, place),
        (259, 3, 1, 8 if packed else 1),
        (262, 3, 1, 2),
        (273, 4, 1, place + 6),
        (277, 3, 1, 3),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
    ]
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    table = struct.pack(f"{order}H", count)
    for tag, kind, number, value in tags:
        short = kind == 3 and number == 1
        packed_value = struct.pack(f"{order}Hxx" if short else f"{order}I", value)
        table += struct.pack(f"{order}HHI", tag, kind, number) + packed_value
    return head + table + bytes(4) + struct.pack(f"{order}3H", 16, 16, 16) + data


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_deep_values_are_read_by_the_range_that_they_fill(bits):
    white = 2**bits - 1
    values = np.linspace(0, white, 256).round().astype(np.uint16).reshape(16, 16, 1)
    wanted = np.arange(256).reshape(16, 16)
    colours = values.repeat(3, 2)
    colours[..., 2] //= 2
    files = {
        "grey": deep_png(values),
        "tiff": encoded(Image.fromarray(values[..., 0]), "TIFF"),
        "array": values[..., 0],
        "colours": deep_png(colours),
        "with alpha": deep_png(np.concatenate([colours, 0 * values + 65535], -1)),
        "and a deep one": deep_png(np.concatenate([colours, 0 * values + white], -1)),
        "array of colours": colours,
    }
    for order in "<>":
        for packed in (False, True):
            files[f"tiff {order} {packed}"] = deep_tiff(colours, order, packed)
    for name, file in files.items():
        loaded = np.asarray(load_image(file), int)
        assert np.abs(loaded[..., 0] - wanted).max() <= 1, name
        if "grey" not in name and name not in ("tiff", "array"):
            assert np.abs(loaded[..., 2] - wanted / 2).max() <= 1.5, name


def test_a_dark_picture_of_8_bits_stays_dark():
    dark = COLOURS // 16
    for source in (encoded(Image.fromarray(dark)), dark):
        assert np.array_equal(np.asarray(load_image(source)), dark)


def test_an_unused_alpha_channel_hides_nothing():
    alpha = np.zeros((8, 8, 1), np.uint8)
    assert np.array_equal(read(Image.fromarray(np.concatenate([COLOURS, alpha], -1))), COLOURS)


# ---- HEIC


HEIC_START = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40)


def test_heic_without_its_package_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for data in (HEIC_START, HEIC_START.replace(b"mif1\0", b"heic\0")):
        (tmp_path / "IMG_1.HEIC").write_bytes(data)
        with pytest.raises(UnreadableImage, match=r'IMG_1.HEIC.*"essence-transfer\[heif\]"'):
            load_image(tmp_path / "IMG_1.HEIC")


def test_what_only_looks_like_heic_is_no_picture():
    for data in (HEIC_START, b"\0\0\0\x18ftypisom\0\0\0\0isommp42", b"\xff\xff\xff\xffftyp"):
        with pytest.raises(UserError):
            load_image(data)


def test_avif_is_not_taken_for_heic(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    picture = face(0, 64)
    try:
        data = encoded(picture, "AVIF")
    except (KeyError, OSError):
        pytest.skip("Pillow without AVIF")
    assert np.abs(np.asarray(load_image(data), int) - np.asarray(picture, int)).mean() < 4


def test_heic_is_read_where_its_package_is_installed():
    heif = pytest.importorskip("pillow_heif")
    picture, stream = face(0, 128), io.BytesIO()
    try:
        heif.from_pillow(picture).save(stream, quality=90)
    except RuntimeError:
        pytest.skip("libheif without an encoder")
    before = dict(Image.OPEN)
    loaded = np.asarray(load_image(stream.getvalue()), int)
    assert np.abs(loaded - np.asarray(picture, int)).mean() < 2
    assert before == Image.OPEN  # nothing is registered with Pillow behind the host's back
    for end in (40, 400, len(stream.getvalue()) // 2):
        with pytest.raises(UserError):
            load_image(stream.getvalue()[:end])


# ---- faces in the dark, on their side, on their head


def centre_distance(a: align.Square, b: align.Square) -> float:
    """Of two squares, in sides."""
    return float(np.hypot(*np.subtract(a.centre, b.centre)) / a.side)


@pytest.fixture(scope="module")
def person(tmp_path_factory) -> Image.Image:
    """Small, so that all four turns are searched quickly."""
    return load_image(
        photograph(tmp_path_factory.mktemp("person") / "one.png", numbers=(1,), side=80)
    )


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_a_picture_on_its_side_or_head_gives_the_upright_face(person, turn):
    upright = align.locate(person)
    given = faces.turned(person, {90: -90, 180: 180, -90: 90}[turn])
    found = align.locate(given)
    assert (upright.turn, found.turn, found.face_found) == (0, turn, True)
    pairs = ((given, found), (person, upright))
    got, wanted = (np.asarray(align.cut(i, located.pick(), 64), float) for i, located in pairs)
    assert np.abs(got - wanted).mean() < 5
    # Undone by the crop editor's turn, the square stands as the picture came.
    undone = found.pick().nudged(align.Nudge(turn=found.turn))
    assert undone.turn == 0 and abs(undone.across[1]) < 0.1 * undone.across[0]


def test_a_face_that_fills_a_picture_on_its_side_is_found(face_image):
    tight = face_image.crop((128, 128, 384, 384)).transpose(Image.Transpose.ROTATE_90)
    assert align.locate(tight).turn == 90


def test_targets_and_sources_know_that_they_were_turned(person):
    studio = Studio("mini", "cpu")
    on_its_head = faces.turned(person, 180)
    assert studio.target(on_its_head).turn == 180
    (source,) = studio.sources([on_its_head], refine=RefineOptions(steps=0))
    assert source.square.turn == 180


def test_every_face_of_a_picture_on_its_head_is_found(tmp_path):
    two = load_image(photograph(tmp_path / "two.png", (0, 1)))
    upright, given = align.locate(two), faces.turned(two, 180)
    found = align.locate(given)
    assert [square.turn for square in found.squares] == [180, 180]
    for square, other in zip(upright.squares, found.squares, strict=True):
        back = np.subtract(given.size, other.centre)
        assert np.hypot(*(back - square.centre)) < 0.05 * square.side


def test_upright_pictures_are_searched_once(person, monkeypatch):
    searches = []
    search = faces._search
    monkeypatch.setattr(faces, "_search", lambda *a, **k: searches.append(a) or search(*a, **k))
    monkeypatch.setattr(faces, "stretch_contrast", lambda image: pytest.fail("not needed"))
    assert faces.detect(person) and len(searches) == 1


@pytest.mark.parametrize(
    "name, change",
    [
        ("dark", lambda p: p * 0.04),
        ("darker", lambda p: p * 0.025),
        (
            "dark with a lamp",
            lambda p: np.where(np.arange(p.shape[1])[:, None] < 30, 250, p * 0.04),
        ),
        ("fog", lambda p: 128 + (p - 128) * 0.04),
        ("too bright", lambda p: 255 - (255 - p) * 0.04),
    ],
)
def test_faces_are_found_where_there_is_hardly_any_contrast(person, name, change):
    given = Image.fromarray(change(np.asarray(person, float)).round().astype(np.uint8))
    (expected,), (square,) = align.locate(person).squares, align.locate(given).squares
    assert centre_distance(expected, square) < 0.05
    assert abs(square.side / expected.side - 1) < 0.1
    crops = [np.asarray(align.cut(given, each, 64), float) for each in (square, expected)]
    assert np.abs(crops[0] - crops[1]).mean() < 2  # in the picture's own colours


def test_landmarks_in_the_dark_are_those_in_the_light(person):
    (expected,) = align.locate(person).squares
    dark = person.point(lambda level: level // 5)
    (square,) = align.locate(dark).squares
    assert centre_distance(expected, square) < 0.02
    assert abs(square.side / expected.side - 1) < 0.04


def test_stretching_shows_what_is_there():
    flat = Image.fromarray((COLOURS // 20).astype(np.uint8))
    stretched = np.asarray(faces.stretch_contrast(flat), int)
    grey = np.asarray(flat.convert("L"), int)
    assert stretched.min() < 60 and stretched.max() > 190
    order = np.argsort(grey.ravel(), kind="stable")
    assert (np.diff(stretched.ravel()[order]) >= 0).all()
    assert faces.stretch_contrast(Image.new("RGB", (5, 5))).size == (5, 5)


@pytest.mark.parametrize("grain, brightness", [(1, 0.06), (6, 1.0), (20, 0.06)])
def test_noise_shows_no_face_at_a_second_look_either(grain, brightness):
    rng = np.random.default_rng(grain)
    noise = (rng.integers(0, 256, (120 // grain, 160 // grain, 3)) * brightness).astype(np.uint8)
    image = Image.fromarray(noise).resize((160, 120), Image.Resampling.BICUBIC)
    assert faces.detect(image) == []


# ---- on the command line


def test_a_turned_picture_is_told_once(person, tmp_path, capsys):
    for turn, told in ((180, 1), (0, 0)):
        faces.turned(person, turn).save(tmp_path / "face.png")
        words = ["align", "--image", tmp_path / "face.png", "--out", tmp_path / "out.png"]
        assert main([str(word) for word in words]) == 0
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == told
        assert all("face.png was turned by 180°" in line for line in lines)


def test_a_side_that_no_face_is_worth_is_refused_before_the_work(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(align, "detect", lambda image: pytest.fail("work was done"))
    words = ["align", "--image", str(tmp_path / "missing.png"), "--out", str(tmp_path / "out.png")]
    assert main([*words, "--size", "100000"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "100000" in line and "4096" in line and "memory" in line
    for function in (align.align, align.align_all):
        with pytest.raises(UserError, match="100000"):
            function(COLOURS, 100_000)
