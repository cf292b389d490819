"""What a call of `infer` is given: the model, its data in rows or groups, and its options."""
