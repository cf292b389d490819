"""Weights on disk: what is saved comes back, and nothing else does."""

import hashlib
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_bytes

from amortized.networks import PFN, DistributionTransformerConfig, PFNConfig, TabularPFNConfig
from amortized.pretrained import available, load, save, storage

CONFIG = PFNConfig(
    units="standardised",
    n_features=2,
    max_context=30,
    d_model=16,
    n_heads=2,
    n_layers=2,
    d_hidden=16,
    n_bars=12,
    frequencies=(0.2, 3.0),
    prior="gp",
)


def make(config=CONFIG, seed=0):
    torch.manual_seed(seed)
    network = PFN(config, torch.linspace(-2, 3, config.n_bars + 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network.eval().requires_grad_(False)


@pytest.fixture
def folder(tmp_path):
    return save(make(), tmp_path / "net", card="# A network\n\nTrained for nothing.")


def predict(network):
    x = torch.linspace(-1, 1, 6).reshape(1, 3, 2)
    return network(x, x.sum(-1), x + 0.5).logits


def test_round_trip(folder):
    network, found = make(), load(folder)
    assert found.config == network.config and not found.training
    assert torch.equal(found.borders, network.borders)  # buffers are kept to the last bit
    for (name, value), (_, stored) in zip(
        network.named_parameters(), found.named_parameters(), strict=True
    ):
        assert stored.dtype == torch.float32
        torch.testing.assert_close(stored, value, rtol=2**-10, atol=2**-20, msg=name)
    torch.testing.assert_close(predict(found), predict(network), rtol=0.02, atol=0.02)


def test_a_second_trip_changes_nothing(folder, tmp_path):
    once = load(folder)
    twice = load(save(once, tmp_path / "again"))
    assert torch.equal(predict(once), predict(twice))
    assert (folder / "model.safetensors").read_bytes() == (
        tmp_path / "again" / "model.safetensors"
    ).read_bytes()


def test_saving_leaves_the_network_as_it_is(tmp_path):
    network = make().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    save(network, tmp_path / "net")
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_card_says_what_it_is_told_and_the_checksum(folder):
    card = (folder / "CARD.md").read_text()
    assert card.startswith("# A network\n\nTrained for nothing.\n")
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card
    assert sorted(path.name for path in folder.iterdir()) == [
        "CARD.md",
        "config.json",
        "model.safetensors",
    ]


def test_a_checksum_of_something_else_in_the_card_is_no_matter(tmp_path):
    """Cards may name other checksums, such as that of the data."""
    other = hashlib.sha256(b"data").hexdigest()
    folder = save(make(), tmp_path / "net", card=f"Trained on data with SHA-256 {other}.")
    assert load(folder).config == CONFIG


def test_weights_are_readable_without_this_package(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="numpy") as tensors:
        assert set(tensors.keys()) == set(make().state_dict())


def test_saving_replaces_a_network(folder):
    save(make(seed=1), folder)
    torch.testing.assert_close(predict(load(folder)), predict(make(seed=1)), rtol=0.02, atol=0.02)
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 7e4])
def test_weights_that_float16_cannot_hold_are_refused(folder, value):
    before = (folder / "model.safetensors").read_bytes()
    network = make()
    network.unknown_y[3] = value
    with pytest.raises(ValueError, match=r"^Expected weights that float16 can hold.*unknown_y"):
        save(network, folder)
    assert (folder / "model.safetensors").read_bytes() == before


def test_other_modules_are_refused(tmp_path):
    with pytest.raises(TypeError, match="network of type .*PFN.*; got Linear"):
        save(torch.nn.Linear(1, 1), tmp_path / "net")
    assert not list(tmp_path.iterdir())


def edit_config(**changed):
    """Another configuration, whose checksum the card names."""

    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        config["config"] |= changed
        bless(folder, "config.json", json.dumps(config).encode())

    return damage


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def blessed(name, content):
    return lambda folder: bless(folder, name, content)


def bless(folder, name, content):
    """Writes a file, and its checksum into the card."""
    (folder / name).write_bytes(content)
    with (folder / "CARD.md").open("a") as card:
        card.write(f"\n{hashlib.sha256(content).hexdigest()}\n")


def blessed_weights(**changed):
    def damage(folder):
        state = load_file(folder / "model.safetensors")
        bless(folder, "model.safetensors", save_bytes(state | changed))

    return damage


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def flip_a_bit(name):
    def flip(folder):
        content = bytearray((folder / name).read_bytes())
        content[-50] ^= 1
        (folder / name).write_bytes(bytes(content))

    return flip


