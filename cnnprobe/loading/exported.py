"""A program saved by torch.export (.pt2) as a module whose layers can be watched."""

import io
import zipfile
from pathlib import Path

import torch
from torch import nn

from cnnprobe.errors import TargetError, UsageError
from cnnprobe.loading.user_errors import describe_error


def load(path: Path, *, trust_pickle: bool) -> nn.Module:
    """The exported program as a tree of modules under their original names.

    `torch.export.load` unpickles, imports modules that the file names and evaluates its shape
    expressions, whatever the file holds (torch: "never load data from an untrusted source"), so it
    always takes `trust_pickle`.

    Raises:
        UsageError: there is no such file.
        TargetError: the file is not trusted, or cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}", where="SPEC", fix="check the path")
    wanted = _find_unsafe_globals(path)
    if not trust_pickle:
        named = f" (its pickles name {', '.join(wanted)})" if wanted else ""
        raise TargetError(
            f"reading {path} may run code{named}",
            where=str(path),
            fix=(
                "add --trust-pickle if you made the file or trust whoever did; torch.export.load "
                "needs it"
            ),
        )
    try:
        return torch.export.unflatten(torch.export.load(path))
    except Exception as error:
        raise TargetError(
            f"{path} could not be read: {describe_error(error)}",
            where=str(path),
            fix="save it again with torch.export.save, using this version of torch",
        ) from error


def _find_unsafe_globals(path: Path) -> list[str]:
    """Globals beyond tensors that the pickles in the archive name, read without running them."""
    found: set[str] = set()
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as entry:
                    if entry.read(4) != b"PK\x03\x04":
                        continue
                found.update(
                    torch.serialization.get_unsafe_globals_in_checkpoint(
                        io.BytesIO(archive.read(name))
                    )
                )
    except (zipfile.BadZipFile, OSError, RuntimeError, ValueError) as error:
        raise TargetError(
            f"{path} is not an exported program, or is truncated",
            where=str(path),
            fix="save it again with torch.export.save, or copy it again",
        ) from error
    return sorted(found)
