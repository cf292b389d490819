"""Classical inference: one sampler per file, and what samplers share in the folders."""
