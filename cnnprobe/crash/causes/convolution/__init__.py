"""Causes about convolutions, and about channels and sizes of maps."""
