"""Explains a checkpoint that cannot be used: single causes, layouts and formats that it is near, models that its tensors fit."""
