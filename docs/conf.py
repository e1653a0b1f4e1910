"""Sphinx: `make docs` builds docs/_build/html, and a warning is an error."""

import contextlib
import dataclasses
import doctest
import inspect
import pathlib
import re
import sys
import tempfile
import typing
from collections.abc import Iterator

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

project = "cnnprobe"
myst_enable_extensions = ["deflist"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "changelog"]
html_theme = "furo"
html_title = "cnnprobe"
html_css_files = ["shown.css"]
html_static_path = ["_static"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True


class Rules(SphinxDirective):
    """The page of every rule, or of every cause of a crash, as its own docstring says it."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """One section an entry, in the order of the codes."""
        from cnnprobe.api import rules
        from cnnprobe.crash.cause import all_causes

        found: list[nodes.Node] = []
        for rule in all_causes() if self.arguments == ["causes"] else rules():
            section = nodes.section(ids=[rule.name])
            section += nodes.title(text=f"{rule.code} {rule.name}")
            section += nodes.paragraph("", "", nodes.emphasis(text=rule.severity.value))
            section += [
                nodes.paragraph(text=" ".join(part.split()))
                for line in rule.page.split("\n\n")
                for part in _headed(line)
            ]
            if family := getattr(rule, "family", ""):
                section += nodes.paragraph(text=f"Family: {family}")
            for example in getattr(rule, "examples", ())[:1]:
                section += nodes.literal_block(example.diff, example.diff, language="diff")
            found.append(section)
        return found


def _headed(paragraph: str) -> list[str]:
    """A paragraph of a rule's page, split where one of its headings begins a line."""
    parts: list[str] = []
    for line in paragraph.splitlines():
        if not parts or line.startswith(
            (
                "Why it matters:",
                "Why it happens:",
                "What to do:",
                "Known exceptions:",
                "Source:",
            )
        ):
            parts.append(line)
        else:
            parts[-1] += f" {line}"
    return parts


class Shown(SphinxDirective):
    """What a notebook would show of an expression, after the Python blocks that stand above it on the page have run."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """The HTML or the SVG of it."""
        namespace = self.env.temp_data.setdefault("cnnprobe_namespace", {})
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.chdir(folder),
            contextlib.redirect_stdout(None),
        ):
            for line, block in _python_blocks(
                pathlib.Path(self.env.doc2path(self.env.docname)).read_text(encoding="utf-8")
            ):
                if self.env.temp_data.get("cnnprobe_line", 0) < line < self.lineno:
                    exec(compile(block, f"{self.env.docname}:{line}", "exec"), namespace)  # noqa: S102 - our own document
            self.env.temp_data["cnnprobe_line"] = self.lineno
            bundle = eval(self.arguments[0], namespace)._repr_mimebundle_()  # noqa: S307
        shown = bundle.get("text/html") or bundle["image/svg+xml"]
        return [
            nodes.raw(
                "", f'<div class="shown">{shown.replace(str(ROOT) + "/", "")}</div>', format="html"
            )
        ]


def _python_blocks(text: str) -> Iterator[tuple[int, str]]:
    """The line and the code of each Python block; of sessions what was typed, those that raise left out."""
    for found in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, found.start()) + 1
        if not found[1].startswith(">>>"):
            yield line, found[1]
            continue
        typed = doctest.DocTestParser().get_examples(found[1])
        yield line, "".join(example.source for example in typed if example.exc_msg is None)


class Fields(SphinxDirective):
    """Every dataclass of a saved report: what it is, and its fields as JSON names them, each with the comment that stands beside it."""

    def run(self) -> list[nodes.Node]:
        """One definition list a dataclass, in the order in which they are met."""
        found: list[nodes.Node] = []
        for kind in _saved_classes():
            code = inspect.getsource(kind)
            beside = re.findall(r"^    (\w+): [^#\n]*#\s*(.*)$", code, re.MULTILINE)
            above = re.findall(r"^    # (.*)\n    (\w+):", code, re.MULTILINE)
            remarks = dict(beside) | {name: remark for remark, name in above}
            section = nodes.section(ids=[f"saved-{kind.__name__.lower()}"])
            section += [
                nodes.title(text=kind.__name__),
                nodes.paragraph(text=" ".join((kind.__doc__ or "").split()).replace("`", "")),
            ]
            lines = [
                f"`{field.name}`\n: {_type_name(field.type)}{'; ' * (field.name in remarks)}{remarks.get(field.name, '')}\n"
                for field in dataclasses.fields(kind)
            ]
            section += self.parse_text_to_nodes("\n".join(lines))
            found.append(section)
        return found


def _saved_classes() -> list[type]:
    """The dataclasses that a saved report is made of, each once: those of its parts first, then those that these hold."""
    from cnnprobe.data.report import DataReport
    from cnnprobe.saved import TYPES

    found: list[type] = []
    waiting = [*TYPES.values(), DataReport]
    while waiting:
        hint = waiting.pop(0)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and hint not in found:
            found.append(hint)
            hints = typing.get_type_hints(hint)
            waiting += [hints[field.name] for field in dataclasses.fields(hint)]
        waiting += typing.get_args(hint)
    return found


def _type_name(hint: object) -> str:
    """A type as the source says it, without the rooms that it comes from."""
    return re.sub(
        r"\b(?:\w+\.)+",
        "",
        hint
        if isinstance(hint, str)
        else getattr(hint, "__name__", "") * (not typing.get_args(hint)) or str(hint),
    )


class Changes(SphinxDirective):
    """What has changed and is not released yet: the fragments of docs/changelog."""

    def run(self) -> list[nodes.Node]:
        """A list a kind of change."""
        found: list[nodes.Node] = []
        for kind in ("added", "changed", "fixed", "removed"):
            fragments = sorted(pathlib.Path(__file__).parent.glob(f"changelog/*.{kind}.md"))
            if fragments:
                found.append(nodes.rubric(text=kind.capitalize()))
            for fragment in fragments:
                found += self.parse_text_to_nodes(fragment.read_text(encoding="utf-8"))
        return found


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("rules", Rules)
    app.add_directive("changes", Changes)
    app.add_directive("fields", Fields)
    app.add_directive("shown", Shown)
