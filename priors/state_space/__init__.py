"""State-space models: a hidden state that evolves in steps, and a noisy observation of it."""
