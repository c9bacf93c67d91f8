"""What rembg makes of an ONNX file, in rembg's own environment: `python rembg_mask.py PHOTO MASK`.

Its home variable says where the file is; nothing of this project is imported.
"""

import sys

from PIL import Image
from rembg import new_session, remove

session = new_session('birefnet-general', providers=['CPUExecutionProvider'])
remove(Image.open(sys.argv[1]), session=session, only_mask=True).save(sys.argv[2])
