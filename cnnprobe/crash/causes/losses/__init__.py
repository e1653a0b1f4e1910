"""Losses that raise."""
