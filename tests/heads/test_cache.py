"""The inventory cache: the same answers, whatever the disk does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    BertConfig,
    BertForPreTraining,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ckptmap.heads import class_inventory, heads
from ckptmap.heads.cache import cache_folder, cache_key, cached

ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 8,
}
MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertForPreTraining(BertConfig(**TINY)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=12, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2)
    ),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**TINY, num_key_value_heads=1, num_local_experts=2)),
}
CONFIG = {"model_type": "bert", **TINY}
SAVED = "BertForPreTraining"
"""The class that the checkpoint of `bert` names: no other is asked for beside it."""
KEY = ("BertModel", CONFIG, {"num_labels": 2}, {"a": "b", "b": "c"})

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "not text": lambda content: b"\x80\xff" + content,
    "null": lambda content: b"null",
    "a list": lambda content: b"[]",
    "another object": lambda content: b'{"class_name": "BertModel"}',
    "no rules": lambda content: _without(content, "rules"),
    "rows of another width": lambda content: _with(content, "tensors", [["a", [1]]]),
    "a rule of another width": lambda content: _with(content, "rules", [["rename", ["a"], ["b"]]]),
    "a number for a list": lambda content: _with(content, "ties", 3),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CKPTMAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "heads"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    MODELS["bert"]().save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The classes that are built from here on."""
    from ckptmap.heads import library

    names: list[str] = []
    build = library.build

    def counting(cls: Any, config: Any) -> Any:
        names.append(cls.__name__)
        return build(cls, config)

    monkeypatch.setattr(library, "build", counting)
    return names


def _with(content: bytes, field: str, value: Any) -> bytes:
    return json.dumps({**json.loads(content), field: value}).encode()


def _without(content: bytes, field: str) -> bytes:
    fields = json.loads(content)
    del fields[field]
    return json.dumps(fields).encode()


@pytest.mark.parametrize("family", MODELS)
def test_cached_and_uncached_answers_are_equal(family: str, tmp_path: Path, folder: Path, builds: list[str]) -> None:
    MODELS[family]().save_pretrained(tmp_path / family)
    for overrides in ({}, {"num_labels": 5}):
        uncached = heads(tmp_path / family, config_overrides=overrides, use_cache=False)
        first = heads(tmp_path / family, config_overrides=overrides)
        builds.clear()
        assert heads(tmp_path / family, config_overrides=overrides) == first == uncached
        assert not builds
    assert len(list(folder.iterdir())) == 2 * len(uncached)


def test_an_inventory_survives_the_disk_whole(folder: Path) -> None:
    config = {"model_type": "mixtral", **TINY, "num_key_value_heads": 1, "num_local_experts": 2}
    fresh = class_inventory("MixtralForCausalLM", config, {}, {"^old": "new"})
    assert [rule.kind for rule in fresh.rules].count("convert") == 2
    (entry,) = folder.iterdir()
    assert cached(entry.name) == fresh
    assert entry.name.startswith("MixtralForCausalLM-")


def test_nothing_is_kept_or_read_when_not_asked_to(bert: Path, folder: Path, builds: list[str]) -> None:
    heads(bert, [SAVED], use_cache=False)
    assert not folder.exists()
    heads(bert, [SAVED])
    heads(bert, [SAVED], use_cache=False)
    assert builds == [SAVED] * 3


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_a_miss_and_repaired(damage: str, bert: Path, folder: Path, builds: list[str]) -> None:
    answer = heads(bert, [SAVED])
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(DAMAGE[damage](whole))
    assert cached(entry.name) is None
    assert heads(bert, [SAVED]) == answer
    assert entry.read_bytes() == whole
    assert builds == [SAVED] * 2


def test_an_entry_that_cannot_be_read_or_replaced_is_no_error(bert: Path, folder: Path) -> None:
    answer = heads(bert, [SAVED])
    (entry,) = folder.iterdir()
    entry.unlink()
    entry.mkdir()
    assert heads(bert, [SAVED]) == answer
    assert not list(folder.glob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_no_error(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = heads(bert, [SAVED], use_cache=False)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CKPTMAP_CACHE", str(tmp_path / "file"))
    assert heads(bert, [SAVED]) == answer
    monkeypatch.setenv("CKPTMAP_CACHE", "/proc/nowhere")
    assert heads(bert, [SAVED]) == answer


def test_a_full_disk_is_no_error_and_leaves_nothing(bert: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert set(heads(bert, [SAVED])) == {SAVED}
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    "other",
    [
        ("BertForMaskedLM", *KEY[1:]),
        (KEY[0], {**CONFIG, "vocab_size": 13}, *KEY[2:]),
        (KEY[0], {**CONFIG, "id2label": {"0": "a"}}, *KEY[2:]),
        (*KEY[:2], {"num_labels": 3}, KEY[3]),
        (*KEY[:2], {}, KEY[3]),
        (*KEY[:3], {"a": "b", "b": "d"}),
        (*KEY[:3], None),
        # Rules apply in turn, so their order is part of what they mean.
        (*KEY[:3], {"b": "c", "a": "b"}),
    ],
)
def test_whatever_an_inventory_depends_on_is_in_its_key(other: tuple[Any, ...]) -> None:
    assert cache_key(*KEY) != cache_key(*other)


def test_the_order_of_a_config_is_not_in_the_key() -> None:
    assert cache_key(*KEY) == cache_key(KEY[0], dict(reversed(CONFIG.items())), *KEY[2:])


def test_another_release_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    from ckptmap.heads import cache

    now = cache_key(*KEY)
    for package in ("transformers", "torch"):
        with monkeypatch.context() as patched:
            patched.setattr(cache, "_version", lambda name, package=package: "9.9" if name == package else "1")
            other = cache_key(*KEY)
        assert other != now
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert cache_key(*KEY) != now


def test_the_order_of_a_key_mapping_decides_with_the_cache_too(bert: Path) -> None:
    state = {f"net.{name}": tensor for name, tensor in MODELS["bert"]().state_dict().items()}
    config = json.loads((bert / "config.json").read_text())
    mapping = {"^net": "old", r"^old\.": ""}
    whole = heads(state, [SAVED], config=config, key_mapping=mapping)
    none = heads(state, [SAVED], config=config, key_mapping=dict(reversed(mapping.items())))
    assert whole[SAVED].verdict == "ready"
    assert none[SAVED].verdict == "backbone not loaded"


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache" / "heads"
    monkeypatch.delenv("CKPTMAP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "ckptmap" / "heads"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ckptmap" / "heads"


CONCURRENT = """
import sys
from ckptmap.heads import cache
from ckptmap.heads.inventory import ClassInventory
key, rounds = sys.argv[1], int(sys.argv[2])
inventory = cache.cached(key)
assert inventory is not None
for _ in range(rounds):
    cache.keep(key, inventory)
    assert cache.cached(key) == inventory, "a torn entry"
"""


def test_processes_that_write_one_entry_never_see_half_of_it(bert: Path, folder: Path) -> None:
    heads(bert, [SAVED])
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    argv = [sys.executable, "-c", CONCURRENT, entry.name, "150"]
    processes = [subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert [path.name for path in folder.iterdir()] == [entry.name]
    assert entry.read_bytes() == whole


WARM = """
import json, sys
from ckptmap.heads import heads
report = heads(sys.argv[1])
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "numpy", "safetensors"})
print(json.dumps([sorted(report), heavy]))
"""


def test_a_warm_run_imports_neither_torch_nor_transformers(bert: Path, folder: Path) -> None:
    report = heads(bert)
    done = subprocess.run([sys.executable, "-c", WARM, str(bert)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [sorted(report), []]
