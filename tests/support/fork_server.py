"""Runs Python programs in forks of one process that has imported torch, which takes seconds each
time.

`fork_server.py SOCKET` is the server. A request holds the arguments of `python`, the folder, the
environment and the three streams. The program runs as in a process of its own, only torch is there.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import socket
import sys
import threading
import traceback

VERBS = ("batches", "forward", "learning", "measuring", "run", "sameness", "sizes")
PRELOADED = (
    *("torch._dynamo", "torchvision", "rich.table", "cnnprobe.cli"),
    *(f"cnnprobe.api.{name}" for name in VERBS),
)


def serve(path):
    """Answer requests until the standard input ends, which it does when the tests end."""
    for name in PRELOADED:
        __import__(name)
    gc.freeze()  # a collection in a fork would copy every page
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                answer(connection)
            connection.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def answer(connection):
    """Run one program in a fork of this fork, and send the exit code."""
    length, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as incoming:
        request = json.loads(incoming.read(int(length)))
    program = os.fork()
    if program == 0:
        connection.close()
        take_place(request, streams)
        end(run_python(request["arguments"]))
    for stream in streams:
        os.close(stream)
    _, status = os.waitpid(program, 0)
    connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def take_place(request, streams):
    """Be the program: its streams, folder and environment."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - open to the end
        for number, mode in enumerate("rww")
    )
    sys.stderr.reconfigure(line_buffering=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    is_pytest = request["arguments"][:2] == ["-m", "pytest"]
    unwanted = "cnnprobe" if is_pytest else os.environ.get("FORK_WITHOUT")
    for name in [name for name in sys.modules if name.partition(".")[0] == unwanted]:
        del sys.modules[name]  # pytest wants to import a plugin by itself
    sys.path[0:1] = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]


def run_python(arguments):
    """What `python` does with these arguments; the exit code."""
    kind, *rest = [argument for argument in arguments if argument != "-u"]
    sys.argv = arguments
    try:
        if kind == "-m":
            run_module(rest)
        elif kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            sys.path.insert(0, "")
            exec(compile(rest[0], "<string>", "exec"), vars(make_main()))
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as end_:
        return read_code(end_.code)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def run_module(arguments):
    """`python -m`."""
    sys.path.insert(0, os.getcwd())
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def make_main():
    """A new and empty `__main__`."""
    sys.modules["__main__"] = type(sys)("__main__")
    return sys.modules["__main__"]


def read_code(code):
    """The exit code of a SystemExit, whose text goes to stderr."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def end(code):
    """End as the interpreter does: threads, exit functions, streams."""
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = 120
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
