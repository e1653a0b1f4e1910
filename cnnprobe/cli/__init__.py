"""The command: `cnnprobe probe SPEC ...`. The result goes to stdout, everything else to stderr.

Nothing here imports torch before a command runs, so that help and completion answer at once. A
further command is a function of its own in a file of its own, takes its options from `options`, and
is added to `main` below.
"""

import click

from cnnprobe import __version__
from cnnprobe.cli.comparing import compare_command, refactor_command
from cnnprobe.cli.diagnosing import diagnose_command, explain_command, rules_command
from cnnprobe.cli.graphing import graph_command
from cnnprobe.cli.inspecting import data_command
from cnnprobe.cli.measuring import stats_command
from cnnprobe.cli.merging import merge_command
from cnnprobe.cli.probing import probe_command
from cnnprobe.cli.program import Program
from cnnprobe.cli.sizing import memory_command, shapes_command

__all__ = ["main"]


@click.group(
    cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Show what every layer of a PyTorch network really did.

    \b
    Exit codes: 0 fine, 1 a check failed, 2 usage,
                3 the model could not be built or run.
    Completion: eval "$(_CNNPROBE_COMPLETE=bash_source cnnprobe)"
                (or zsh_source; fish: ... fish_source cnnprobe | source)
    """


main.add_command(compare_command)
main.add_command(data_command)
main.add_command(diagnose_command)
main.add_command(explain_command)
main.add_command(probe_command)
main.add_command(graph_command)
main.add_command(merge_command)
main.add_command(refactor_command)
main.add_command(memory_command)
main.add_command(rules_command)
main.add_command(shapes_command)
main.add_command(stats_command)
