"""Layers of the networks: attention, blocks, embeddings of cells, and heads."""
