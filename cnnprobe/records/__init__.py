"""What was seen, as plain frozen data that is written to JSON and read back: no torch, no tensor,
no model is kept.
"""