def exchange(folder):
    other = save(make(seed=1), folder.parent / "other")
    shutil.copy(other / "model.safetensors", folder)


def weights_of_another_size(folder):
    other = save(make(replace(CONFIG, d_model=32)), folder.parent / "other")
    bless(folder, "model.safetensors", (other / "model.safetensors").read_bytes())


def sparse(name):
    """A file of 30 GB that takes no place on the disk."""

    def make_large(folder):
        with (folder / name).open("ab") as file:
            file.truncate(30 * 2**30)

    return make_large


def pipe(name):
    """What ends never."""

    def make_pipe(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return make_pipe


CHECKSUM, CONTENT, DESCRIBED = "SHA-256 that CARD.md names", "weights that config", "to describe"
FILES, NONE = "config.json, model.safetensors and CARD.md in", "a folder of a saved"
NESTED = b"[" * 100_000
DAMAGE = {
    "truncated weights": (truncate, CHECKSUM),
    "a bit flipped": (flip_a_bit("model.safetensors"), CHECKSUM),
    "a bit flipped in the configuration": (flip_a_bit("config.json"), CHECKSUM),
    "weights exchanged": (exchange, CHECKSUM),
    "weights empty": (write("model.safetensors", b""), CHECKSUM),
    "weights missing": (lambda f: (f / "model.safetensors").unlink(), FILES),
    "card missing": (lambda f: (f / "CARD.md").unlink(), FILES),
    "card without a checksum": (write("CARD.md", b"# A network\n"), CHECKSUM),
    "card in no encoding": (write("CARD.md", b"\xff\xfe\x80"), CHECKSUM),
    "bytes that are no weights": (blessed("model.safetensors", b"not weights at all"), CONTENT),
    "no bytes, blessed": (blessed("model.safetensors", b""), CONTENT),
    "weights of another size": (weights_of_another_size, CONTENT),
    "a weight that is NaN": (blessed_weights(unknown_y=torch.full((16,), torch.nan)), CONTENT),
    "a weight too many": (blessed_weights(more=torch.zeros(3)), CONTENT),
    "a weight of complex numbers": (
        blessed_weights(unknown_y=torch.zeros(16, dtype=torch.complex64)),
        CONTENT,
    ),
    "configuration of another size": (edit_config(d_model=32), CONTENT),
    "configuration of more layers": (edit_config(n_layers=3), CONTENT),
    "unknown setting": (edit_config(depth=3), "to describe .*unexpected keyword"),
    "setting of another type": (edit_config(d_model="wide"), DESCRIBED),
    "setting that is a fraction": (edit_config(max_context=30.5), DESCRIBED),
    "setting that is a truth value": (edit_config(max_context=True), DESCRIBED),
    "setting that is no number": (edit_config(frequencies=[1.0, float("nan")]), DESCRIBED),
    "setting of too many numbers": (edit_config(frequencies=[1.0, 2.0, 3.0]), DESCRIBED),
    "setting below zero": (edit_config(frequencies=[-1.0, 2.0]), DESCRIBED),
    "setting of eighty digits": (edit_config(max_context=10**80), DESCRIBED),
    "impossible setting": (edit_config(n_heads=3), "to describe .*multiple of 2"),
    "no heads": (edit_config(n_heads=0), DESCRIBED),
    "negative size": (edit_config(n_features=-1), DESCRIBED),
    "wide layers": (edit_config(d_hidden=2**30), CONTENT),
    "wide tokens": (edit_config(d_model=2**30, n_heads=1), DESCRIBED),
    "many bars": (edit_config(n_bars=2**31 - 1), CONTENT),
    "many layers": (edit_config(n_layers=10**8), DESCRIBED),
    "many features": (edit_config(n_features=2**31 - 1), CONTENT),
    "configuration that is no JSON": (blessed("config.json", b"{"), DESCRIBED),
    "configuration that is no object": (blessed("config.json", b"[1, 2]"), DESCRIBED),
    "configuration of nothing": (blessed("config.json", b'{"network": "pfn"}'), DESCRIBED),
    "settings that are no object": (
        blessed("config.json", b'{"network": "pfn", "config": 3}'),
        DESCRIBED,
    ),
    "configuration in no encoding": (blessed("config.json", b"\xff\xfe\x80"), DESCRIBED),
    "configuration nested without end": (blessed("config.json", NESTED), DESCRIBED),
    "unknown network": (blessed("config.json", b'{"network": "rnn", "config": {}}'), DESCRIBED),
    "network that is no name": (blessed("config.json", b'{"network": []}'), DESCRIBED),
    "configuration missing": (lambda f: (f / "config.json").unlink(), NONE),
    "large weights": (sparse("model.safetensors"), FILES),
    "large configuration": (sparse("config.json"), FILES),
    "large card": (sparse("CARD.md"), FILES),
    "a pipe for the weights": (pipe("model.safetensors"), FILES),
    "a pipe for the configuration": (pipe("config.json"), FILES),
    "a pipe for the card": (pipe("CARD.md"), FILES),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_folders_are_refused(folder, damage, no_shape_checks):
    spoil, message = damage
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        load(folder)
    assert str(error.value).startswith("Expected ")


def test_what_is_no_folder_is_refused(tmp_path, no_shape_checks):
    (tmp_path / "file").write_text("no model")
    no_names = ("", "\0", "a" * 5000, "\ud800", "../gp/config.json", None, 3, ["gp"], b"gp")
    for wrong in (tmp_path / "file", tmp_path, tmp_path / "none", "no-such-network", *no_names):
        with pytest.raises(ValueError, match="Expected a folder of a saved network or one of"):
            load(wrong)


def test_nothing_is_unpickled(folder, tmp_path):
    """A pickle that would run code is refused like any other file."""
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(ran),))

    torch.save({"x": Bomb()}, folder / "model.safetensors")
    bless(folder, "model.safetensors", (folder / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=CONTENT):
        load(folder)
    assert not ran.exists()


# --- what is shipped


@pytest.mark.parametrize("name", available())
def test_shipped_networks_load_and_say_what_they_are(name):
    network = load(name)
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert sum(p.numel() for p in network.parameters()) * 2 < 50e6
    assert len((storage.SHIPPED / name / "CARD.md").read_text()) > 64


def test_the_names_that_the_estimators_take_are_shipped():
    assert {"gp", "gp-1d"} <= set(available())


def test_loading_leaves_random_state_and_precision_alone():
    name = available()[0]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load(name)
    assert torch.equal(torch.rand(3), expected)
    torch.set_default_dtype(torch.float64)
    try:
        parameters = list(load(name).parameters())
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(parameter.dtype == torch.float32 for parameter in parameters)


DT = DistributionTransformerConfig(
    dim=2, channels=("a", "b"), widths=(1, 2), lengths=(0, 3), scale=(1.0, 2.0), d_model=16
)
WRONG_FIELDS = [
    (DT, "dim", 10**9, "at most 1000000"),
    (DT, "widths", (10**6, 10**6), "at most 1000000"),
    (DT, "scale", (1.0, 0.0), "positive scale"),
    (DT, "scale", (1.0, 1.0, 1.0), "scale with 2 numbers"),
    (DT, "channels", ("a", "a"), "distinct channel names"),
    (DT, "channels", ("a", "b.c"), "distinct channel names"),
    (DT, "channels", ("a", 3), "channels of type str"),
    (DT, "n_context", (3,), "fewest, most"),
    (DT, "reads_rows", 1, "reads_rows of type bool"),
    (DT, "n_data_layers", 10**6, "n_data_layers from 0 to 256"),
    (DT, "reach", (float("inf"),), "reach to be finite"),
    (CONFIG, "prior", 3, "prior of type str"),
    (CONFIG, "d_model", 16.0, "d_model of type int"),
    (CONFIG, "n_layers", 0, "n_layers from 1"),
    (TabularPFNConfig(), "stride", 0, "stride from 1"),
    (TabularPFNConfig(), "target", "ranking", "target 'classification' or"),
    (TabularPFNConfig(), "n_cell_blocks", 0, "n_cell_blocks from 1"),
]


@pytest.mark.parametrize(("config", "name", "value", "message"), WRONG_FIELDS)
def test_fields_are_checked(config, name, value, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"^Expected .*{message}"):
        replace(config, **{name: value})


def test_numbers_of_numpy_and_lists_are_read_as_python_has_them(no_shape_checks):
    config = replace(DT, dim=np.int64(2), scale=[1, np.float32(2.5)])
    assert config == replace(DT, scale=(1.0, 2.5))
    assert type(config.dim) is int and type(config.scale[1]) is float
