"""Reading pictures and masks from files that anybody may have written.

Whatever its mode, a picture becomes 8-bit RGB:
- grey, palette, 1-bit, CMYK and YCbCr are converted; 16-bit grey is scaled from 0..65535, or from the bit depth that
  the user names (never clipped, and never stretched to the range that the picture happens to use, which would change
  its brightness);
- an alpha channel is dropped, not blended: that is what `convert("RGB")` does in every detector's own loader;
- EXIF orientation is applied; of a file with several frames the first counts.
"""

import io
import warnings
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional as F

from bench.errors import DataError
from detectors.files import OddFileError, read_ordinary

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MASK_EXTENSIONS = frozenset({".png", ".bmp", ".tif", ".tiff"})  # lossless: JPEG's ringing would count as a defect
MAX_BYTES = 1 << 30  # six bytes for each of `MAX_PIXELS`
MAX_PIXELS = 178_956_970  # where Pillow, by default, stops opening files by itself
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # and those for more than 4 GB
# A closed list: Pillow would hand some other formats (EPS) to external programs, whatever the file's extension says.
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as a picture; hidden files (macOS leaves `._000.png`) do not."""
    return not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS


@dataclass(frozen=True)
class Header:
    """What a picture file says before its pixels: format ("PNG"), Pillow's mode ("L"), pixels as stored, and whether it
    has 16 bits per channel."""

    format: str
    mode: str
    width: int
    height: int
    is_deep: bool


def header_of(content: bytes) -> Header | None:
    """Nothing is decoded; None where this is no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(_without_text(content)), formats=_FORMATS)
            return Header(image.format or "", image.mode, image.width, image.height, _is_deep(image))
    except Exception:  # see `_decode`, which says what is wrong
        return None


def read_image(source: bytes | str | Path, name: str | None = None, bits: int | None = None) -> Image.Image:
    """One picture as 8-bit RGB, upright, at its own size.

    `source` is a path or the bytes of a file; `name` is what error messages call it. `bits`: the depth of what 16-bit
    grey files hold, whose values are then scaled from 0..2^bits - 1.
    Raises DataError where it is missing, empty, cut off, no image, too large, of 32-bit pixels, or of more than `bits`.
    """
    name = name or ("the image" if isinstance(source, bytes) else str(source))
    content = source if isinstance(source, bytes) else read_bytes(Path(source))
    image, file_format = _decode(content, name)
    if bits is not None and not _is_16_bit_grey(image.mode, file_format) and _has_deep_colours(content):
        raise DataError(
            f"{name} has 16-bit colours, of which only the upper 8 bits are read, so --bit-depth cannot be applied: "
            "save the pictures with 8 bits per colour, scaled as they should be."
        )
    try:
        return _to_rgb(image, file_format, name, bits)
    except ValueError as error:  # a mode that Pillow cannot convert (LAB)
        raise DataError(f"{name} has colours that cannot be turned into RGB ({error}): save it as RGB.") from error


def read_bytes(file: Path | Traversable, most: int | None = None) -> bytes:
    """A file's content; DataError, naming it, where it is missing, cannot be read, is no ordinary file (reading a named
    pipe would wait for ever), or has more than `most` bytes, which are as many as any picture has unless it is said."""
    try:
        return read_ordinary(file, most or MAX_BYTES) if isinstance(file, Path) else file.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"There is no file {file}: check the path.") from error
    except OddFileError as error:
        raise DataError(f"{file} is {error.strerror}: replace it, or take it out of the folder.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): check that it is a file you may read.") from error


def resize(image: Image.Image, size: int) -> torch.Tensor:
    """uint8 (3, size, size) of an RGB picture; the aspect ratio is not kept, as is usual in anomaly detection.

    Bilinear with Pillow's antialiasing: it cannot overshoot, so nothing is clipped, unlike with Lanczos or bicubic.
    """
    small = image.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def read_rgb_tensor(path: str | Path, size: int, bits: int | None = None) -> torch.Tensor:
    """uint8 (3, size, size) of the picture at `path`, prepared exactly as a dataset's; DataError as `read_image`."""
    return resize(read_image(path, bits=bits), size)


def greatest_16_bit_value(content: bytes, name: str) -> int:
    """The greatest value of a picture with 16 bits per channel, 0 to 65535; of 16-bit colours only the upper 8 bits are
    known, so it is a multiple of 257. DataError as `read_image`."""
    image, file_format = _decode(content, name)
    if _is_16_bit_grey(image.mode, file_format):
        return int(np.asarray(image).max())
    return 257 * int(np.asarray(image.convert("RGB")).max())


