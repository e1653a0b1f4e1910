"""Causes in the text of the model's own code."""
