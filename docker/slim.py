"""Take out of this Python's packages what a federation never imports, and compile the rest.

Compiled files are marked as always valid, so that no process of the many that a federation starts looks at a file's time.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import sysconfig
from pathlib import Path

UNUSED = (
    "torch/include", "torch/share", "torch/bin/protoc*", "torch/bin/test_*", "torch/test", "torch/lib/*.a",
    "pyarrow/include", "pyarrow/src", "pyarrow/tests", "pyarrow/lib*_flight*", "numpy/**/tests",
    "scipy/**/tests", "pandas/tests", "sklearn/**/tests", "sympy/**/tests", "matplotlib/tests", "mpl_toolkits/**/tests",
    "networkx/**/tests", "matplotlib/mpl-data/sample_data", "uv", "uv-*.dist-info", "../../../bin/uv*",
)  # fmt: skip


def size(root: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir())


def main() -> None:
    """Say what it was, what it is, and which packages are the largest."""
    root = Path(sysconfig.get_path("purelib"))
    before = size(root)
    for pattern in UNUSED:
        for path in sorted(root.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    left = size(root)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(root, quiet=2, workers=os.cpu_count() or 1, invalidation_mode=mode)  # some files are for other Pythons
    print(f"{before / 1e6:.0f} MB of packages, {left / 1e6:.0f} less what is not used, {size(root) / 1e6:.0f} compiled")
    largest = sorted(((size(path), path.name) for path in root.iterdir() if path.is_dir()), reverse=True)[:12]
    print(", ".join(f"{name} {bytes_ / 1e6:.0f}" for bytes_, name in largest))


main()
