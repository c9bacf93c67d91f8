"""What is said of files that are called images and are none."""

import os

import numpy as np
import pytest

from data.checks import check_images
from evaluation.files import File, Folder
from evaluation.inputs import read_header
from inference.images import decode_image
from readers import read_bytes, read_image
from tests.readers.files import saved

RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize(('data', 'reason'), [
    (b'', 'the file is empty'),
    (b'x', 'the file is cut off after 1 bytes'),
    (b'\x89PNG\r\n\x1a\n', 'PNG: the file is cut off'),
    (b'GIF89a\x01\0', 'GIF: the file is cut off'),
    (b'\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01', 'JPEG: Truncated File Read'),
    (saved(RGB, 'WEBP')[:-300], 'the file is cut off'),
    (saved(RGB, 'TIFF')[:8], 'the file is cut off'),
    (bytes(5000), 'nothing but zeros, as an interrupted copy leaves'),
    (b'<!DOCTYPE html>\n<title>Sign in</title>', 'a web page, as sites send'),
    (b'\n<html>404', 'a web page'),
    (b'{"error":\n "no access"}', "a text: '{\"error\": \"no access\"}'"),
    ('\ufeffnicht gefunden, schade'.encode(), "a text: 'nicht gefunden, schade'"),
    (('x' + 200 * '\u6d4b').encode(), "a text: 'x\u6d4b"),
    (b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a', 'a pointer of Git LFS'),
    (b'PK\3\4' + bytes(range(128, 160)), 'a zip archive'),
    (saved(RGB).replace(b'\r\n', b'\n'), 'a PNG damaged by a conversion of line ends'),
    (b'%PDF-1.4\n', 'a PDF'),
    (b'\xff\x0a' + bytes(range(99)), 'JPEG XL'),
    (b'FUJIFILMCCD-RAW 0201', 'a raw photograph'),
    (b'\0\0\0\x20ftypisom' + bytes(range(99)), r'a video \(MP4 or MOV\)'),
    (bytes(range(128, 160)), 'of no known format'),
])
def test_a_file_that_is_no_image(data, reason):
    with pytest.raises(ValueError, match=f'image data: unreadable image \\({reason}'):
        read_image(data)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes with a name')
def test_pipes_and_devices_among_images_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.png')
    (tmp_path / 'device.png').symlink_to('/dev/zero')
    (tmp_path / 'link.png').symlink_to('pipe.png')
    for name in ('pipe.png', 'device.png', 'link.png'):
        for read in (read_bytes, lambda path: check_images([path]), read_header_in_place):
            with pytest.raises(ValueError, match=f'{name}: a pipe, a device or a socket'):
                read(tmp_path / name)


def read_header_in_place(path):
    return read_header(File(Folder(path.parent), path.name, 0, 0))


@pytest.mark.skipif(not os.path.isdir('/dev/fd'), reason='needs /dev/fd')
def test_what_a_command_prints_is_read_once():
    """As of a shell's <(command), whose pipe holds everything once."""
    reader, writer = os.pipe()
    with os.fdopen(writer, 'wb') as file:
        file.write(saved(RGB))
    assert np.array_equal(decode_image(f'/dev/fd/{reader}').pixels, RGB)
    os.close(reader)
