"""Layers and products that got other features than their weights take."""
