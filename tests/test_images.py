from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFile

from essence.errors import OversizedImage, UnreadableImage, UserError
from essence.pictures import grids, loading, tensors

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photograph(width: int = 40, height: int = 30) -> Image.Image:
    """A smooth colour picture with no symmetry."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return Image.fromarray((np.stack([x, y, x * y], -1) * 255).astype(np.uint8))


def header_only_png(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than anything should decode, and that has none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        )

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


# ---- reading


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation):
    upright = photograph()
    back = {v: k for k, v in {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.items()}
    turn = loading.UPRIGHT.get(back.get(orientation))
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[loading.ORIENTATION] = orientation
    for kind in ("PNG", "TIFF"):
        loaded = loading.load_image(encoded(stored, kind, exif=exif))
        assert loaded.size == upright.size and loaded.tobytes() == upright.tobytes()


def test_orientation_of_an_open_image_is_applied_without_touching_it():
    exif = Image.Exif()
    exif[loading.ORIENTATION] = 6
    given = Image.open(io.BytesIO(encoded(photograph(), "JPEG", exif=exif)))
    loaded = loading.load_image(given)
    assert (
        loaded.size == (30, 40)
        and given.size == (40, 30)
        and given.getexif()[loading.ORIENTATION] == 6
    )
    assert loading.load_image(loaded).size == (30, 40)


def test_broken_exif_does_not_refuse_the_picture():
    assert loading.load_image(
        encoded(photograph(), "JPEG", exif=b"Exif\0\0not an exif block")
    ).size == (40, 30)


@pytest.mark.parametrize(
    "mode",
    [
        "1",
        "L",
        "P",
        "RGB",
        "RGBA",
        "LA",
        "CMYK",
        "YCbCr",
        "HSV",
        "LAB",
        "I",
        "F",
        "I;16",
        "La",
        "RGBa",
        "PA",
        "RGBX",
    ],
)
def test_every_mode_becomes_rgb(mode):
    white = Image.new("L", (6, 4), 255)
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 6), 65535, np.uint16))
    elif mode in ("La", "RGBa", "PA"):
        image = white.convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}[mode]).convert(mode)
    else:
        image = white.convert("RGB").convert(mode)
    loaded = loading.load_image(image)
    assert loaded.mode == "RGB" and loaded.size == (6, 4)
    assert np.abs(np.asarray(loaded).astype(int) - 255).max() <= 1


def test_deep_grey_keeps_its_values():
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    for loaded in (
        loading.load_image(encoded(Image.fromarray(ramp))),
        loading.load_image(ramp),
        loading.load_image(Image.fromarray(ramp.astype(np.int32))),
    ):
        assert (np.asarray(loaded)[..., 0] == expected).all()


def test_cmyk_jpeg_keeps_its_colours():
    loaded = loading.load_image(
        encoded(Image.new("RGB", (8, 8), (200, 30, 60)).convert("CMYK"), "JPEG", quality=95)
    )
    assert np.abs(np.asarray(loaded).astype(int) - (200, 30, 60)).max() < 12


def test_transparency_lies_on_white():
    image = Image.new("RGBA", (4, 4), (*RED, 0))
    image.putpixel((0, 0), (*RED, 255))
    image.putpixel((1, 0), (*RED, 128))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([*BLUE, *GREEN])
    palette.putpixel((0, 0), 1)
    loaded = loading.load_image(encoded(image))
    assert [loaded.getpixel((x, 0)) for x in range(3)] == [RED, (255, 127, 127), (255, 255, 255)]
    loaded = loading.load_image(encoded(palette, transparency=0))
    assert loaded.getpixel((0, 0)) == GREEN and loaded.getpixel((1, 1)) == (255, 255, 255)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert loading.load_image(path).getpixel((4, 4)) == RED


def test_arrays_of_every_kind_agree():
    array = np.asarray(photograph())
    assert np.array_equal(np.asarray(loading.load_image(array)), array)
    assert np.array_equal(np.asarray(loading.load_image(array / 255)), array)
    assert np.array_equal(np.asarray(loading.load_image(array.astype(np.uint16) * 257)), array)
    assert (
        np.asarray(loading.load_image(np.eye(3, dtype=bool)))[..., 0].tolist()
        == (np.eye(3) * 255).tolist()
    )
    assert loading.load_image(array[..., :1]).size == (40, 30)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(5),
        np.zeros((0, 4)),
        np.zeros((4, 4, 2)),
        np.full((4, 4), np.nan),
        np.full((4, 4), 200.0),
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), complex),
    ],
)
def test_an_array_that_is_no_picture_says_why(array):
    with pytest.raises(UnreadableImage, match="array"):
        loading.load_image(array)


def test_what_cannot_be_read_is_named(tmp_path):
    jpeg = encoded(photograph(300, 200), "JPEG")
    files = {
        "empty.jpg": b"",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "text.png": b"Dear reader, this is a letter.",
        "cut.png": encoded(photograph(300, 200))[:900],
        "head.jpg": jpeg[:20],
    }
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(UnreadableImage, match=name):
            loading.load_image(path)
        with pytest.raises(UnreadableImage, match="The picture"):
            loading.load_image(data)
    with pytest.raises(UnreadableImage, match="nowhere.jpg"):
        loading.load_image(str(tmp_path / "nowhere.jpg"))
    with pytest.raises(UnreadableImage, match="cannot be opened"):
        loading.load_image(tmp_path)
    with pytest.raises(UnreadableImage, match="int"):
        loading.load_image(3)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_any_broken_file_is_a_users_error():
    """Flipped and missing bytes anywhere give a picture or a `UserError`, never anything else."""
    rng = np.random.default_rng(0)
    whole = [
        encoded(photograph(), kind)
        for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "ICO")
    ]
    for data in whole:
        for _ in range(40):
            broken = bytearray(data)
            for at in rng.integers(0, len(broken), 3):
                broken[at] = rng.integers(256)
            try:
                loaded = loading.load_image(
                    bytes(broken[: rng.integers(1, len(broken) + 1)]), max_pixels=10**6
                )
            except UserError:
                continue
            assert loaded.mode == "RGB"


@pytest.mark.parametrize("side", [9_000, 11_000, 20_000])
def test_an_oversized_picture_is_refused_by_its_header(side, recwarn):
    """Nothing is decoded: this file has no pixels at all, yet the complaint is about the size."""
    with pytest.raises(OversizedImage, match=rf"{side} x {side}.*64 million.*[Ss]hrink"):
        loading.load_image(header_only_png(side, side))
    assert not recwarn.list


def test_the_limit_is_inclusive_and_holds_for_open_images():
    image = photograph()
    assert loading.load_image(image, max_pixels=1200).size == image.size
    for source in (image, encoded(image), np.asarray(image)):
        with pytest.raises(OversizedImage, match="40 x 30"):
            loading.load_image(source, max_pixels=1199)


def test_pillows_own_settings_stay():
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    loading.load_image(encoded(photograph()))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


# ---- PIL and tensors


def test_pictures_survive_the_round_trip():
    picture = photograph()
    tensor = tensors.to_tensor([picture, picture])
    assert tensor.shape == (2, 3, 30, 40) and tensor.dtype == torch.float32
    assert tensor.min() >= -1 and tensor.max() <= 1
    assert [image.tobytes() for image in tensors.to_pil(tensor)] == [picture.tobytes()] * 2
    assert tensors.to_pil(tensor[0]).tobytes() == picture.tobytes()


def test_black_and_white_are_the_ends_of_the_range():
    assert tensors.to_tensor(Image.new("RGB", (2, 2), "black")).eq(-1).all()
    assert tensors.to_tensor(Image.new("L", (2, 2), 255)).eq(1).all()


def test_values_outside_are_clipped_and_nan_is_grey():
    tensor = torch.tensor([-9.0, 9.0, float("nan"), float("inf")]).expand(3, 1, 4).requires_grad_()
    assert tensors.to_uint8(tensor)[0, :, 0].tolist() == [0, 255, 128, 255]


def test_pictures_of_several_sizes_need_a_size():
    pictures = [photograph(40, 30), photograph(20, 50)]
    with pytest.raises(ValueError, match="size"):
        tensors.to_tensor(pictures)
    assert tensors.to_tensor(pictures, 16).shape == (2, 3, 16, 16)


def test_square_crop_is_centred():
    picture = Image.new("RGB", (30, 10), "red")
    picture.paste(BLUE, (10, 0, 20, 10))
    for image in (picture, picture.transpose(Image.Transpose.ROTATE_90)):
        assert tensors.square_crop(image).getcolors() == [(100, BLUE)]


# ---- the grid


def test_grid_puts_every_picture_where_it_belongs():
    a, b, c = (Image.new("RGB", (20, 20), colour) for colour in (RED, GREEN, BLUE))
    sheet = grids.grid([[None, a], [b, c], [b]], cell=10, gap=2, background=(9, 9, 9))
    assert sheet.size == (26, 38)
    pixels = np.asarray(sheet)
    expected = np.full((38, 26, 3), 9, np.uint8)
    for (i, j), colour in {(0, 1): RED, (1, 0): GREEN, (1, 1): BLUE, (2, 0): GREEN}.items():
        expected[2 + 12 * i : 12 + 12 * i, 2 + 12 * j : 12 + 12 * j] = colour
    assert np.array_equal(pixels, expected)


def test_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match="cell"):
        grids.grid([[]])


# ---- resampling


@pytest.mark.parametrize(
    "before, repeat, pool", [(16, 7, 8), (128, 7, 4), (10, 3, 5), (8, 4, 1), (32, 1, 8)]
)
def test_box_is_nearest_upsampling_then_average_pooling(before, repeat, pool):
    picture = torch.rand(2, 3, before, before, dtype=torch.float64)
    long_way = F.avg_pool2d(
        picture.repeat_interleave(repeat, -1).repeat_interleave(repeat, -2), pool
    )
    torch.testing.assert_close(tensors.resample(picture, before * repeat // pool), long_way)


@pytest.mark.parametrize(
    "before, after",
    [((32, 32), (7, 7)), ((7, 9), (20, 31)), ((128, 64), (224, 30)), ((5, 5), (1, 1))],
)
def test_antialias_is_torchs(before, after):
    picture = torch.rand(2, 3, *before, dtype=torch.float64)
    expected = F.interpolate(picture, after, mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(tensors.resample(picture, after, "antialias"), expected)


@pytest.mark.parametrize("kind", ["box", "antialias"])
def test_resampling_keeps_constants_and_passes_gradients(kind):
    picture = torch.full((1, 3, 24, 17), 0.3, requires_grad=True)
    small = tensors.resample(picture, (10, 9), kind)
    torch.testing.assert_close(small, torch.full((1, 3, 10, 9), 0.3))
    small.sum().backward()
    torch.testing.assert_close(picture.grad.sum(), torch.tensor(3 * 90.0))
    assert (picture.grad > 0).all()


def test_resampling_to_the_same_size_changes_nothing():
    picture = torch.rand(1, 3, 8, 8)
    assert torch.equal(tensors.resample(picture, 8), picture)


def test_a_matrix_first_made_in_inference_mode_still_serves_training():
    tensors._resampling_matrix.cache_clear()
    with torch.inference_mode():
        tensors.resample(torch.rand(1, 3, 11, 11), 5)
    picture = torch.rand(1, 3, 11, 11, requires_grad=True)
    tensors.resample(picture, 5).square().sum().backward()
    assert picture.grad.isfinite().all()


def test_unknown_resampling_is_refused():
    with pytest.raises(ValueError, match="bicubic"):
        tensors.resample(torch.rand(1, 3, 8, 8), 4, "bicubic")
