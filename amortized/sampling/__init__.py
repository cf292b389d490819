"""Classical inference: one sampler or filter per file, and checks of the draws they return."""
