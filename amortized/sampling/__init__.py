"""Classical inference: one sampler per file, with shared steps and checks in the folders."""
