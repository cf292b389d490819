"""Training and release of the networks of the package: ``python -m amortized.recipes NAME``.

The recipes are data in `table`; `release` trains and writes cards, whose measurements are in
`predictives` and `posteriors`.
"""
