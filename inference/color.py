"""Colours that images are encoded in: ICC profiles, and the chunks of PNG that stand for one."""

import io
import struct
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageCms

from inference.masks import png_chunk
from readers.metadata import PNG_COLOURS, PNG_START, png_chunks

END_OF_HEADER = len(PNG_START) + 25  # of the chunk IHDR, which comes first
HEIF_BOX = b'ftyp'  # of HEIC and AVIF, behind four bytes
HEIF_BYTES = 1 << 16  # at the start of a file, among which its properties are
Chunks = tuple[tuple[bytes, bytes], ...]  # names and contents

# CIE xy of white, red, green and blue, by the numbers of ITU-T H.273.
D65 = (.3127, .3290)
BT709 = (*D65, .64, .33, .30, .60, .15, .06)
PRIMARIES = {
    1: BT709,
    5: (*D65, .64, .33, .29, .60, .15, .06),  # BT.601, 625 lines
    6: (*D65, .63, .34, .31, .595, .155, .07),  # BT.601, 525 lines
    9: (*D65, .708, .292, .170, .797, .131, .046),  # BT.2020
    12: (*D65, .680, .320, .265, .690, .150, .060),  # Display P3
}
LINEAR, SRGB, PQ, HLG = 8, 13, 16, 18  # transfer functions of ITU-T H.273
GAMMAS = {4: 2.2, 5: 2.8, LINEAR: 1.}
REFERENCE_WHITE = 203  # candelas per square metre, of HDR video (ITU-R BT.2408)

D50 = np.array([.9642, 1, .8249])  # as profiles must have it
BRADFORD = np.array([[.8951, .2664, -.1614], [-.7502, 1.7135, .0367], [.0389, -.0685, 1.0296]])
CURVE_POINTS = 1024
LIKE_SRGB = .05  # libpng's tolerance: nearer exponents are meant as sRGB's


def from_srgb(pixels: np.ndarray, profile: bytes | None) -> np.ndarray:
    """Converts RGB pixels, uint8 (H, W, 3), from sRGB to a profile; unchanged without one."""
    return _transform(pixels, profile, to_srgb=False)


def to_srgb(pixels: np.ndarray, profile: bytes | None) -> np.ndarray:
    """Converts RGB pixels, uint8 (H, W, 3), from a profile to sRGB; unchanged without one."""
    return _transform(pixels, profile, to_srgb=True)


def _transform(pixels: np.ndarray, profile: bytes | None, to_srgb: bool) -> np.ndarray:
    if profile is None:
        return pixels
    srgb = ImageCms.createProfile('sRGB')
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        start, end = (own, srgb) if to_srgb else (srgb, own)
        image = ImageCms.profileToProfile(Image.fromarray(pixels), start, end, outputMode='RGB')
    except (ImageCms.PyCMSError, OSError):  # damaged, or for one direction alone
        return pixels
    return np.asarray(image)


# --- PNG ------------------------------------------------------------------------------------------


def color_chunks(data: bytes) -> Chunks:
    """Returns what a file says of its colours as chunks of a PNG.

    Of a PNG they are its own, without damaged ones; of HEIC and AVIF they stand for their code of
    the colours, where these are not sRGB and no profile describes them.
    """
    if data[4:8] == HEIF_BOX:
        return _chunks_of_heif(data[:HEIF_BYTES])
    if not data.startswith(PNG_START):
        return ()
    found = []
    for name, start, end in png_chunks(data):
        if name == b'IDAT':
            break
        if PNG_COLOURS.get(name) == end - start:
            found.append((name, data[start:end]))
    return tuple(found)


def _chunks_of_heif(header: bytes) -> Chunks:
    has_profile = b'colrprof' in header or b'colrrICC' in header
    _, _, code = header.partition(b'colrnclx')
    if has_profile or len(code) < 4:
        return ()
    primaries, transfer = struct.unpack_from('>2H', code)
    if max(primaries, transfer) > 255:
        return ()
    content = bytes([primaries, transfer, 0, 1])  # RGB of the full range
    return ((b'cICP', content),) if _profile_of_cicp(content) else ()


def with_chunks(data: bytes, chunks: Chunks) -> bytes:
    """Inserts chunks into a PNG file, where they have to be: before the palette and the pixels."""
    inserted = b''.join(png_chunk(name, content) for name, content in chunks)
    return data[:END_OF_HEADER] + inserted + data[END_OF_HEADER:]


