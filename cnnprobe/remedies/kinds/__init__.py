"""The remedies, by what they change, one kind a file; a new file is found by itself."""
