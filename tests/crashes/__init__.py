"""Models that crash, each with its corrected twin: what is said of them is held against what
repairs them.
"""
