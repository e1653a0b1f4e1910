"""Causes about embeddings."""