def read_mask(content: bytes, name: str, image_size: tuple[int, int], size: int) -> torch.Tensor:
    """bool (size, size), True = defective, of a mask in which every pixel that is not black is defective.

    A cell is defective as soon as it overlaps one defective pixel, so that a tiny defect does not vanish.
    Raises DataError where the mask cannot be read, or is not as large as its picture, `image_size` (width, height).
    """
    defective = read_defective(content, name)
    height, width = defective.shape
    if (width, height) != image_size:
        raise DataError(
            f"The mask {name} has {width}x{height} pixels and its picture {image_size[0]}x{image_size[1]}: "
            "give them the same size, or take away the folder ground_truth to go without masks."
        )
    pixels = torch.from_numpy(defective.astype(np.float32))
    return F.adaptive_max_pool2d(pixels[None, None], size)[0, 0] > 0


def read_defective(content: bytes, name: str) -> NDArray[np.bool_]:
    """bool (height, width) of a mask at its own size: what is not black. DataError as `read_image`."""
    mask, _ = _decode(content, name)
    deep = mask.mode in ("I", "F") or mask.mode.startswith("I;16")
    values = np.asarray(mask) if deep else np.asarray(_to_rgb(mask, "", name)).max(axis=2)
    return np.asarray(values != 0)


def _without_text(content: bytes) -> bytes:
    """A PNG without its text and its colour profile, of which Pillow refuses more than a megabyte, whatever the picture
    is worth (nobody here looks at either); anything else as it is."""
    if not content.startswith(_PNG):
        return content
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(content[at:end])
        at = end
    return b"".join(kept)


def _decode(content: bytes, name: str) -> tuple[Image.Image, str]:
    """The upright picture in its own mode, and the format of its file."""
    if not content:
        raise DataError(f"{name} is an empty file: replace it, or take it out of the folder.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on size, our limit decides; on odd metadata, nobody would act
            image = Image.open(io.BytesIO(_without_text(content)), formats=_FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            return ImageOps.exif_transpose(image), image.format or ""
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} has more than {MAX_PIXELS // 10**6} million pixels: scale it down first.") from error
    except UnidentifiedImageError as error:
        if content.startswith(_TIFF):
            raise DataError(
                f"{name} is a TIFF with a layout of pixels that cannot be read (or with a damaged head): save it as "
                "PNG, or as TIFF with 8 bits per channel, or with 16 bits and grey alone."
            ) from error
        raise DataError(
            f"{name} is not a PNG, JPEG, BMP, TIFF or WebP image: replace it, or take it out of the folder."
        ) from error
    except Exception as error:  # on broken files Pillow's decoders raise whatever they stumble over
        raise DataError(f"{name} is damaged ({error}): replace it, or take it out of the folder.") from error


def _is_16_bit_grey(mode: str, file_format: str) -> bool:
    return mode.startswith("I;16") or (mode == "I" and file_format == "PNG")  # older Pillow: 16-bit PNG is "I"


def _has_deep_colours(content: bytes) -> bool:
    header = header_of(content)
    return header is not None and header.is_deep


def _is_deep(image: Image.Image) -> bool:
    """Of a file that was opened and not loaded. Pillow turns 16-bit colours into 8 bits; only the decoder's arguments
    say where they come from."""
    if _is_16_bit_grey(image.mode, image.format or ""):
        return True
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _to_rgb(image: Image.Image, file_format: str, name: str, bits: int | None = None) -> Image.Image:
    if _is_16_bit_grey(image.mode, file_format):
        grey = np.asarray(image).astype(np.uint32)
        if bits is not None:
            top, greatest = 2**bits - 1, int(grey.max())
            if greatest > top:
                raise DataError(
                    f"{name} holds the value {greatest}, more than the {top} of --bit-depth {bits}: give the depth of "
                    "the camera, or leave the option out for pictures that use all 16 bits."
                )
            return Image.fromarray(((grey * 255 + top // 2) // top).astype(np.uint8)).convert("RGB")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")  # 65535 / 257 = 255
    if image.mode in ("I", "F"):
        raise DataError(
            f"{name} has 32-bit or signed pixels, whose range nothing defines: save it with 8 bits, "
            "or with 16 and without a sign."
        )
    if image.mode in ("P", "PA"):  # straight to RGB, Pillow warns about transparent palette entries
        image = image.convert("RGBA")
    return image.convert("RGB")
