"""Causes in the lines of the loop around the model."""
