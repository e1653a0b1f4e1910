"""Arguments of functions: splits, einsum, interpolation, writing in place."""
