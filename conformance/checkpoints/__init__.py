"""A case's checkpoint: the state dict, its wrapper, the file.

In: a family and a case. Out: tensors, nested dicts and files that look like upstream's.
May import: cases, families, reference.
"""
