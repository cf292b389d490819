"""Makes ``data/lcdb_accuracy.npz``: accuracy against training size, averaged over LCDB's splits.

The Learning Curve Database (MIT licence, copyright 2021 Felix Mohr) holds the accuracy of 20
learners of scikit-learn on 248 datasets of OpenML, for training sizes 16, 23, 32, 45, ... (each
the root of two times the one before) and up to 125 splits. Kept are the means of the validation
accuracy over at least five splits, in units of 1/10,000; -1 where there is none. The one odd size
at the end of some curves is left out.

    pip download --no-deps lcdb==0.1.0
    tar xzf lcdb-0.1.0.tar.gz
    python benchmarks/lcdb_extract.py lcdb-0.1.0/lcdb/database-accuracy.csv

References:
    | LCDB 1.0: An Extensive Learning Curves Database for Classification Tasks
    | (Mohr, Viering, Loog and van Rijn, 2022), https://github.com/fmohr/lcdb
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

EXTRACT = Path(__file__).parent / "data" / "lcdb_accuracy.npz"
FEWEST_SPLITS = 5
FEWEST_ANCHORS = 3


def main() -> None:
    """Average, and write the extract."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", type=Path, help="LCDB's database-accuracy.csv")
    columns = ["openmlid", "learner", "size_train"]
    rows = pd.read_csv(parser.parse_args().database, usecols=[*columns, "score_valid"])
    grouped = rows.groupby(columns)["score_valid"]
    table = grouped.mean()[grouped.count() >= FEWEST_SPLITS].unstack("size_train")
    n_sizes = 1 + int(2 * np.log2(max(table.columns) / 16))
    sizes = np.round(16 * 2 ** (np.arange(n_sizes) / 2)).astype(int)
    sizes = sizes[np.isin(sizes, table.columns)]
    table = table[sizes]
    table = table[table.notna().sum(axis=1) >= FEWEST_ANCHORS]
    EXTRACT.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        EXTRACT,
        dataset=table.index.get_level_values("openmlid").to_numpy(np.int32),
        learner=table.index.get_level_values("learner").str.split(".").str[-1].to_numpy("U30"),
        size=sizes.astype(np.int32),
        accuracy=np.where(table.isna(), -1, np.round(10_000 * table)).astype(np.int16),
    )
    print(f"{len(table)} curves of up to {len(sizes)} sizes, {EXTRACT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
