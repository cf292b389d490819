"""Weights on disk: what is saved comes back, and nothing else does."""

import hashlib
import json
import os
import shutil
from dataclasses import replace

import pytest
import torch

from amortized.networks import PFN, PFNConfig
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


def test_saving_replaces_the_whole_folder(folder):
    (folder / "stray.txt").write_text("old")
    save(make(seed=1), folder)
    assert not (folder / "stray.txt").exists()
    torch.testing.assert_close(predict(load(folder)), predict(make(seed=1)), rtol=0.02, atol=0.02)
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


@pytest.mark.parametrize("step", ["write_bytes", "write_text", "replace"])
def test_a_save_that_fails_leaves_the_old_in_place(folder, monkeypatch, step):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    if step == "replace":
        calls = []
        replace_file = os.replace

        def second_fails(*args):
            calls.append(args)
            return full() if len(calls) == 2 else replace_file(*args)

        monkeypatch.setattr(os, "replace", second_fails)
    else:
        monkeypatch.setattr(type(folder), step, full)
    with pytest.raises(OSError, match="No space left"):
        save(make(seed=1), folder)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    # And the next save works in spite of what was left behind.
    save(make(seed=1), folder)
    assert load(folder).config == CONFIG
    assert [path.name for path in folder.parent.iterdir()] == ["net"]


def test_other_modules_are_refused(tmp_path):
    with pytest.raises(TypeError, match="network of type .*PFN.*; got Linear"):
        save(torch.nn.Linear(1, 1), tmp_path / "net")
    assert not list(tmp_path.iterdir())


def edit_config(**changed):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        config["config"] |= changed
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def truncate(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def flip_a_bit(folder):
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-50] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(weights))


def exchange(folder):
    other = save(make(seed=1), folder.parent / "other")
    shutil.copy(other / "model.safetensors", folder)


def bless(content):
    """Bytes that are no weights, under a card that names their checksum."""

    def damage(folder):
        (folder / "model.safetensors").write_bytes(content)
        (folder / "CARD.md").write_text(hashlib.sha256(content).hexdigest())

    return damage


def card_of_another_size(folder):
    other = save(make(replace(CONFIG, d_model=32)), folder.parent / "other")
    shutil.copy(other / "model.safetensors", folder)
    shutil.copy(other / "CARD.md", folder)


CHECKSUM, CONTENT, DESCRIBED = "SHA-256 that CARD.md names", "weights that config", "to describe"
DAMAGE = {
    "truncated weights": (truncate, CHECKSUM),
    "a bit flipped": (flip_a_bit, CHECKSUM),
    "weights exchanged": (exchange, CHECKSUM),
    "weights empty": (write("model.safetensors", b""), CHECKSUM),
    "weights missing": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors and CARD"),
    "card missing": (lambda f: (f / "CARD.md").unlink(), "model.safetensors and CARD"),
    "card without a checksum": (write("CARD.md", b"# A network\n"), CHECKSUM),
    "card in no encoding": (write("CARD.md", b"\xff\xfe\x80"), "model.safetensors and CARD"),
    "bytes that are no weights": (bless(b"not weights at all"), CONTENT),
    "no bytes, blessed": (bless(b""), CONTENT),
    "weights of another size": (card_of_another_size, CONTENT),
    "configuration of another size": (edit_config(d_model=32), CONTENT),
    "configuration of more layers": (edit_config(n_layers=3), CONTENT),
    "unknown setting": (edit_config(depth=3), "to describe .*unexpected keyword"),
    "setting of another type": (edit_config(d_model="wide"), DESCRIBED),
    "impossible setting": (edit_config(n_heads=3), "to describe .*multiple of 2"),
    "negative size": (edit_config(n_features=-1), DESCRIBED),
    "configuration that is no JSON": (write("config.json", b"{"), DESCRIBED),
    "configuration that is no object": (write("config.json", b"[1, 2]"), DESCRIBED),
    "configuration in no encoding": (write("config.json", b"\xff\xfe\x80"), DESCRIBED),
    "unknown network": (write("config.json", b'{"network": "rnn", "config": {}}'), DESCRIBED),
    "configuration missing": (lambda f: (f / "config.json").unlink(), "a folder of a saved"),
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
    for wrong in (tmp_path / "file", tmp_path, tmp_path / "none", "no-such-network", ""):
        with pytest.raises(ValueError, match="Expected a folder of a saved network or one of"):
            load(wrong)


def test_nothing_is_unpickled(folder, tmp_path):
    """A pickle that would run code is refused like any other file."""
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(ran),))

    torch.save({"x": Bomb()}, folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    bless(content)(folder)
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
