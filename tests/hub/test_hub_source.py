"""Which texts name a Hub repo, and which repo."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ckptmap
from ckptmap.stores.hub import parse_hub_source
from tests.hub.conftest import problem

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("org/name", ("org/name", None, None)),
        ("org/name/", ("org/name", None, None)),
        ("gpt2", ("gpt2", None, None)),
        ("gpt2@v1", ("gpt2", "v1", None)),
        ("gpt2@v1/sub", ("gpt2", "v1", "sub")),
        ("org/name@v1.0", ("org/name", "v1.0", None)),
        (f"org/name@{COMMIT}", ("org/name", COMMIT, None)),
        ("org/name/sub/folder", ("org/name", None, "sub/folder")),
        ("org/name@v1/sub/folder", ("org/name", "v1", "sub/folder")),
        ("org/name@refs/pr/3", ("org/name", "refs/pr/3", None)),
        ("org/name@refs/pr/3/sub", ("org/name", "refs/pr/3", "sub")),
        ("org/name@refs%2Fpr%2F3/sub", ("org/name", "refs/pr/3", "sub")),
        ("org/name@feature%2Fx", ("org/name", "feature/x", None)),
        ("org/name/a@b.bin", ("org/name", None, "a@b.bin")),
        ("hf://org/name", ("org/name", None, None)),
        ("hf://org/name@rev/sub", ("org/name", "rev", "sub")),
        ("hf://models/org/name@rev/sub", ("org/name", "rev", "sub")),
        ("hf://gpt2", ("gpt2", None, None)),
        ("", None),
        (".", None),
        ("./org/name", None),
        ("../name", None),
        ("/org/name", None),
        ("~/name", None),
        ("org//name", None),
        ("org/name//x", None),
        ("org/name/../x", None),
        ("org/name@", None),
        ("org/name@/sub", None),
        ("@v1", None),
        ("C:\\models", None),
        ("module:callable", None),
        ("org/name#Class", None),
        ("org--x/name", None),
        ("org/name.git", None),
        ("org/na me", None),
        ("caf\u00e9/name", None),
    ],
)
def test_parse(text: str, parsed: tuple[str, str | None, str | None] | None) -> None:
    assert parse_hub_source(text) == parsed


@pytest.mark.parametrize("text", ["hf://", "hf://../x", "hf://org//name", "hf://org/name@"])
def test_hf_addresses_that_are_none(text: str) -> None:
    assert "is not the address of a model repo" in problem(lambda: parse_hub_source(text))


@pytest.mark.parametrize(
    ("path", "parsed"),
    [
        ("org/name", ("org/name", None, None)),
        ("gpt2/", ("gpt2", None, None)),
        ("org/name/tree/main", ("org/name", "main", None)),
        ("org/name/tree/v1/sub/folder", ("org/name", "v1", "sub/folder")),
        ("org/name/blob/main/sub/model.safetensors", ("org/name", "main", "sub/model.safetensors")),
        ("org/name/resolve/refs%2Fpr%2F3/a%20b.bin?download=true", ("org/name", "refs/pr/3", "a b.bin")),
    ],
)
def test_pages_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, path: str, parsed: tuple[str, str | None, str | None]
) -> None:
    assert parse_hub_source(f"https://huggingface.co/{path}") == parsed
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://mirror:8080/hf")
    assert parse_hub_source(f"http://mirror:8080/hf/{path}") == parsed


def test_addresses_that_are_no_pages_of_model_repos() -> None:
    said = {
        "https://example.org/org/name": "is not an address of",
        "https://huggingface.co/datasets/org/name": "only model repos",
        "https://huggingface.co/org/name/discussions": "is not the page of a model repo",
        "https://huggingface.co/": "is not the page of a model repo",
        "https://huggingface.co/org/name/tree/main/../x": "is not the page of a model repo",
        "https://huggingface.co/org/name/tree/main/%2E%2E/x": "is not a folder of a repo",
    }
    for text, words in said.items():
        assert words in problem(lambda text=text: ckptmap.open_checkpoint(text))


@pytest.mark.parametrize("kind", ["datasets", "spaces", "kernels", "buckets"])
def test_only_model_repos(kind: str) -> None:
    assert "only model repos hold checkpoints" in problem(lambda: parse_hub_source(f"hf://{kind}/org/name"))


def test_as_the_hub_client_does() -> None:
    from huggingface_hub.utils import parse_hf_uri

    for text in ("org/name", "org/name@v1/a/b", "org/name@refs/pr/3/b", "org/name@refs%2Fpr%2F3", "org/name/f@1.txt"):
        theirs = parse_hf_uri(f"hf://{text}")
        assert parse_hub_source(text) == (theirs.id, theirs.revision, theirs.path_in_repo or None)


def test_the_hub_client_is_not_loaded_before_it_is_used() -> None:
    code = (
        "import sys, ckptmap.stores.hub as hub; hub.parse_hub_source('a/b'); hub.HubStore('a/b');"
        "print([name for name in sys.modules if name.split('.')[0] in ('huggingface_hub', 'httpx2')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
