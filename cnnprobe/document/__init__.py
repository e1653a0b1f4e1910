"""From a trace to what people read: a layout makes a Document of blocks, a renderer writes it in
one format. No torch.
"""
