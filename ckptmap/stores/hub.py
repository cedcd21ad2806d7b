"""Files of a repo on the Hub, read by ranges and from the local cache."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ckptmap.errors import CheckpointError
from ckptmap.stores.base import StoredFile
from ckptmap.stores.hub_http import CHANGED, Answer, HubClient, Place, RefusalError, endpoint
from ckptmap.stores.hub_source import COMMIT, is_inside, is_repo_id, parse_hub_source
from ckptmap.stores.local import LocalStore

__all__ = ["HubStore", "parse_hub_source"]

NO_LISTING = frozenset({404, 405, 410, 500, 501})
"""Statuses of a Hub without a listing of folders; with an X-Error-Code they are an answer."""

_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class HubStore:
    """The files of one folder of a model repo, at one commit.

    One request lists the folder and fixes the commit, or the first file read does when the listing does not say it;
    all later requests name that commit. What lies in the local cache is read there, and everything is when
    HF_HUB_OFFLINE is set. `requests` and `bytes_received` tell what travelled.

    Source: huggingface_hub 2.4.0, `hf_api.py` (listing), `file_download.py` (URLs and the cache's layout).
    """

    def __init__(self, repo_id: str, *, revision: str | None = None, subfolder: str | None = None) -> None:
        self.repo_id = repo_id
        self.revision = revision or "main"
        self.subfolder = (subfolder or "").strip("/")
        self._named_revision = revision
        self._client = HubClient()
        self._commit = self.revision if COMMIT.fullmatch(self.revision) else None
        self._files: Mapping[str, StoredFile] | None = None
        self._folders: set[str] = set()
        self._etags: dict[str, str] = {}
        self._listing_lock = threading.Lock()
        self._commit_lock = threading.Lock()
        # The Hub redirects a renamed repo at every request: its new name saves the second half of them.
        self._current_id = repo_id
        if not is_repo_id(repo_id):
            raise CheckpointError("is not the name of a Hub repo (org/name)", source=repo_id)
        if self.subfolder and not is_inside(self.subfolder):
            raise CheckpointError(f"{self.subfolder!r} is not a folder of a repo", source=repo_id)

    @property
    def label(self) -> str:
        revision = self._commit[:7] if self._commit else self._named_revision
        return self.repo_id + (f"@{revision}" if revision else "") + (f"/{self.subfolder}" if self.subfolder else "")

    @property
    def parallel(self) -> int:
        return 32

    @property
    def commit(self) -> str | None:
        """The commit that everything is read at, once known."""
        return self._commit

    @property
    def requests(self) -> int:
        """Requests sent so far, redirects and retries included."""
        return self._client.requests

    @property
    def bytes_received(self) -> int:
        """Bytes of answers received so far, without headers."""
        return self._client.bytes_received

    def files(self) -> Mapping[str, StoredFile]:
        with self._listing_lock:
            if self._files is None:
                found = self._cached_listing() if _offline() else self._listing()
                self._files = dict(sorted(found.items()))
            return self._files

    def folders(self) -> list[str]:
        """The folders directly below the store's root, as far as the listing told."""
        self.files()
        return sorted(self._folders)

    def size(self, file: str) -> int:
        return self._stored(file).size

    def read(self, file: str, offset: int, length: int) -> bytes:
        stored = self._stored(file)
        if offset + length > stored.size:
            raise self._place(file).error(
                f"the file ends at byte {stored.size}, {offset + length - stored.size} bytes before the asked-for "
                "data does; it is truncated"
            )
        if length == 0:
            return b""
        path = self.local_path(file)
        if path is not None:
            return LocalStore(path.parent).read(path.name, offset, length)
        if self._commit is None:
            # Only one read may choose the commit; the others wait and then name it.
            with self._commit_lock:
                if self._commit is None:
                    answer = self._read_range(file, stored, offset, length)
                    self._fix_commit(answer.commit)
                    return answer.data
        return self._read_range(file, stored, offset, length).data

    def local_path(self, file: str) -> Path | None:
        stored = self.files().get(file)
        if stored is None:
            return None
        folder = self._cache_folder()
        candidates = []
        if self._commit is not None:
            candidates.append(folder / "snapshots" / self._commit / self._in_repo(file))
        digest = (stored.content_hash or "").partition(":")[2]
        if _DIGEST.fullmatch(digest):
            # The cache names contents by the same hashes, so a file is found there whatever commit brought it.
            candidates.append(folder / "blobs" / digest)
        for path in candidates:
            try:
                if path.stat().st_size == stored.size and path.is_file():
                    return path
            except OSError:
                continue
        return None

    def _fix_commit(self, commit: str | None) -> None:
        if self._commit is None and commit is not None and COMMIT.fullmatch(commit):
            self._commit = commit

    def _place(self, file: str = "") -> Place:
        return Place(self.label, self.repo_id, self._commit or self.revision, file)

    def _in_repo(self, file: str) -> str:
        return f"{self.subfolder}/{file}" if self.subfolder else file

    def _stored(self, file: str) -> StoredFile:
        stored = self.files().get(file)
        if stored is not None:
            return stored
        if _offline():
            raise self._place(file).error(
                "is not in the local cache, and HF_HUB_OFFLINE is set: unset it to read the file from the Hub, "
                f"or fetch it first: hf download {self.repo_id} {self._in_repo(file)}"
            )
        raise self._place(file).error("there is no such file in the repo at this revision")

    def _read_range(self, file: str, stored: StoredFile, offset: int, length: int) -> Answer:
        from huggingface_hub import hf_hub_url

        place = self._place(file)
        if _offline():
            self._missing_offline(file)
        url = hf_hub_url(
            self._current_id, self._in_repo(file), revision=self._commit or self.revision, endpoint=endpoint()
        )
        try:
            answer = self._client.range(url, offset, length, stored.size, place)
        except RefusalError as refused:
            # The listing had the file: it can only have gone since.
            if refused.code in ("EntryNotFound", "RevisionNotFound"):
                raise place.error(f"{CHANGED} ({refused.problem})") from None
            raise
        if _differ(answer.etag, stored.content_hash):
            raise place.error(f"{CHANGED} (the file has another content than in the listing)")
        if answer.etag is not None and self._etags.setdefault(file, answer.etag) != answer.etag:
            raise place.error(f"{CHANGED} (the file has another ETag than when it was first read)")
        return answer

    def _missing_offline(self, file: str) -> None:
        raise self._place(file).error(
            "is not in the local cache any more, and HF_HUB_OFFLINE is set: unset it to read the file from the Hub"
        )

    # -- the listing ---------------------------------------------------------------------------------------------

    def _listing(self) -> Mapping[str, StoredFile]:
        url = f"{self._api()}/tree/{quote(self.revision, safe='')}"
        if self.subfolder:
            url += "/" + quote(self.subfolder, safe="")
        place = self._place()
        try:
            entries, response = self._client.pages(url, place, {"recursive": "false", "expand": "false"})
        except RefusalError as refused:
            if refused.code == "EntryNotFound":
                raise place.error(f"the repo has no folder {self.subfolder!r} at this revision") from None
            if refused.code or refused.status not in NO_LISTING:
                raise
            return self._listing_of_repo(refused)
        # The first answer of a redirected request names the repo as it is called now.
        moved = re.search(r"/api/models/(.+?)/tree/", urlsplit(str(response.url)).path)
        if moved and is_repo_id(unquote(moved[1])):
            self._current_id = unquote(moved[1])
        self._fix_commit(response.headers.get("x-repo-commit"))
        return self._in_folder(entries, "path")

    def _listing_of_repo(self, refused: RefusalError) -> Mapping[str, StoredFile]:
        """The same from what the Hub tells of the whole repo; some mirrors list no folder but do answer this."""
        place = self._place()
        try:
            info, _ = self._client.json(
                f"{self._api()}/revision/{quote(self.revision, safe='')}", place, params={"blobs": "true"}
            )
            siblings = info["siblings"]
            if any("size" not in sibling for sibling in siblings):
                names = [sibling["rfilename"] for sibling in siblings]
                form = {"paths": names, "expand": "false"}
                siblings, _ = self._client.json(
                    f"{self._api()}/paths-info/{quote(info['sha'], safe='')}", place, form=form
                )
            self._fix_commit(info["sha"])
        except (RefusalError, KeyError, TypeError):
            raise refused from None
        return self._in_folder(siblings, "path" if "path" in next(iter(siblings), {}) else "rfilename")

    def _in_folder(self, entries: Iterable[Mapping[str, Any]], name_field: str) -> Mapping[str, StoredFile]:
        prefix = f"{self.subfolder}/" if self.subfolder else ""
        found = {}
        try:
            for entry in entries:
                name = str(entry[name_field])
                file = name.removeprefix(prefix)
                is_file = entry.get("type", "file") == "file"
                if name.startswith(prefix) and (not is_file or "/" in file) and is_inside(name):
                    self._folders.add(file.partition("/")[0])
                if not is_file or not name.startswith(prefix) or "/" in file:
                    continue
                if is_inside(name):
                    found[file] = _stored_file(entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._place().error(f"the listing is not a Hub's; is {endpoint()} one? Check HF_ENDPOINT") from None
        return found

    def _api(self) -> str:
        return f"{endpoint()}/api/models/{self._current_id}"

    # -- the cache -----------------------------------------------------------------------------------------------

    def _cache_folder(self) -> Path:
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE).expanduser() / "--".join(("models", *self.repo_id.split("/")))

    def _cached_listing(self) -> Mapping[str, StoredFile]:
        """What the cache holds of the folder; a snapshot may be partial, and then so is this."""
        folder = self._cache_folder()
        online = "unset it to read from the Hub"
        fetch = f"hf download {self.repo_id}" + (f" --revision {self.revision}" if self._named_revision else "")
        if self._commit is None and is_inside(self.revision):
            with suppress(OSError, ValueError):
                self._fix_commit((folder / "refs" / self.revision).read_text().strip())
        snapshot = folder / "snapshots" / (self._commit or "unknown")
        if not snapshot.is_dir():
            what = f"revision {self.revision!r} of the repo" if folder.is_dir() else "the repo"
            raise self._place().error(
                f"{what} is not in the local cache ({folder}), and HF_HUB_OFFLINE is set: {online}, "
                f"or fetch it first: {fetch}"
            )
        try:
            with os.scandir(snapshot / self.subfolder) as entries:
                return {
                    entry.name: StoredFile(entry.stat().st_size, _blob_hash(entry))
                    for entry in entries
                    if entry.is_file()
                }
        except OSError:
            raise self._place().error(
                f"the folder is not in the local cache ({snapshot}), and HF_HUB_OFFLINE is set: {online}, "
                f"or fetch it first: {fetch}"
            ) from None


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def _stored_file(entry: Mapping[str, Any]) -> StoredFile:
    """Size and hash of a file as the Hub lists it: sha256 of a large file, git's own hash of a small one."""
    lfs = entry.get("lfs")
    size = int(lfs["size"] if lfs else entry["size"])
    sha256 = lfs.get("oid") or lfs.get("sha256") if lfs else None
    blob = entry.get("oid") or entry.get("blobId")
    if sha256:
        return StoredFile(size, f"sha256:{sha256}")
    if entry.get("xetHash"):
        return StoredFile(size, f"xet:{entry['xetHash']}")
    return StoredFile(size, f"git:{blob}" if blob else None)


def _blob_hash(entry: os.DirEntry[str]) -> str | None:
    """A snapshot links to contents that are named by their hash."""
    if not entry.is_symlink():
        return None
    name = os.path.basename(os.readlink(entry.path))
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return f"sha256:{name}"
    return f"git:{name}" if COMMIT.fullmatch(name) else None


def _differ(etag: str | None, content_hash: str | None) -> bool:
    """Whether a file's ETag contradicts its listed hash; one of another kind says nothing."""
    kind, _, listed = (content_hash or "").partition(":")
    length = {"sha256": 64, "git": 40}.get(kind)
    return (
        etag is not None
        and length is not None
        and bool(re.fullmatch(rf"[0-9a-f]{{{length}}}", etag))
        and etag != listed
    )
