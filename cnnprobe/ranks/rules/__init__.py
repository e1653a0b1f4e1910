"""The rules of ranks, one a file: the check, its page as the docstring, and a sick and a healthy
loop on two ranks that are its tests.
"""
