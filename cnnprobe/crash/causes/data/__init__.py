"""Causes in data sets and loaders."""
