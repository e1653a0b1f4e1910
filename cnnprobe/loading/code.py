"""User code named by a SPEC: a module of Python's path or a file, imported, with every failure told
as one message.
"""

import ast
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from cnnprobe.errors import ProbeError, TargetError, UnknownNameError, UsageError, suggest
from cnnprobe.loading.user_errors import describe_error, find_user_line

FORMS = "write pkg.mod:attr, path/to/file.py:Class, torchvision:NAME, timm:NAME or a .pt2 file"


def find(spec: str) -> object:
    """What the SPEC `pkg.mod:attr` or `path/to/file.py:Class` names; importing it runs that code.

    The current folder, or that of the file, goes first on `sys.path` and stays there, as under
    `python file.py`.

    Raises:
        UsageError: the SPEC is malformed or names nothing that is there.
        TargetError: the code raised while it was imported.
    """
    place, colon, attribute = spec.rpartition(":")
    if spec.endswith(".py") or (not colon and os.sep in spec):
        _check_exists(Path(spec))
        raise UsageError(
            "the SPEC names a file but no model in it", where=spec, fix=_list_classes(Path(spec))
        )
    if not colon or not place or not attribute:
        raise UsageError(f"{spec!r} does not name a model", where="SPEC", fix=FORMS)
    if place.endswith(".py") or os.sep in place:
        _check_exists(Path(place))
        module = _import_file(Path(place))
    else:
        module = _import_module(place)
    return _find_attribute(module, attribute, spec)


def _check_exists(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        raise UsageError(
            f"{str(path)!r} is a folder", where="SPEC", fix="name a file in it: folder/net.py:Class"
        )
    near = [str(found) for found in path.parent.glob("*.py")] if path.parent.is_dir() else []
    fix = (
        suggest(str(path), near)
        if near
        else "check the path; it is relative to the folder where the command runs"
    )
    raise UsageError(f"there is no file {str(path)!r}", where="SPEC", fix=fix)


def _list_classes(path: Path) -> str:
    """A fix that names the classes of a file, read without running it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return f"name its class: {path}:Class"
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    return "write " + " or ".join(f"{path}:{name}" for name in names[:4] or ["Class"])


def _put_first_on_path(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _import_module(name: str) -> ModuleType:
    _put_first_on_path(str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(
                f"there is no module {error.name!r}",
                where=f"SPEC {name}:..., looked for in {Path.cwd()} and on Python's path",
                fix=(
                    "run the command in the folder that holds it, or install it in this environment"
                ),
            ) from error
        raise _describe_import_failure(name, error) from error
    except (Exception, SystemExit) as error:
        raise _describe_import_failure(name, error) from error


def _import_file(path: Path) -> ModuleType:
    path = path.resolve()
    if (package := _find_package(path)) is not None and _imports_relatively(path):
        _put_first_on_path(str(package))
        return _import_module(".".join(path.relative_to(package).with_suffix("").parts))
    _put_first_on_path(str(path.parent))
    name = _choose_module_name(path)
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise UsageError(f"{str(path)!r} is not a Python file", where="SPEC", fix=FORMS)
    module = importlib.util.module_from_spec(found)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        found.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name)
        if before is not None:
            sys.modules[name] = before
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _describe_import_failure(str(path), error) from error
    return module


def _find_package(path: Path) -> Path | None:
    """The folder that holds the package of a file; None where it is in none."""
    folders = [folder for folder in path.parents if (folder / "__init__.py").is_file()]
    inside = [f for f, above in zip(folders, path.parents, strict=False) if f == above]
    return inside[-1].parent if inside else None


def _imports_relatively(path: Path) -> bool:
    """Whether a file says `from . import`, which works in a package alone."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return False
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


def _choose_module_name(path: Path) -> str:
    """The file's stem, so that its neighbours find it under that name, unless another module has
    it.
    """
    known = sys.modules.get(path.stem)
    if (
        known is None
        and importlib.util.find_spec(path.stem) is not None
        and path.stem in sys.stdlib_module_names
    ):
        return f"cnnprobe_target_{path.stem}"
    if known is not None and getattr(known, "__file__", None) != str(path):
        return f"cnnprobe_target_{path.stem}"
    return path.stem


def _describe_import_failure(name: str, error: BaseException) -> ProbeError:
    if isinstance(error, ProbeError):
        return error
    where = find_user_line(error) or name
    if isinstance(error, SyntaxError):
        return TargetError(
            f"{name} is not valid Python: {error.msg}", where=where, fix=_show_line(error)
        )
    if isinstance(error, SystemExit):
        return TargetError(
            f"importing {name} called sys.exit({error.code!r})",
            where=where,
            fix="move the code that runs the script under `if __name__ == '__main__':`",
        )
    return TargetError(
        f"importing {name} raised {describe_error(error)}",
        where=where,
        fix=_suggest_import_fix(error),
    )


def _show_line(error: SyntaxError) -> str:
    line = (error.text or "").strip()
    return f"correct the line: {line}" if line else "correct that line"


def _suggest_import_fix(error: BaseException) -> str:
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "name it as a module of its package, from the folder above: pkg.mod:Class"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"install {error.name!r} in this environment, or run the command where it is importable"
        )
    return (
        "correct that line, or move what should not run on import under `if __name__ == "
        "'__main__':`"
    )


def _find_attribute(module: ModuleType, attribute: str, spec: str) -> object:
    target: object = module
    for name in attribute.split("."):
        try:
            target = getattr(target, name)
        except AttributeError as error:
            known = (
                [known for known in vars(target) if not known.startswith("_")]
                if hasattr(target, "__dict__")
                else []
            )
            raise UnknownNameError(
                f"{spec.removesuffix(':' + attribute)} has no {attribute!r}",
                where=f"SPEC {spec}",
                fix=_suggest_nearest(attribute, known, target),
            ) from error
    return target


def _suggest_nearest(attribute: str, known: list[str], holder: object) -> str:
    """The near names, or else the models that the module itself defines."""
    if not known:
        return "define the model there, or name another file"
    fix = suggest(attribute, known)
    own = [
        n
        for n in known
        if isinstance(value := getattr(holder, n, None), type)
        and value.__module__ == getattr(holder, "__name__", None)
    ]
    return fix if fix.startswith("did") else suggest(attribute, own)
