"""Runs the code blocks of README and docs, each document as one program, in a folder of its own."""

from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser
