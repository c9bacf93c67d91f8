#!/usr/bin/env python
"""The publication's name of test.py, which takes the options of both.

`python inference.py --ckpt_folder ckpts/RUN --pred_root e_preds --testsets DIS-VD+DIS-TE1`. What is
imported as `inference` is the folder beside it.
"""

import runpy
from pathlib import Path

if __name__ == '__main__':
    script = Path(__file__).with_name('test.py')
    runpy.run_path(str(script), run_name='__main__')
