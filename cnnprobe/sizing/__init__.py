"""How a model depends on the size of its input: its shapes as formulas, and the memory that it
takes. Runs forward and backward passes on shapes alone; the model stays as it was.
"""
