"""What a healthy design of the bench is: a set-up that looks unusual and may not give a warning or
    an error.

`DESIGNS[name]()` gives the arguments of `diagnose`.
"""

DESIGNS = {}


def design(build):
    DESIGNS[build.__name__] = build
    return build
