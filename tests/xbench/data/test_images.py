import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xbench.data import images
from xbench.errors import BrokenSample

LEFT, RIGHT = (200, 40, 90), (10, 120, 230)


def two_colours(width=8, height=4):
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = LEFT, RIGHT
    return pixels


def saved(picture, path, **options):
    picture.save(path, **options)
    return path


def rgb(path, **options):
    found = images.read(path, **options)
    assert found.dtype == torch.uint8
    assert found.ndim == 3
    assert found.shape[0] == 3
    assert images.size(path, **options) == found.shape[-2:]
    return found.permute(1, 2, 0).numpy()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path, width, height, bits, colour, rows, *extra):
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.ppm", "a.tif", "a.webp"])
def test_plain_colours_of_every_lossless_format(tmp_path, name):
    path = saved(Image.fromarray(two_colours()), tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    assert (rgb(path) == two_colours()).all()
    assert path.suffix in images.SUFFIXES


def test_jpeg_as_pillow_decodes_it(tmp_path):
    path = saved(Image.fromarray(two_colours(32, 16)), tmp_path / "a.JPEG")
    assert (rgb(path) == np.array(Image.open(path).convert("RGB"))).all()


def test_grey_has_three_equal_channels(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (rgb(saved(Image.fromarray(grey), tmp_path / "a.png")) == grey[..., None]).all()


def test_one_bit_is_black_and_white(tmp_path):
    path = saved(Image.fromarray(np.eye(5) > 0), tmp_path / "a.png")
    assert Image.open(path).mode == "1"
    assert (rgb(path) == (np.eye(5, dtype=np.uint8) * 255)[..., None]).all()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, name):
    grey = np.array([[0, 128, 129, 257], [32768, 25700, 65406, 65535]], np.uint16)
    path = saved(Image.fromarray(grey), tmp_path / name)
    assert rgb(path)[..., 0].tolist() == [[round(int(v) / 257) for v in row] for row in grey]
    assert (np.array(Image.open(path).convert("RGB")) != rgb(path)).any()


def test_sixteen_bit_grey_with_a_transparent_value(tmp_path):
    rows = b"".join(b"\0" + struct.pack(">2H", *row) for row in [(500, 25700), (25700, 501)])
    path = png(tmp_path / "a.png", 2, 2, 16, 0, rows, (b"tRNS", struct.pack(">H", 500)))
    assert rgb(path)[..., 0].tolist() == [[255, 100], [100, 2]]


def test_palette(tmp_path):
    picture = Image.fromarray(two_colours()).quantize(4)
    assert (rgb(saved(picture, tmp_path / "a.png")) == two_colours()).all()
    assert (rgb(saved(picture, tmp_path / "a.gif")) == two_colours()).all()


@pytest.mark.parametrize("transparency", [b"\xff\x00", 1])
def test_transparent_colours_of_a_palette_become_white(tmp_path, transparency):
    picture = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    picture.putpalette([*LEFT, *RIGHT])
    path = saved(picture, tmp_path / "a.png", transparency=transparency)
    white = (255, 255, 255)
    assert rgb(path).tolist() == [[list(LEFT), list(white)], [list(white), list(LEFT)]]


def test_alpha_is_composited_over_white(tmp_path):
    pixels = np.array([[[200, 40, 90, 255], [200, 40, 90, 0], [200, 40, 90, 51]]], np.uint8)
    expected = [[list(LEFT), [255, 255, 255], [round(c * 0.2 + 255 * 0.8) for c in LEFT]]]
    assert rgb(saved(Image.fromarray(pixels), tmp_path / "a.png")).tolist() == expected
    grey = np.array([[[100, 255], [100, 0]]], np.uint8)
    assert rgb(saved(Image.fromarray(grey, "LA"), tmp_path / "b.png"))[..., 0].tolist() == [[100, 255]]


def test_a_key_colour_is_transparent(tmp_path):
    path = saved(Image.fromarray(two_colours()), tmp_path / "a.png", transparency=LEFT)
    assert (rgb(path)[:, :4] == 255).all()
    assert (rgb(path)[:, 4:] == RIGHT).all()


def cmyk_jpeg(path, ink):
    """Written by Pillow in Adobe's way: inverted, with Adobe's marker."""
    return saved(Image.new("CMYK", (16, 16), ink), path, quality=100)


def test_cmyk_jpeg_is_not_a_negative(tmp_path):
    path = cmyk_jpeg(tmp_path / "a.jpg", (0, 255, 255, 0))  # magenta and yellow ink: red
    assert b"Adobe" in path.read_bytes()
    assert np.abs(rgb(path).astype(int) - (255, 0, 0)).max() <= 2


def test_ycck_jpeg(tmp_path):
    """The same bytes with Adobe's transform flag set to YCCK: what was ink is now luminance and chroma, and key."""
    luminance, blue, red = 76, 85, 255  # of (255, 0, 0)
    path = cmyk_jpeg(tmp_path / "a.jpg", (255 - luminance, 255 - blue, 255 - red, 0))
    data = bytearray(path.read_bytes())
    flag = data.index(b"Adobe") + 11
    assert data[flag] == 0
    data[flag] = 2
    path.write_bytes(bytes(data))
    # libjpeg turns YCC into inks, 255 - RGB, as Adobe stores them inverted: ink C = 255 is stored as 0
    stored = 255 - np.array([255, 0, 0])
    assert np.abs(rgb(path).astype(int) - stored).max() <= 3
    assert (rgb(path) == np.array(Image.open(path).convert("RGB"))).all()


def oriented(path, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(pixels), path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_exif_orientation(tmp_path, orientation, name):
    """Against the definition: which side of the scene the stored first row and first column are."""
    scene = np.arange(24, dtype=np.uint8).reshape(4, 6)[..., None].repeat(3, axis=2) * 10
    stored = {
        1: scene,
        2: scene[:, ::-1],  # row 0 is the top, column 0 the right
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.transpose(1, 0, 2),  # row 0 is the left, column 0 the top
        6: scene.transpose(1, 0, 2)[::-1],  # row 0 is the right, column 0 the top
        7: scene.transpose(1, 0, 2)[::-1, ::-1],
        8: scene.transpose(1, 0, 2)[:, ::-1],  # row 0 is the left, column 0 the bottom
    }[orientation]
    path = tmp_path / name
    exif = Image.Exif()
    exif[0x0112] = orientation
    saved(Image.fromarray(np.ascontiguousarray(stored)), path, exif=exif, **({"lossless": True} if path.suffix == ".webp" else {}))
    assert (rgb(path) == scene).all()
    assert (rgb(path, upright=False) == stored).all()
    assert images.turned(path) == (orientation != 1)


def test_exif_orientation_of_jpeg_and_tiff(tmp_path):
    stored = two_colours(16, 8)
    for name in ("a.jpg", "a.tif"):
        path = oriented(tmp_path / name, stored, 6)
        assert rgb(path).shape == (16, 8, 3)
        assert np.abs(rgb(path)[0].astype(int) - LEFT).max() < 30
        assert np.abs(rgb(path)[-1].astype(int) - RIGHT).max() < 30
    assert rgb(tmp_path / "a.jpg", upright=False).shape == (8, 16, 3)
    assert rgb(tmp_path / "a.tif", upright=False).shape == (16, 8, 3)  # Pillow turns them itself


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    path = saved(Image.fromarray(two_colours()), tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert rgb(path).shape == (4, 8, 3)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.tif", "a.png"])
def test_first_frame_of_many(tmp_path, name):
    frames = [Image.new("RGB", (6, 4), colour) for colour in (LEFT, RIGHT, (0, 0, 0))]
    path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
    assert Image.open(path).n_frames == 3
    assert np.abs(rgb(path).astype(int) - LEFT).max() <= 4


def test_one_pixel(tmp_path):
    assert rgb(saved(Image.new("RGB", (1, 1), LEFT), tmp_path / "a.png")).tolist() == [[list(LEFT)]]


def test_hundred_megapixels_without_a_warning(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    path = saved(Image.new("1", (10_000, 10_000), 1), tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.size(path) == (10_000, 10_000)
        found = images.read(path)
    assert found.shape == (3, 10_000, 10_000)
    assert int(found[:, ::1000, ::1000].min()) == 255
    assert limit == Image.MAX_IMAGE_PIXELS


def test_above_the_limit_is_refused_before_decoding(tmp_path):
    path = png(tmp_path / "a.png", 20_000, 10_001, 8, 0, b"")
    for reader in (images.read, images.size):
        with pytest.raises(BrokenSample, match=r"a\.png has 20000 x 10001 pixels, more than 200,000,000; scale it down"):
            reader(path)
    assert images.size(png(tmp_path / "b.png", 20_000, 10_000, 8, 0, b"")) == (10_000, 20_000)


def test_pillows_limit_comes_back_whatever_threads_do(tmp_path):
    limit, seen = Image.MAX_IMAGE_PIXELS, []
    path = saved(Image.fromarray(two_colours()), tmp_path / "a.png")

    def hold(seconds):
        with images.opened(path):
            time.sleep(seconds)
            seen.append(Image.MAX_IMAGE_PIXELS)

    threads = [threading.Thread(target=hold, args=(s,)) for s in (0.01, 0.03, 0.05)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [None] * 3
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.webp"])
def test_truncated(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BrokenSample, match=rf"^picture .*{name} .*$"):
        images.read(path)


def test_a_truncated_jpeg_still_has_a_size(tmp_path):
    path = saved(Image.fromarray(two_colours(64, 48)), tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes()[:-20])
    assert images.size(path) == (48, 64)
    with pytest.raises(BrokenSample, match="truncated"):
        images.read(path)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_picture_whatever_its_name(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for reader in (images.read, images.size):
        with pytest.raises(BrokenSample, match=r"a\.jpg is none of JPEG, .*; convert or remove it"):
            reader(path)


def test_a_folder_and_a_missing_file(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(BrokenSample, match=r"x\.jpg cannot be read \(Is a directory\)"):
        images.read(tmp_path / "x.jpg")
    with pytest.raises(BrokenSample, match=r"y\.jpg cannot be read \(No such file or directory\)"):
        images.size(tmp_path / "y.jpg")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = saved(Image.fromarray(two_colours()), tmp_path / "a.png")

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # root, whom containers run as, may read everything
    with pytest.raises(BrokenSample, match=r"a\.png cannot be read \(Permission denied\)"):
        images.read(path)


def test_pixels_of_unknown_white_are_refused(tmp_path):
    floats = saved(Image.fromarray(np.ones((2, 2), np.float32)), tmp_path / "a.tif")
    with pytest.raises(BrokenSample, match=r"a\.tif has floating-point pixels"):
        images.read(floats)
    integers = saved(Image.fromarray(np.full((2, 2), 70_000, np.int32)), tmp_path / "b.tif")
    with pytest.raises(BrokenSample, match=r"b\.tif has 32-bit integers"):
        images.read(integers)


def test_every_error_is_one_line(tmp_path, monkeypatch):
    path = saved(Image.fromarray(two_colours()), tmp_path / "a.png")

    def fail(*_):
        raise ValueError("first\nsecond")

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(BrokenSample, match=r"a\.png cannot be read \(ValueError: first second\); replace or remove it$"):
        images.read(path)


def test_lack_of_memory_is_no_broken_picture(tmp_path, monkeypatch):
    path = saved(Image.fromarray(two_colours()), tmp_path / "a.png")

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(MemoryError):
        images.read(path)
