"""State-space models: a hidden state that moves step by step, and a noisy observation of it."""