def profile_of_chunks(chunks: Chunks, profile: bytes | None) -> bytes | None:
    """Returns an ICC profile for a PNG's pixels, in the order that the PNG specification sets.

    Args:
        chunks: from `color_chunks`.
        profile: the file's own ICC profile.

    Returns:
        The profile; None for sRGB, and where the chunks are damaged or of an unknown kind.
    """
    contents = dict(chunks)
    try:
        if b'cICP' in contents:
            return _profile_of_cicp(contents[b'cICP'])
        if profile is not None or b'sRGB' in contents:
            return profile
        return _profile_of_gamma(contents)
    except (struct.error, ValueError, ZeroDivisionError):  # ValueError: also of numpy.linalg
        return profile


def _profile_of_cicp(content: bytes) -> bytes | None:
    primaries, transfer, _, _ = struct.unpack('4B', content)
    is_srgb = primaries == 1 and transfer in (1, SRGB)
    if is_srgb or primaries not in PRIMARIES:
        return None
    return build_profile(PRIMARIES[primaries], _curve(transfer))


def _profile_of_gamma(contents: Mapping[bytes, bytes]) -> bytes | None:
    points, curve = BT709, _curve(SRGB)
    if b'cHRM' in contents:
        points = tuple(value / 100_000 for value in struct.unpack('>8I', contents[b'cHRM']))
    is_like_srgb = True
    if b'gAMA' in contents:
        exponent = 100_000 / struct.unpack('>I', contents[b'gAMA'])[0]
        is_like_srgb = abs(exponent / 2.2 - 1) < LIKE_SRGB
        if not is_like_srgb:
            curve = np.linspace(0, 1, CURVE_POINTS) ** exponent
    if is_like_srgb and np.allclose(points, BT709, atol=.002):
        return None
    return build_profile(points, curve)


def _curve(transfer: int) -> np.ndarray:
    """Light, 0..1, at equally spaced values. That above HDR's reference white is cut off."""
    x = np.linspace(0, 1, CURVE_POINTS)
    if transfer in GAMMAS:
        return x ** GAMMAS[transfer]
    if transfer == PQ:  # SMPTE ST 2084
        root = x ** (32 / 2523)
        light = np.maximum(root - .8359375, 0) / (18.8515625 - 18.6875 * root)
        return np.minimum(light ** (8192 / 1305) * 10_000 / REFERENCE_WHITE, 1)
    if transfer == HLG:  # ITU-R BT.2100, where the reference white has the value 0.75
        bright = (np.exp((x - .55991073) / .17883277) + .28466892) / 12
        light = np.where(x <= .5, x ** 2 / 3, bright)
        white = np.interp(.75, x, light)
        return np.minimum(light / white, 1) ** 1.2
    return np.where(x <= .04045, x / 12.92, ((x + .055) / 1.055) ** 2.4)


# --- ICC ------------------------------------------------------------------------------------------


def build_profile(points: tuple[float, ...], curve: np.ndarray) -> bytes:
    """Builds an ICC profile (ICC.1:2001, a display with a matrix and one curve).

    Args:
        points: CIE x and y of white, red, green and blue, eight numbers.
        curve: light, 0..1, at equally spaced values of a channel.
    """
    text = b'RGB\0'
    description = struct.pack('>4s4xI', b'desc', len(text)) + text + bytes(78)
    levels = np.rint(curve * 65_535).astype('>u2').tobytes()
    curve_tag = struct.pack('>4s4xI', b'curv', len(curve)) + levels
    tags = {b'desc': description, b'cprt': b'text' + bytes(4) + b'none\0', b'wtpt': _xyz(D50)}
    colorants = _adapted_colorants(points)
    for index, letter in enumerate(b'rgb'):
        tags[bytes([letter]) + b'XYZ'] = _xyz(colorants[:, index])
        tags[bytes([letter]) + b'TRC'] = curve_tag

    table = struct.pack('>I', len(tags))
    offset = 128 + len(table) + 12 * len(tags)
    body = b''
    for name, content in tags.items():
        table += struct.pack('>4sII', name, offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(
        '>I4xI4s4s4s12x4s28x12s48x',
        offset + len(body), 0x02400000, b'mntr', b'RGB ', b'XYZ ', b'acsp', _xyz(D50)[8:])
    return header + table + body


def _xyz(values: np.ndarray) -> bytes:
    fixed = [round(65_536 * value) for value in values]
    return struct.pack('>4s4x3i', b'XYZ ', *fixed)


def _adapted_colorants(points: tuple[float, ...]) -> np.ndarray:
    """XYZ of red, green and blue, in columns, for an eye that is used to D50."""
    x, y = np.reshape(points, (4, 2)).T
    if not y.all():
        raise ValueError(f'{points} are no chromaticities')
    xyz = np.array([x / y, np.ones(4), (1 - x - y) / y])
    white, colors = xyz[:, 0], xyz[:, 1:]
    colors = colors * np.linalg.solve(colors, white)
    scale = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
    return np.linalg.solve(BRADFORD, scale @ BRADFORD @ colors)
