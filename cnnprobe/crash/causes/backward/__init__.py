"""Causes in the backward, and graphs that are kept, cut or freed."""
