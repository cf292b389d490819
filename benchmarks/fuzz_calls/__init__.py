"""The kinds of calls of `benchmarks/fuzz.py`."""
