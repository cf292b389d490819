"""``python -m amortized --version``: prints the version and lists the other programs."""

import argparse

from amortized import __version__


def main() -> None:
    """Answers the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m amortized",
        description="Bayesian inference in one forward pass, with the classical answer beside it.",
        epilog="Programs: amortized.demo, amortized.recipes NAME.",
    )
    parser.add_argument("--version", action="version", version=f"amortized {__version__}")
    parser.parse_args()
    parser.print_help()


if __name__ == "__main__":
    main()
