"""Files: written atomically, and tensors by name without unpickling."""
