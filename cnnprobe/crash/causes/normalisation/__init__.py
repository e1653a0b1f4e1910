"""Causes about normalisation layers."""
