"""Give this interpreter the shape of macOS; Python imports this file at its start.

`__main__.py` puts the folder into PYTHONPATH, so every child process is shaped, too.
"""

import os

import shape_kernel
import shape_lacking
import shape_modules
import shape_names

shape_lacking.remove()
shape_kernel.limit()
shape_names.show_darwin()
shape_modules.show_mac(gpu=os.environ["SDXS_MACOS_SHAPE"] == "gpu")
