"""Builds the C kernel into a shared library, where there is a compiler; knows nothing of torch, so
that the package's build can use it too.
"""

import ast
import contextlib
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).with_name("kernel")
SOURCE = FOLDER / "kernel.c"  # includes the others
ROW = FOLDER.parents[1] / "records" / "statistics.py"  # says what a row holds
FLAGS = (
    "-O3",
    "-std=gnu11",
    "-shared",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
)
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
PACKAGED = FOLDER.with_name("_kernel" + SUFFIX)
PATIENCE = 120  # seconds for a build that takes five


def _choose_flags() -> tuple[str, ...]:
    flags = (*FLAGS, f"-DROW_COLUMNS={','.join(f'AT_{name.upper()}' for name in read_columns())}")
    return flags if sys.platform == "win32" else (*flags, "-fPIC")


def read_columns() -> list[str]:
    """The numbers of a row: the fields of `Statistics` that are int or float, read without
    importing the package.
    """
    tree = ast.parse(ROW.read_text(encoding="utf-8"))
    owner = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Statistics")
    return [
        node.target.id
        for node in owner.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and ast.unparse(node.annotation) in {"int", "float"}
    ]


@functools.cache
def compute_fingerprint() -> str:
    """What a library must have been built from to be used: a hash of the source and the flags; ""
    without the source.
    """
    if not SOURCE.is_file():
        return ""
    parts = [path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]"))]
    return hashlib.sha256(b"".join(parts) + " ".join(_choose_flags()).encode()).hexdigest()[:16]


def find_compiler() -> list[str] | None:
    """The C compiler's command: that of the variable CC, else cc, gcc or clang; None where there is
    none.
    """
    chosen = shlex.split(os.environ.get("CC", ""))
    if chosen and shutil.which(chosen[0]):
        return chosen
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def build(target: Path, only: str = "") -> bool:
    """Build the kernel at `target`, which is there whole or not at all; False where that could not
    be done. `only` names the one variant to use, whatever the processor could do.
    """
    command = find_compiler()
    if command is None or not SOURCE.is_file():
        return False
    handle, scratch = tempfile.mkstemp(dir=target.parent, suffix=SUFFIX)
    os.close(handle)
    defines = [f'-DKERNEL_HASH="{compute_fingerprint()}"', *([f"-DONLY={only}"] if only else [])]
    libraries = [] if sys.platform == "win32" else ["-lm", "-lpthread"]
    try:
        subprocess.run(
            [*command, *_choose_flags(), *defines, str(SOURCE), "-o", scratch, *libraries],
            check=True,
            timeout=PATIENCE,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
        Path(scratch).chmod(0o755)
        Path(scratch).replace(
            target
        )  # processes that start together each build one; the last name wins, and all are alike
    except (OSError, subprocess.SubprocessError):
        return False
    finally:
        with contextlib.suppress(OSError):
            Path(scratch).unlink()
    return True


def find_cache() -> Path:
    """The folder of this user's built kernels: CNNPROBE_CACHE, else the system's usual place."""
    chosen = os.environ.get("CNNPROBE_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        return (
            Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "cnnprobe"
        )
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cnnprobe"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnnprobe"


def build_for_user() -> Path | None:
    """The kernel in this user's cache, built now if need be; None without a compiler or with
    CNNPROBE_NO_COMPILER=1.
    """
    if os.environ.get("CNNPROBE_NO_COMPILER", "0") not in {"", "0"}:
        return None
    try:
        folder = find_cache()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(folder):
            return None
        target = folder / f"kernel-{compute_fingerprint()}{SUFFIX}"
        return target if target.is_file() or build(target) else None
    except (OSError, RuntimeError):  # no home, a full or read-only disk
        return None


def _is_ours(folder: Path) -> bool:
    """Code is loaded from there: nobody else may have put it."""
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022
