"""Killed before any call of the system, or in the middle of a write: old or new is there, and what is others'."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ckptmap import renames
from ckptmap.conversion.convert import convert, undo
from ckptmap.errors import ConvertError
from ckptmap.writing import inplace
from tests.convert.plans import plan, read, rename, save
from tests.convert.test_nothing_lost import KEPT, PLAN, state, values

CALLS = (
    *("open", "write", "pwrite", "copy_file_range", "fsync", "fchmod", "fchown", "close", "lseek"),
    *("link", "rename", "replace", "unlink", "mkdir", "rmdir"),
)
KILLED = 9
SMALL = 2500
"""Bytes of a shard for two tensors."""

pytestmark = pytest.mark.filterwarnings("ignore:.*fork")


@contextmanager
def dying_at(number: int) -> Iterator[None]:
    """Let this process die before its so-and-so-manieth call of the system that changes something."""
    left = number

    def counting(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*given: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                if call is before["write"]:
                    descriptor, data = given
                    call(descriptor, data[: len(data) // 2])  # type: ignore[index, arg-type]
                os._exit(KILLED)
            return call(*given, **named)

        return counted

    before = {name: getattr(os, name) for name in CALLS}
    others = [(renames, "rename_by"), (inplace, "_fallocate")]
    with pytest.MonkeyPatch.context() as patch:
        for name, call in before.items():
            patch.setattr(os, name, counting(call))
        for module, name in others:
            patch.setattr(module, name, counting(getattr(module, name)))
        yield


def runs_that_die(run: Callable[[], object]) -> Iterator[int]:
    """A run for every call at which it can die, in a process of its own; ends with one that lives."""
    for number in range(1000):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                with dying_at(number):
                    run()
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, KILLED)
        yield number
        if not code:
            return
    raise AssertionError("it does not end")


def as_transformers_reads(folder: Path) -> dict[str, torch.Tensor]:
    """The single file if there is one, else every shard that the index names."""
    if (folder / "model.safetensors").exists():
        return load_file(folder / "model.safetensors")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    found = {}
    for shard in set(index["weight_map"].values()):
        found.update(load_file(folder / shard))
    assert set(found) == set(index["weight_map"])
    return found


def entries(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


FORMS: Mapping[str, tuple[int | None, int | None]] = {
    "file": (None, None),
    "folder": (None, None),
    "shards": (SMALL, SMALL),
    "other shards": (SMALL, 1300),
    "shards over a file": (None, SMALL),
    "a file over shards": (SMALL, None),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_old_or_the_new_is_there_and_what_is_others(tmp_path: Path, form: str) -> None:
    old, new = save(tmp_path / "old.safetensors", state(1)), save(tmp_path / "new.safetensors", state(2))
    place, before = tmp_path / "place", tmp_path / "before"
    out = place / ("out.safetensors" if form == "file" else "out")
    like = {}
    if form != "file":
        for number in (1, 2):
            (tmp_path / f"like{number}").mkdir()
            (tmp_path / f"like{number}/config.json").write_text(f'{{"number": {number}}}')
            (tmp_path / f"like{number}/merges.txt").write_text("the same")
            like[number] = tmp_path / f"like{number}"
    before.mkdir()
    (before / "notes").write_text("mine")
    convert(PLAN, old, before / out.name, max_shard_size=FORMS[form][0], like=like.get(1))
    if form != "file":
        (before / "out/data").mkdir()
        (before / "out/data/train.txt").write_text("mine")
        (before / "out/pytorch_model.bin").write_text("mine")
    foreign = {name for name in entries(before) if "model" not in name.replace("pytorch_model", "")} - {
        "out.safetensors"
    }

    def run() -> None:
        convert(PLAN, new, out, max_shard_size=FORMS[form][1], like=like.get(2), force=True)

    seen = set()
    shutil.copytree(before, place)
    for _ in runs_that_die(run):
        if form == "file":
            found = values(out)
        else:
            found = {value for tensor in as_transformers_reads(out).values() for value in tensor.tolist()}
            assert found == values(out)
            # An old checkpoint that is still there has its config; what the new one gets can be written again.
            assert found == {2.0} or json.loads((out / "config.json").read_text())["number"] == 1
            assert (out / "pytorch_model.bin").read_text() == (out / "data/train.txt").read_text() == "mine"
        assert found in ({1.0}, {2.0})
        assert foreign <= entries(place)
        seen |= found
        run()  # whatever was left, the next run makes good
        assert values(out) == {2.0}
        expected = foreign | {str(path.relative_to(place)) for path in written(out)}
        assert entries(place) == expected
        shutil.rmtree(place)
        shutil.copytree(before, place)
    assert seen == {1.0, 2.0}


def written(out: Path) -> set[Path]:
    """The files of a checkpoint, found as a reader finds them."""
    if out.is_file():
        return {out}
    index = out / "model.safetensors.index.json"
    if not index.exists():
        return {out / "model.safetensors"}
    return {index, *(out / shard for shard in json.loads(index.read_text())["weight_map"].values())}


@pytest.mark.parametrize("largest", [None, SMALL])
def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path: Path, largest: int | None) -> None:
    new, place = save(tmp_path / "new.safetensors", state(2)), tmp_path / "place"
    like = tmp_path / "like"
    like.mkdir()
    (like / "config.json").write_text("{}")

    def run() -> None:
        convert(PLAN, new, place / "deep/out", max_shard_size=largest, like=like)

    for _ in runs_that_die(run):
        if (place / "deep/out").exists():
            assert values(place / "deep/out") == {2.0}
            assert (place / "deep/out/config.json").read_text() == "{}\n"
        else:
            run()
        assert {path.name for path in (place / "deep").iterdir()} <= {"out", ".ckptmap.lock"}
        shutil.rmtree(place)


@pytest.mark.parametrize("length", [1, 9000])
def test_in_place_the_old_names_or_the_new_ones_are_there(tmp_path: Path, length: int) -> None:
    tensors = {"n": torch.randn(7), "o": torch.randn(5, 3)}
    old, file = save(tmp_path / "old", tensors), tmp_path / "place/a.safetensors"
    longer = plan(rename("n", "m" * length, 7), rename("o", "p", 5, 3))
    file.parent.mkdir()
    shutil.copy(old, file)
    try:
        convert(longer, file, in_place=True)
    except ConvertError:
        pytest.skip("this filesystem cannot grow a file at its front")
    shutil.copy(old, file)
    outcomes = set()
    for _ in runs_that_die(lambda: convert(longer, file, in_place=True)):
        undo(file)
        found = read(file)
        outcomes.add(frozenset(found))
        assert set(found) in ({"n", "o"}, {"m" * length, "p"})
        assert all(
            torch.equal(found.get(new, found.get(name)), tensors[name])
            for name, new in (("n", "m" * length), ("o", "p"))
        )  # type: ignore[arg-type]
        if "n" in found:
            convert(longer, file, in_place=True)
            assert set(read(file)) == {"m" * length, "p"}
        assert entries(file.parent) <= {"a.safetensors", ".ckptmap.lock"} or "n" not in found
        shutil.rmtree(file.parent)
        file.parent.mkdir()
        shutil.copy(old, file)
    assert len(outcomes) == 2


def test_a_residue_goes_with_what_it_was_written_with(tmp_path: Path) -> None:
    (tmp_path / "r.ckptmap").write_text(KEPT)
    place, before = tmp_path / "place", tmp_path / "before"
    for number in (1, 2):
        save(tmp_path / f"{number}.safetensors", {"n": torch.ones(4) * number, "extra": torch.ones(2) * number})
    before.mkdir()

    def run(number: int, folder: Path) -> None:
        convert(
            tmp_path / "r.ckptmap",
            tmp_path / f"{number}.safetensors",
            folder / "out.safetensors",
            residue=folder / "rest.safetensors",
            force=True,
        )

    run(1, before)
    shutil.copytree(before, place)
    seen = set()
    for _ in runs_that_die(lambda: run(2, place)):
        back = convert(tmp_path / "r.ckptmap", place / "out.safetensors", back=True, residue=place / "rest.safetensors")
        found = {value for tensor in back.values() for value in tensor.tolist()}  # type: ignore[union-attr]
        assert found in ({1.0}, {2.0})
        seen |= found
        run(2, place)
        assert entries(place) == {"out.safetensors", "rest.safetensors"}
        shutil.rmtree(place)
        shutil.copytree(before, place)
    assert seen == {1.0, 2.0}
