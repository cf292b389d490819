"""Saving beside kills, full disks, other writers and things that are not ours."""

import errno
import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from amortized.files.atomic import beside, replace_file
from amortized.networks import PFN, PFNConfig
from amortized.pretrained import load, replace_card, save
from amortized.pretrained.folders import in_place

CONFIG = PFNConfig(n_features=1, max_context=9, d_model=8, n_heads=2, n_layers=1, n_bars=4)
CALLS = ("open", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


def network(value):
    """A network that can be told from others by its weights."""
    made = PFN(CONFIG)
    with torch.no_grad():
        made.unknown_y.fill_(value)
    return made


def value_at(path):
    return load(path).unknown_y[0].item()


def dies_at(step, act):
    """Runs an action in a child process that ends at its n-th call to the file system.

    Returns:
        whether it came to that.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = 0

    def counted(call):
        def wrapped(*args, **kwargs):
            nonlocal count
            if count == step:
                os._exit(9)
            count += 1
            return call(*args, **kwargs)

        return wrapped

    try:
        for name in CALLS[1:]:
            setattr(os, name, counted(getattr(os, name)))
        Path.open = counted(Path.open)
        act()
        os._exit(0)
    finally:
        os._exit(1)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")


@needs_fork
@pytest.mark.parametrize("before", ["nothing", "a network", "a link to a network"])
def test_who_is_killed_leaves_the_old_or_the_new(tmp_path, before):
    place = tmp_path / "place"
    place.mkdir()
    path, step, seen = place / "net", 0, set()
    if before == "a link to a network":
        path.symlink_to(tmp_path / "elsewhere")
    while True:
        old = None if before == "nothing" and step == 0 else float(step)
        if old is not None:
            save(network(old), path)
        died = dies_at(step, partial(save, network(step + 0.5), path))
        try:
            seen.add(found := value_at(path))
        except ValueError as error:
            assert old is None, error
        else:
            assert found in (old, step + 0.5)
        assert path.is_symlink() == (before == "a link to a network")
        if not died:
            break
        step += 1
    assert step > 10 and {value % 1 for value in seen} == {0.0, 0.5}
    later = time.time() + 4000  # what the killed ones left is not kept for ever
    for folder in (place, tmp_path):
        for entry in folder.glob(".*.fresh"):
            os.utime(entry, (later - 8000, later - 8000))
    save(network(99.0), path)
    assert value_at(path) == 99
    assert not [*place.glob(".*"), *tmp_path.glob(".*")]


@needs_fork
def test_who_is_killed_while_replacing_the_card_leaves_one(tmp_path):
    path, step = save(network(1.0), tmp_path / "net", "old"), 0
    while dies_at(step, lambda: replace_card(path, "new")):
        assert value_at(path) == 1 and (path / "CARD.md").read_text()[:3] in ("old", "new")
        step += 1
    assert step > 2 and (path / "CARD.md").read_text().startswith("new")
    assert value_at(save(network(2.0), path)) == 2  # what is left of the card is ours


def test_the_old_network_is_read_while_the_new_one_is_not_in_place(tmp_path):
    path = save(network(1.0), tmp_path / "net")
    os.rename(path, beside(path, "aside"))
    assert value_at(path) == 1
    other = save(network(2.0), tmp_path / "net.v2")
    os.rename(other, beside(other, "aside"))
    assert in_place(path).name.startswith(".net.") and value_at(path) == 1
    assert value_at(other) == 2
    save(network(3.0), path)
    assert value_at(path) == 3 and value_at(other) == 2


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_full_disk_leaves_the_old_and_no_rubbish(tmp_path, monkeypatch, call, count):
    path, seen = save(network(1.0), tmp_path / "net"), 0
    owner = Path if call == "open" else os
    real = getattr(owner, call)

    def full(*args, **kwargs):
        nonlocal seen
        if call != "open" or "xb" in args:  # reading takes no space
            seen += 1
            if seen == count + 1:
                raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, call, full)
    try:
        save(network(2.0), path)
    except OSError as error:
        assert "No space left" in str(error)
        expected = {1.0} if call in ("open", "fsync", "mkdir") else {1.0, 2.0}
    else:
        expected = {2.0}
    monkeypatch.undo()
    assert value_at(path) in expected
    if call in ("open", "fsync", "mkdir"):
        assert [entry.name for entry in tmp_path.iterdir()] == ["net"]


def test_writers_and_readers_of_one_folder(tmp_path):
    """Four threads and a process write, others read: always one of the networks, whole."""
    path, errors, end = save(network(0.0), tmp_path / "net"), [], time.monotonic() + 2.0

    def work(act):
        try:
            while time.monotonic() < end:
                act()
        except BaseException as error:
            errors.append(error)

    def write(value):
        return lambda: save(network(value), path)

    def read():
        assert value_at(path) in (0, 1, 2, 3, 4)

    child = os.fork() if hasattr(os, "fork") else None
    if child == 0:
        work(write(4.0))
        os._exit(len(errors))
    acts = [write(1.0), write(2.0), write(3.0), read, read]
    threads = [threading.Thread(target=work, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not errors
    read()
    save(network(5.0), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net"]


def test_a_folder_that_comes_and_goes_between_two_moves(tmp_path, monkeypatch):
    """A second writer moves its folder into the place, and a third moves that aside."""
    path, moves, rename = save(network(0.0), tmp_path / "net"), [], os.rename

    def crossed(source, target):
        moves.append((source, target))
        if len(moves) == 2:  # the first has moved the old folder aside
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        rename(source, target)

    monkeypatch.setattr("amortized.pretrained.folders.os.rename", crossed)
    save(network(1.0), path)
    assert value_at(path) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["net"]


def test_writers_of_one_file(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([65 + i]) * 5000 for i in range(4)]

    def write(content):
        for _ in range(10):
            replace_file(path, content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and list(tmp_path.iterdir()) == [path]


def thesis(folder):
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")


def network_and_thesis(folder):
    save(network(0.0), folder)
    (folder / "thesis.tex").write_text("years of work")


def another_library(folder):
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["Bert"]}')
    (folder / "model.safetensors").write_bytes(b"precious")


def nested(folder):
    save(network(0.0), folder)
    (folder / "CARD.md").unlink()
    (folder / "CARD.md").mkdir()


OTHERS = {
    "a folder of the user's": thesis,
    "a file of the user's beside a network": network_and_thesis,
    "another library's network": another_library,
    "a folder of the name of a file": nested,
    "a file": lambda path: path.write_text("years of work"),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_not_ours_is_left_alone(tmp_path, make, linked):
    real = path = tmp_path / "place"
    make(real)
    if linked:
        path = tmp_path / "link"
        path.symlink_to(real)

    def state():
        return {p: p.is_file() and p.read_bytes() for p in sorted(tmp_path.rglob("*"))}

    before = state()
    with pytest.raises(ValueError, match=r"^Expected a .* for the network|^Expected a new folder"):
        save(network(1.0), path)
    assert state() == before


def test_an_empty_folder_and_a_link_are_written_to(tmp_path):
    (tmp_path / "empty").mkdir()
    save(network(1.0), tmp_path / "empty")
    link = tmp_path / "link"
    link.symlink_to("empty")
    save(network(2.0), link)
    assert link.is_symlink() and value_at(link) == value_at(tmp_path / "empty") == 2
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "link"]
