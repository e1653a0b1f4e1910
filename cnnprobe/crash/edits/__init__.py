"""Changes that a copy of the model can try, and that can be written into the user's file."""
