"""How the command ends: one message with what, where and fix for every kind of failure, and the
designed exit code.
"""

import atexit
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

import click

from cnnprobe.errors import ProbeError

INTERRUPTED = 130  # 128 + SIGINT, as shells count it
CLOSED_PIPE = 141  # 128 + SIGPIPE
UNFORESEEN = 3
DEBUG = "cnnprobe.debug"


class Program(click.Group):
    """A group of commands whose every failure is one message on stderr, without a traceback unless
    `--debug` asks for it.
    """

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run the command and leave by its exit code."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(
                stream, "reconfigure"
            ):  # a name that the terminal's encoding lacks is escaped, never a failure
                stream.reconfigure(errors="backslashreplace")
        extra["standalone_mode"] = False
        try:
            code = super().main(args, prog_name, **extra)
            _flush(sys.stdout)
        except click.ClickException as error:
            tell(_write_usage_message(error))
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            # a second Ctrl-C must not end in the traceback of some library's exit handler
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
            tell("interrupted")
            code = INTERRUPTED
        except BrokenPipeError:
            code = _leave_closed_pipe()
        except OSError as error:
            tell(
                f"error: the result cannot be written: {error.strerror or error}\n  where: "
                "stdout\n  fix:   write it to a file with -o FILE"
            )
            _discard_stdout()
            code = UNFORESEEN
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what it raises becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, KeyboardInterrupt):
            raise
        except BrokenPipeError:  # click itself would leave with 1, as if a check had failed
            ctx.exit(_leave_closed_pipe())
        except ProbeError as error:
            _tell_failure(ctx, f"error: {error}")
            ctx.exit(error.exit_code)
        except MemoryError:
            _tell_failure(
                ctx,
                (
                    "error: out of memory\n  where: this command\n  fix:   use a smaller --input, "
                    "or "
                    "--device meta for shapes only"
                ),
            )
            ctx.exit(UNFORESEEN)
        except Exception as error:
            what = f"error: {type(error).__name__}: {str(error).strip() or 'no message'}"
            _tell_failure(
                ctx,
                (
                    f"{what}\n  where: inside cnnprobe\n  fix:   run it again with --debug, and "
                    "report what it shows"
                ),
            )
            ctx.exit(UNFORESEEN)


def tell(message: str) -> None:
    """Write a message to stderr, with every control character in it made visible."""
    try:
        # the line that says what is being waited for
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        click.echo(clear + make_printable(message), err=True)
    except OSError:  # nobody is listening
        return


def make_printable(text: str) -> str:
    r"""The text with control characters, and what else a terminal could act on, as escapes; line
    ends stay.

    >>> make_printable("\x1b[31mred")
    '\\x1b[31mred'
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def _tell_failure(ctx: click.Context, message: str) -> None:
    if ctx.meta.get(DEBUG):
        tell(traceback.format_exc())
    tell(message)


def _write_usage_message(error: click.ClickException) -> str:
    if type(error).__name__ == "NoArgsIsHelpError":  # not before click 8.2; the message is the help
        return error.format_message()
    command = (
        error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "cnnprobe"
    )
    return (
        f"error: {error.format_message()}\n  where: {command}\n  fix:   {command} --help lists "
        "its options"
    )


def _flush(stream: TextIO | None) -> None:
    if stream is not None:
        stream.flush()


def _leave_closed_pipe() -> int:
    _discard_stdout()
    return CLOSED_PIPE


def _discard_stdout() -> None:
    """Let Python's own flush at exit go nowhere, or it would complain a second time."""
    with_number: Callable[[], int] | None = getattr(sys.stdout, "fileno", None)
    try:
        if with_number is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), with_number())
    except (OSError, ValueError):  # not a real file
        return
