"""Edits as a unified diff."""
def diff(case, edits): return ""
