"""Steps of samplers: tempering, moves, resampling, adaptation, and stand-ins for a likelihood."""
