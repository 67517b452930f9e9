"""Runs a script with the gradkern of a folder instead of the installed one.

    python tests/run_with_package.py FOLDER SCRIPT [ARGUMENT ...]

For builds that cannot be installed beside the normal one: with AddressSanitizer (`make fuzz`).
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    folder, script, *arguments = sys.argv[1:]
    # An editable install finds its package before sys.path is asked.
    sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
    sys.path.insert(0, str(Path(script).resolve().parent))
    sys.path.insert(0, str(Path(folder).resolve()))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
