"""Devices, dtypes and the batch of what a model is given."""
