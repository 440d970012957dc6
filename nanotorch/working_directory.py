"""Imported first: no file that lies in the working directory is run because of its name.

`python -m nanotorch` puts the working directory before all others, as Python does for every `-m`.
Somebody else's files may lie there, as `json.py`, or `cupy.py` where CuPy is not installed.
"""

import os
import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # while the package is looked for
    _place = sys.path.pop(0)
    if os.path.dirname(os.path.dirname(__file__)) == _place:
        sys.path.append(_place)  # a checkout, in which the package itself was found
