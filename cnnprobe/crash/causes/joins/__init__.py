"""Causes of crashes where tensors are joined: concatenated, added, multiplied."""
