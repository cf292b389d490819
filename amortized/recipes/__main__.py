"""``python -m amortized.recipes NAME``: see `amortized.recipes.release`."""

from amortized.recipes.release import main

if __name__ == "__main__":
    main()
