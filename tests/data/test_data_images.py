"""Pictures of every mode arrive as upright 8-bit RGB; those that cannot be read say why."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data.images import MAX_PIXELS, is_image_name, read_image, read_mask, read_rgb_tensor
from bench.errors import DataError

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5  # 0, 5, ..., 235


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def read(content: bytes) -> np.ndarray:
    return np.asarray(read_image(content, "picture"))


def test_grey_becomes_three_equal_channels() -> None:
    pixels = read(encoded(Image.fromarray(RAMP)))
    assert pixels.shape == (6, 8, 3)
    assert (pixels == RAMP[..., None]).all()


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_colour(file_format: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    assert (read(encoded(Image.fromarray(colours), file_format)) == colours).all()


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(file_format: str) -> None:
    pixels = read(encoded(Image.new("RGB", (16, 16), (200, 100, 50)), file_format))
    assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 6


def test_palette_colours_are_looked_up() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (read(encoded(image)) == (10, 20, 30)).all()


def test_palette_with_transparency_warns_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (read(encoded(image, transparency=b"\x00\x80")) == (10, 20, 30)).all()
    assert not recwarn.list


@pytest.mark.parametrize(("mode", "colour", "expected"), [("RGBA", (9, 8, 7, 0), (9, 8, 7)), ("LA", (9, 0), (9, 9, 9))])
def test_alpha_is_dropped_not_blended(mode: str, colour: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert (read(encoded(Image.new(mode, (4, 4), colour))) == expected).all()


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(file_format: str) -> None:
    deep = RAMP.astype(np.uint16) * 257
    assert (read(encoded(Image.fromarray(deep), file_format))[..., 0] == RAMP).all()
    # one rounding step to either side of 100
    near = np.array([[100 * 257 - 129, 100 * 257 - 128, 100 * 257 + 128, 100 * 257 + 129]], dtype=np.uint16)
    assert read(encoded(Image.fromarray(near), file_format))[0, :, 0].tolist() == [99, 100, 100, 101]


def test_one_bit_is_black_and_white() -> None:
    pixels = read(encoded(Image.fromarray(RAMP > 100)))
    assert (pixels[..., 0] == np.where(RAMP > 100, 255, 0)).all()


def test_cmyk_is_converted() -> None:
    pixels = read(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", quality=100))
    assert np.abs(pixels.astype(int) - (0, 255, 255)).max() <= 3


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    pixels = read(encoded(Image.fromarray(RAMP), exif=exif))
    assert (pixels[..., 0] == np.rot90(RAMP, -1)).all()


def test_32_bit_pixels_are_refused() -> None:
    with pytest.raises(DataError, match="32-bit"):
        read(encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"))


def tiff(values: np.ndarray, *, sample_format: int = 1) -> bytes:
    """Made by hand, since Pillow writes no such files."""
    height, width, samples = values.shape
    entries = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 0, 277: samples, 278: height, 279: values.nbytes}
    entries[339] = sample_format
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    for tag, value in sorted(entries.items()):
        pair = samples == 2 and tag in (258, 339)
        number = struct.pack("<HH", value, value) if pair else struct.pack("<I", value)
        head += (
            struct.pack("<HHI", tag, 3 if pair or tag in (258, 259, 262, 277, 339) else 4, 2 if pair else 1) + number
        )
    return head + bytes(4) + values.astype("<u2").tobytes()


def test_a_tiff_of_a_layout_that_cannot_be_read_is_called_one() -> None:
    values = np.arange(2 * 64).reshape(8, 8, 2).astype(np.uint16)
    assert read(tiff(values[..., :1])).shape == (8, 8, 3), "grey of 16 bits can be"
    with pytest.raises(DataError, match="is a TIFF with a layout of pixels that cannot be read"):
        read(tiff(values))  # grey of 16 bits with transparency
    with pytest.raises(DataError, match="signed pixels"):
        read(tiff(values[..., :1], sample_format=2))


def test_a_colour_profile_of_any_size_does_not_count() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    profile = np.random.default_rng(1).bytes(1_500_000)
    assert (read(encoded(Image.fromarray(pixels), icc_profile=profile)) == pixels).all()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_a_truncated_file_is_named(tmp_path: Path, file_format: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), file_format)
    file = tmp_path / "half.png"
    file.write_bytes(content[: max(1, int(len(content) * share))])
    with pytest.raises(DataError, match=r"half\.png.*replace it"):
        read_image(file)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 100, b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^odd\.png is "):
        read_image(content, "odd.png")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*nowhere\.png"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="is no ordinary file"):
        read_image(tmp_path)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("pillow_limit", [Image.MAX_IMAGE_PIXELS, None])
def test_a_huge_image_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch, pillow_limit: int | None
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    with pytest.raises(DataError, match="more than 178 million pixels"):
        read_image(png_that_claims(MAX_PIXELS // 1000 + 1, 1000), "huge.png")
    assert pillow_limit == Image.MAX_IMAGE_PIXELS


def test_a_tensor_is_the_antialiased_picture(tmp_path: Path) -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255  # finer than the result: without antialiasing 0s and 255s remain
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "board.png")
    tensor = read_rgb_tensor(tmp_path / "board.png", 8)
    assert tensor.shape == (3, 8, 8)
    assert tensor.dtype == torch.uint8
    assert ((tensor.int() - 128).abs() < 20).all()


@pytest.mark.parametrize("size", [7, 10, 200])
@pytest.mark.parametrize("where", [(0, 0), (49, 99), (23, 57)])
def test_a_defect_of_one_pixel_survives_any_resizing(size: int, where: tuple[int, int]) -> None:
    mask = np.zeros((50, 100), dtype=np.uint8)
    mask[where] = 1  # some datasets write the kind of defect: 1, 2, ...
    small = read_mask(encoded(Image.fromarray(mask)), "mask", (100, 50), size)
    assert small.shape == (size, size)
    assert small[where[0] * size // 50, where[1] * size // 100]
    # exactly the cells that overlap the pixel, cell i being [i, i + 1) of size
    rows = [i for i in range(size) if i * 50 < (where[0] + 1) * size and (i + 1) * 50 > where[0] * size]
    columns = [i for i in range(size) if i * 100 < (where[1] + 1) * size and (i + 1) * 100 > where[1] * size]
    assert small.nonzero().tolist() == [[row, column] for row in rows for column in columns]


@pytest.mark.parametrize("convert", [lambda m: m, lambda m: m * 255, lambda m: m.astype(np.uint16), lambda m: m > 0])
def test_masks_of_any_depth_mean_the_same(convert: object) -> None:
    mask = (RAMP > 100).astype(np.uint8)
    small = read_mask(encoded(Image.fromarray(convert(mask))), "mask", (8, 6), 6)  # type: ignore[operator]
    assert (small == read_mask(encoded(Image.fromarray(mask)), "mask", (8, 6), 6)).all()


def test_a_mask_of_another_size_than_its_picture_is_refused() -> None:
    with pytest.raises(DataError, match="8x6 pixels and its picture 6x8"):
        read_mask(encoded(Image.fromarray(RAMP)), "mask", (6, 8), 6)


def test_hidden_files_and_other_formats_are_no_pictures() -> None:
    assert is_image_name("a.PNG")
    assert not any(is_image_name(name) for name in ("._a.png", "Thumbs.db", "a.txt", "png"))
