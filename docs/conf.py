"""Sphinx: `make docs` builds docs/_build/html, and a warning is an error."""

import pathlib
import sys

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

project = "cnnprobe"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "changelog"]
html_theme = "furo"
html_title = "cnnprobe"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True


class Rules(SphinxDirective):
    """The page of every rule, as its own docstring says it."""

    def run(self) -> list[nodes.Node]:
        """One section a rule, in the order of the codes."""
        from cnnprobe.rules import all_rules

        found: list[nodes.Node] = []
        for rule in sorted(all_rules(), key=lambda rule: rule.code):
            section = nodes.section(ids=[rule.name])
            section += nodes.title(text=f"{rule.code} {rule.name}")
            section += nodes.paragraph("", "", nodes.emphasis(text=rule.severity.value))
            section += [nodes.paragraph(text=" ".join(part.split())) for line in rule.page.split("\n\n") for part in _headed(line)]
            found.append(section)
        return found


def _headed(paragraph: str) -> list[str]:
    """A paragraph of a rule's page, split where one of its headings begins a line."""
    parts: list[str] = []
    for line in paragraph.splitlines():
        if not parts or line.startswith(("Why it matters:", "What to do:", "Known exceptions:", "Source:")):
            parts.append(line)
        else:
            parts[-1] += f" {line}"
    return parts


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
