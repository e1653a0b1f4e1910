"""Finds calls that pass two variables under each other's names."""

import ast
import re
from collections import Counter
from collections.abc import Iterator

from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.training.scopes import Scope, list_assigned, list_own, make_slip
from cnnprobe.training.sourcing import name_of, read_file

_TRIPLETS = frozenset(
    {"TripletMarginLoss", "TripletMarginWithDistanceLoss", "triplet_margin_loss",
     "triplet_margin_with_distance_loss"}
)  # fmt: skip
_PARAMETERS = ("anchor", "positive", "negative")  # of all of these
_WORDS = {"pos": "positive", "neg": "negative", "anc": "anchor"}
_LETTERS = {"p": "positive", "n": "negative", "a": "anchor"}  # where these are expected
# words that tell two of a kind apart, and not what each is for
_ORDER = frozenset({"first", "second", "third", "left", "right", "one", "two", "other"})
_SAME = frozenset({"detach", "clone", "cpu", "cuda", "to", "float", "long", "squeeze", "flatten"})


def find_swapped(files: list[str]) -> Iterator[Slip]:
    """The calls of these files that give two arguments in the wrong order, by their names, where no
    other call of the same function has them in the right one.
    """
    for path in files:
        tree = read_file(path)
        if tree is None:
            continue
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
        counts = Counter(f.name for f in functions)
        named = {f.name: f for f in functions if counts[f.name] == 1}  # the others are ambiguous
        triplets = _TRIPLETS | _list_triplets(tree)
        scopes: list[Scope] = [tree, *functions]
        for scope in scopes:
            yield from _find_swapped(scope, named, triplets, path)


def _list_triplets(tree: ast.Module) -> frozenset[str]:
    """The variables and attributes that hold a triplet loss of torch."""
    return frozenset(
        name_of(target)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target, value in list_assigned(node)
        if isinstance(value, ast.Call) and name_of(value.func) in _TRIPLETS
    )


def _find_swapped(
    scope: Scope, named: dict[str, ast.FunctionDef], triplets: frozenset[str], path: str
) -> Iterator[Slip]:
    found: dict[str, Slip] = {}
    ordered: set[str] = set()
    for call in (n for n in list_own(scope) if isinstance(n, ast.Call)):
        callee = _name_callee(call.func, triplets)
        function = named.get(callee) if named.get(callee) is not scope else None  # no recursion
        yield from _find_misplaced(call, function, path)
        wanted = list(_PARAMETERS) if callee in triplets else _list_parameters(function)
        given = [_say(_name(a), wanted) for a in call.args]
        count = min(len(wanted), len(given))
        for i in range(count):
            for j in range(i + 1, count):
                mine, other = (wanted[i], wanted[j]), (given[i], given[j])
                if mine == other:
                    ordered.add(callee)
                elif mine == other[::-1] and all(mine) and _have_roles(*mine):
                    names = f"{ast.unparse(call.args[i])}, {ast.unparse(call.args[j])}"
                    found.setdefault(
                        callee, make_slip("swapped", call, path, names, ", ".join(mine))
                    )
    yield from (slip for callee, slip in found.items() if callee not in ordered)


def _find_misplaced(call: ast.Call, function: ast.FunctionDef | None, path: str) -> Iterator[Slip]:
    """A variable that is passed by its place for one option, and has the name of a later one, which
    keeps its default.
    """
    if function is None or any(isinstance(a, ast.Starred) for a in call.args):
        return
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    options = set(names[len(names) - len(function.args.defaults) :])
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    given = {k.arg for k in call.keywords}
    for name, value in zip(names, call.args, strict=False):
        own = name_of(value) if isinstance(value, ast.Name | ast.Attribute) else ""
        later = names[len(call.args) :]
        if name in options and own != name and own in later and own in options - given:
            yield make_slip("misplaced", call, path, ast.unparse(value), name)


def _have_roles(one: str, other: str) -> bool:
    """Whether two names say what each is for, and are not two of a kind: z1 and z2, p_log and
    q_log, which may change places on purpose.

    >>> _have_roles("output", "labels"), _have_roles("p_log", "q_log"), _have_roles("z1", "z2")
    (True, False, False)
    """
    mine, its = (re.findall(r"[a-z]+|\d+", name) for name in (one, other))
    apart = [part for part in (*mine, *its) if (part in mine) != (part in its)]
    return any(len(part) > 1 and not part.isdigit() and part not in _ORDER for part in apart)


def _name_callee(func: ast.expr, triplets: frozenset[str]) -> str:
    """The function of the file, or the method of self, that a call means; "" of another."""
    name = name_of(func)
    is_own = isinstance(func, ast.Name) or name_of(getattr(func, "value", func)) in ("self", "cls")
    return name if is_own or name in triplets else ""


def _list_parameters(function: ast.FunctionDef | None) -> list[str]:
    """The parameters of a function by their words; none where a call may mean another one."""
    if function is None:
        return []
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    names = names[1:] if names[:1] in (["self"], ["cls"]) else names
    return [_say(name, []) for name in names]


def _name(node: ast.expr) -> str:
    """The variable that an argument is made of: model(negative), pos.detach()."""
    if isinstance(node, ast.Call):
        is_method = isinstance(node.func, ast.Attribute) and node.func.attr in _SAME
        if is_method:
            return _name(node.func.value)  # type: ignore[attr-defined]
        return _name(node.args[0]) if len(node.args) == 1 else ""
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    return name_of(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def _say(name: str, wanted: list[str]) -> str:
    """A name by the word that counts in it: "emb_pos" is "positive"; "" of a single letter."""
    parts = name.lower().split("_")
    words = [_WORDS.get(part, part) for part in parts]
    roles = [word for word in words if word in _PARAMETERS]
    if roles:
        return roles[0]
    if wanted == list(_PARAMETERS) and name.lower() in _LETTERS:
        return _LETTERS[name.lower()]
    return name.lower() if len(name) > 1 else ""
