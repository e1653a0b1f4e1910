"""How much memory is free, as far as the machine says."""

from pathlib import Path

import torch

_GROUP = Path("/sys/fs/cgroup")  # a container's own limit (cgroup v2)


def read_available_bytes(device: torch.device) -> int | None:
    """Free bytes on a device; None where there is no way to tell.

    >>> read_available_bytes(torch.device("cpu")) != 0
    True
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    known = [free for free in (_read_machine(), _read_container()) if free is not None]
    return min(known, default=None)


def _read_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _read_container() -> int | None:
    try:
        return int((_GROUP / "memory.max").read_text()) - int(
            (_GROUP / "memory.current").read_text()
        )
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return None


def format_binary(nbytes: int) -> str:
    """Bytes in binary units.

    >>> format_binary(4 * 2**30)
    '4.0 GiB'
    """
    size = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.3g} EiB"
