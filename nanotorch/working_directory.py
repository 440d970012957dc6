"""Imported first: what a program finds in the working directory must hide no installed module.

`python -m nanotorch` puts the working directory before all others, as Python does for every `-m`.
There may lie somebody else's files, such as a `json.py`.
"""

import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:  # while the package is looked for
    sys.path.append(sys.path.pop(0))
