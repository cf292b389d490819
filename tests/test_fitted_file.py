"""Estimators in files: nothing is lost by a kill, nothing damaged is read, nothing is run."""

import json
import os
import pickle
import random

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.numpy import save as save_arrays
from test_folders import dies_at, needs_fork

from amortized import PFNRegressor
from amortized.estimators.fitted_file import _checksum
from amortized.networks import PFN, PFNConfig
from amortized.pretrained import save

X = np.linspace(-1, 1, 12)[:, None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = PFNConfig(n_features=1, max_context=20, d_model=8, n_heads=2, n_layers=1, n_bars=8)
    return str(save(PFN(config), tmp_path_factory.mktemp("network") / "net"))


@pytest.fixture
def file(folder, tmp_path):
    return PFNRegressor(folder).fit(X, X[:, 0]).save(tmp_path / "fitted")


def header_of(file):
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size])["__metadata__"]["amortized"]


def blessed(file, arrays=(), **values):
    """Other content with the checksum that it has to have."""
    header = json.dumps(json.loads(header_of(file)) | values)
    arrays = load_file(file) | dict(arrays)
    metadata = {"amortized": header, "sha256": _checksum(header, arrays)}
    file.write_bytes(save_arrays(arrays, metadata=metadata))


def test_every_flipped_bit_and_lost_byte_is_seen(file):
    content, rng = file.read_bytes(), random.Random(0)
    for at in rng.sample(range(len(content)), 80):
        for damaged in (
            content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :],
            content[:at],
        ):
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"^Expected"):
                PFNRegressor.load(file)
    file.write_bytes(content)
    PFNRegressor.load(file)


CRAFTED = {
    "a target that is no number": {"arrays": {"y_train_": np.full(12, np.nan)}},
    "an input that is no number": {"arrays": {"X_train_": np.full((12, 1), np.nan)}},
    "an infinite input": {"arrays": {"X_train_": np.full((12, 1), np.inf)}},
    "another number of rows": {"arrays": {"X_train_": np.zeros((5, 1))}},
    "a network that is none": {"network": "no-such-network"},
    "a network that is a number": {"network": 3},
    "words of four gigabytes": {
        "more": {"array": ["a"] * 9, "dtype": "<U999999999"},
        "network": "",
    },
    "an array of nothing": {"more": {"array": 3}},
    "an encoder of nothing": {"encoder_": {"table_encoder": {}}},
    "a device that is none": {"device": "nowhere"},
}


@pytest.mark.parametrize("crafted", CRAFTED.values(), ids=CRAFTED)
def test_crafted_files_are_refused(file, crafted, no_shape_checks):
    blessed(file, **crafted)
    with pytest.raises(ValueError, match=r"^Expected .* to be written by PFNRegressor.save"):
        PFNRegressor.load(file)


def test_nothing_is_unpickled(file, tmp_path):
    class Command:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    file.write_bytes(pickle.dumps(Command()))
    with pytest.raises(ValueError, match="to be written by PFNRegressor.save"):
        PFNRegressor.load(file)
    torch.save({"x": Command()}, file)
    with pytest.raises(ValueError, match="to be written by PFNRegressor.save"):
        PFNRegressor.load(file)
    assert not (tmp_path / "ran").exists()


@needs_fork
def test_who_is_killed_leaves_the_old_or_the_new(file, folder):
    old, new = (PFNRegressor(folder).fit(X, sign * X[:, 0]) for sign in (1, -1))
    step, died = 0, True
    while died:
        old.save(file)
        died = dies_at(step, lambda: new.save(file))
        targets = PFNRegressor.load(file).y_train_
        assert np.array_equal(targets, old.y_train_) or np.array_equal(targets, new.y_train_)
        step += 1
    assert step > 2 and np.array_equal(targets, new.y_train_)


def test_what_is_not_ours_is_left_alone(file, folder, tmp_path):
    estimator = PFNRegressor.load(file)
    thesis, weights = tmp_path / "thesis.tex", tmp_path / "weights.safetensors"
    thesis.write_text("years of work")
    weights.write_bytes(save_arrays({"a": np.zeros(3)}))
    for path in (thesis, weights, tmp_path):
        with pytest.raises(ValueError, match=r"^Expected a new file, or a saved estimator"):
            estimator.save(path)
    assert thesis.read_text() == "years of work" and len(load_file(weights)) == 1
    link = tmp_path / "link"
    link.symlink_to(file)
    estimator.save(link)
    assert link.is_symlink() and PFNRegressor.load(link).n_features_in_ == 1
