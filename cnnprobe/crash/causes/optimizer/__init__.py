"""Optimizers, their schedules, and the gradient scaler."""
