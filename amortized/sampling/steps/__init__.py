"""Steps that samplers share: the tempered path, Hamiltonian moves and resampling."""
