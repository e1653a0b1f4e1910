"""Reads the text of the user's program for what runs in a diagnosis."""

from cnnprobe.diagnosis.evidence.texts import Texts
from cnnprobe.records.trace import Trace
from cnnprobe.training.request import Request
from cnnprobe.training.sourcing import is_own_file, list_classes, list_functions
from cnnprobe.training.statements import find_loads, find_odd_statements, find_short_loops
from cnnprobe.training.surroundings import Surroundings
from cnnprobe.training.unread_names import find_unread_names


def read_texts(request: Request, around: Surroundings, trace: Trace) -> Texts:
    """What the text says of the classes of the model, the functions of the step and the file that
    asked.
    """
    classes = list_classes(request.model)
    functions = list_functions(around)
    methods = {id(m.node): m for each in classes for m in each.methods.values()}
    files = {m.path for m in methods.values()} | {f.path for f in functions}
    if is_own_file(request.caller):
        files.add(request.caller)
    ordered = sorted(files)
    return Texts(
        unread=tuple(find_unread_names(classes, functions, ordered, trace)),
        odd=tuple(find_odd_statements(classes)),
        loads=tuple(find_loads(ordered)),
        loops=tuple(find_short_loops(functions)),
    )
