"""Files: written atomically, tensors by name without unpickling, and errors of damaged ones."""
