"""A file that is not there: which part of its path is, and what is near."""

import difflib
import os
from pathlib import Path


def judge_file(error: BaseException) -> tuple[str, str, str] | None:
    """What is missing, where it was looked for, and what to do; None where it is something else."""
    if not isinstance(error, FileNotFoundError) or not error.filename:
        return None
    path = Path(os.fsdecode(error.filename))
    if path.exists():
        return None
    missing = next((p for p in (*reversed(path.parents), path) if not p.exists()), path)
    reason = f"there is no file {str(path)!r}"
    if missing != path:
        reason += f": the folder {str(missing)!r} is missing"
    names = [each.name for each in missing.parent.iterdir()] if missing.parent.is_dir() else []
    near = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.75)
    if near:
        return reason, f"{str(missing.parent)!r} holds {near[0]!r}", f"did you mean {near[0]!r}?"
    if path.is_absolute():
        return reason, str(path), f"correct the path: {str(missing.parent)!r} is there"
    here = f"the path is relative, and the program runs in {str(Path.cwd())!r}"
    return reason, here, "make the path absolute: Path(__file__).parent / ..."
