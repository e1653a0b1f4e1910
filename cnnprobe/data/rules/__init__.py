"""The rules of the data, one a file: the check, its page as the docstring, and a sick and a healthy
loader that are its tests.
"""
