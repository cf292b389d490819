"""What the table networks are compared with: every method with its defaults, and LightGBM tuned.

Each method is a function ``(X_train, y_train, X_test, seed)`` of DataFrames. A classifier returns
probabilities, ``(rows, classes)``, of the sorted classes; a regressor returns a mean, or a mean and
a standard deviation of a normal predictive, or a distribution.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import loguniform, randint, uniform
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, OrdinalEncoder, StandardScaler

from amortized import PFNClassifier, PFNRegressor

Method = Callable[[pd.DataFrame, np.ndarray, pd.DataFrame, int], Any]

TEXT = make_column_selector(dtype_exclude="number")
NUMBERS = make_column_selector(dtype_include="number")


def _one_hot() -> Any:
    """For methods that want standardised numbers without gaps."""
    rare = OneHotEncoder(handle_unknown="ignore", max_categories=30, sparse_output=False)
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return make_column_transformer((rare, TEXT), (numbers, NUMBERS))


def _ordinal(gaps: bool = True) -> Any:
    """For trees: a number a category."""
    text = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    if gaps:
        return make_column_transformer((text, TEXT), remainder="passthrough")
    filled = make_pipeline(text, SimpleImputer())
    return make_column_transformer((filled, TEXT), (SimpleImputer(), NUMBERS))


def _fit(encoder: Any, model: Any, x: pd.DataFrame, y: np.ndarray) -> Any:
    return make_pipeline(encoder, model).fit(x, y)


def _classifier(encoder: Callable[[], Any], model: Callable[[int], Any]) -> Method:
    def run(x: pd.DataFrame, y: np.ndarray, z: pd.DataFrame, seed: int) -> np.ndarray:
        codes = LabelEncoder().fit_transform(y)
        return _fit(encoder(), model(seed), x, codes).predict_proba(z)

    return run


def _regressor(encoder: Callable[[], Any], model: Callable[[int], Any]) -> Method:
    def run(x: pd.DataFrame, y: np.ndarray, z: pd.DataFrame, seed: int) -> np.ndarray:
        return _fit(encoder(), model(seed), x, y).predict(z)

    return run


def _text_filled(x: pd.DataFrame) -> pd.DataFrame:
    """CatBoost takes categories as text, gaps among them as a text of their own."""
    return x.assign(
        **{name: x[name].astype(object).where(x[name].notna(), "missing") for name in TEXT(x)}
    ).astype(dict.fromkeys(TEXT(x), str))


def _catboost(kind: str, **options: Any) -> Method:
    def run(x: pd.DataFrame, y: np.ndarray, z: pd.DataFrame, seed: int) -> Any:
        import catboost

        model = getattr(catboost, kind)(
            verbose=0,
            thread_count=1,
            random_seed=seed,
            cat_features=TEXT(x),
            allow_writing_files=False,
            **options,
        )
        model.fit(_text_filled(x), y)
        if kind == "CatBoostClassifier":
            # Its classes "1", "2", "10" come in the order of the numbers, those of others as text.
            return model.predict_proba(_text_filled(z))[:, np.argsort(model.classes_)]
        if "loss_function" not in options:
            return model.predict(_text_filled(z))
        answer = model.predict(_text_filled(z), prediction_type=options["loss_function"])
        return answer[:, 0], np.sqrt(answer[:, 1])

    return run


def lightgbm_model(kind: str, tuned: bool = False) -> Callable[[int], Any]:
    """A maker of LightGBM by seed, with its defaults or tuned by 20 configurations."""

    def make(seed: int) -> Any:
        import lightgbm

        model = getattr(lightgbm, kind)(n_jobs=1, verbose=-1, random_state=seed)
        if not tuned:
            return model
        ranges = {
            "n_estimators": randint(50, 500),
            "learning_rate": loguniform(0.01, 0.3),
            "num_leaves": randint(4, 64),
            "min_child_samples": randint(2, 50),
            "subsample": uniform(0.5, 0.5),
            "subsample_freq": [1],
            "colsample_bytree": uniform(0.4, 0.6),
            "reg_lambda": loguniform(1e-3, 10),
        }
        score = "neg_log_loss" if kind == "LGBMClassifier" else "r2"
        return RandomizedSearchCV(model, ranges, n_iter=20, cv=3, scoring=score, random_state=seed)

    return make


def _xgboost(kind: str) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        import xgboost

        return getattr(xgboost, kind)(n_jobs=1, random_state=seed)

    return make


def _gaussian_process(
    x: pd.DataFrame, y: np.ndarray, z: pd.DataFrame, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """One lengthscale a feature where there are at most 20, otherwise one for all."""
    encoder = _one_hot().fit(x)
    inputs = encoder.transform(x)
    scale = np.ones(inputs.shape[1]) if inputs.shape[1] <= 20 else 1.0
    kernel = ConstantKernel() * Matern(scale, (1e-2, 1e3), nu=2.5) + WhiteKernel()
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed).fit(inputs, y)
    return model.predict(encoder.transform(z), return_std=True)


def _pfn_classifier(x: pd.DataFrame, y: np.ndarray, z: pd.DataFrame, seed: int) -> np.ndarray:
    return PFNClassifier(random_state=seed).fit(x, y).predict_proba(z)


def _pfn_regressor(x: pd.DataFrame, y: np.ndarray, z: pd.DataFrame, seed: int) -> Any:
    model = PFNRegressor(random_state=seed)
    return model.fit(x, y).predict_distribution(z)


CLASSIFIERS: Mapping[str, Method] = {
    "PFNClassifier": _pfn_classifier,
    "logistic regression": _classifier(_one_hot, lambda _: LogisticRegression(max_iter=1000)),
    "random forest": _classifier(
        lambda: _ordinal(False), lambda seed: RandomForestClassifier(random_state=seed)
    ),
    "HistGradientBoosting": _classifier(
        _ordinal, lambda seed: HistGradientBoostingClassifier(random_state=seed)
    ),
    "LightGBM": _classifier(_ordinal, lightgbm_model("LGBMClassifier")),
    "XGBoost": _classifier(_ordinal, _xgboost("XGBClassifier")),
    "CatBoost": _catboost("CatBoostClassifier"),
    "LightGBM, tuned": _classifier(_ordinal, lightgbm_model("LGBMClassifier", tuned=True)),
}

REGRESSORS: Mapping[str, Method] = {
    "PFNRegressor": _pfn_regressor,
    "ridge": _regressor(_one_hot, lambda _: RidgeCV(np.logspace(-3, 3, 13))),
    "random forest": _regressor(
        lambda: _ordinal(False), lambda seed: RandomForestRegressor(random_state=seed)
    ),
    "HistGradientBoosting": _regressor(
        _ordinal, lambda seed: HistGradientBoostingRegressor(random_state=seed)
    ),
    "LightGBM": _regressor(_ordinal, lightgbm_model("LGBMRegressor")),
    "XGBoost": _regressor(_ordinal, _xgboost("XGBRegressor")),
    "CatBoost": _catboost("CatBoostRegressor"),
    "CatBoost, uncertainty": _catboost("CatBoostRegressor", loss_function="RMSEWithUncertainty"),
    "GP, type-II ML": _gaussian_process,
    "LightGBM, tuned": _regressor(_ordinal, lightgbm_model("LGBMRegressor", tuned=True)),
}
