"""Which Hub repo a text names."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from ckptmap.errors import CheckpointError

COMMIT = re.compile(r"[0-9a-f]{40}")

_SEGMENT = re.compile(r"\b[\w\-.]{1,96}\b", re.ASCII)
_REVISION_WITH_SLASHES = re.compile(r"refs/(?:convert/[\w.-]+|pr/\d+|heads/[^/]+|tags/[^/]+)")
_HUB_HOSTS = ("huggingface.co", "hf.co", "www.huggingface.co")
_OTHER_TYPES = ("datasets", "spaces", "kernels", "buckets")


def parse_hub_source(text: str) -> tuple[str, str | None, str | None] | None:
    """Repo id, revision and subfolder of `org/name[@revision][/sub/folder]`, or None if it cannot be one.

    `hf://` may stand before it, and `models/` after that. The address of a page of the Hub names a repo too
    (`https://huggingface.co/org/name/tree/revision/sub/folder`). A name without a slash is one of the Hub's old models
    (`gpt2`). A revision with slashes is a known kind of ref (`@refs/pr/3`) or url-quoted (`@refs%2Fpr%2F3`).

    Raises:
        CheckpointError: It starts with `hf://` or `https://` and is not the name of a model repo.

    Source: huggingface_hub 2.4.0, `utils/_hf_uris.py` (grammar) and `utils/_validators.py` (names).
    """
    if text.startswith(("https://", "http://")):
        return _parse_url(text)
    if not text.startswith("hf://"):
        return _parse(text.removesuffix("/"))
    body = text.removeprefix("hf://").strip("/")
    if body.startswith(tuple(f"{kind}/" for kind in _OTHER_TYPES)):
        raise CheckpointError("only model repos hold checkpoints: hf://org/name[@revision][/folder]", source=text)
    parsed = _parse(body.removeprefix("models/"))
    if parsed is None:
        raise CheckpointError("is not the address of a model repo: hf://org/name[@revision][/folder]", source=text)
    return parsed


def _parse_url(text: str) -> tuple[str, str | None, str | None]:
    from ckptmap.stores.hub_http import endpoint

    url, hub = urlsplit(text), urlsplit(endpoint())
    if url.netloc not in (*_HUB_HOSTS, hub.netloc):
        raise CheckpointError(f"is not an address of {endpoint()}; download the file and name it", source=text)
    body = (url.path.removeprefix(hub.path.rstrip("/")) if url.netloc == hub.netloc else url.path).strip("/")
    if body.partition("/")[0] in _OTHER_TYPES:
        raise CheckpointError("only model repos hold checkpoints: hf://org/name[@revision][/folder]", source=text)
    page = re.fullmatch(r"([^/]+(?:/[^/]+)?)/(?:tree|blob|resolve)/(.+)", body)
    parsed = _parse(f"{page[1]}@{page[2]}" if page else body)
    if parsed is None or (page is None and parsed[2] is not None):
        raise CheckpointError("is not the page of a model repo: …/org/name[/tree/revision[/folder]]", source=text)
    repo_id, revision, folder = parsed
    return repo_id, revision, unquote(folder) if folder else None


def is_repo_id(text: str) -> bool:
    """Whether the Hub would accept this as the name of a repo."""
    parts = text.split("/")
    return (
        1 <= len(parts) <= 2
        and all(_SEGMENT.fullmatch(part) for part in parts)
        and "--" not in text
        and ".." not in text
        and not text.endswith(".git")
    )


def _parse(text: str) -> tuple[str, str | None, str | None] | None:
    head, at, tail = text.partition("@")
    if at and head.count("/") <= 1:
        repo_id = head
        known = _REVISION_WITH_SLASHES.match(tail)
        end = known.end() if known else 0
        slash = tail.find("/", end)
        quoted, folder = (tail, "") if slash < 0 else (tail[:slash], tail[slash + 1 :])
        revision = unquote(quoted)
        if not revision or (slash >= 0 and not folder):
            return None
    else:
        # An @ further down belongs to a file's name.
        parts = text.split("/", 2)
        repo_id, folder, revision = "/".join(parts[:2]), "".join(parts[2:]), None
        if len(parts) == 3 and not folder:
            return None
    if not is_repo_id(repo_id) or (folder and not is_inside(folder)):
        return None
    return repo_id, revision, folder or None


def is_inside(path: str) -> bool:
    """Whether a path goes down from where it starts, never up or elsewhere."""
    return all(part not in ("", ".", "..") and "\\" not in part and "\0" not in part for part in path.split("/"))
