"""What can be asked of a crash: frames, source, lineage, windows, saved tensors, losses."""
