"""A small Hub on 127.0.0.1, serving repos from local folders, with faults on demand; for tests and benchmarks.

    with LoopbackHub() as hub:
        hub.add_repo("acme/tiny", folder)
        hub.fault("model.safetensors", status=503, times=2)
        ...                                      # HF_ENDPOINT = hub.url
        hub.log                                  # what was asked, and what was answered

Source: what huggingface_hub 2.4.0 asks of a Hub (`hf_api.py`, `file_download.py`) and how it reads the answers.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt", ".gguf")
TOKEN = "hf_loopback"
MESSAGES = {
    "RepoNotFound": "Repository not found",
    "RevisionNotFound": "Invalid rev id",
    "EntryNotFound": "Entry not found",
    "GatedRepo": "Access to this model is restricted and you are not in the authorized list",
}


@dataclass(frozen=True)
class Logged:
    """One request and its answer; `sent` counts bytes of the body."""

    server: str
    method: str
    path: str
    range: str | None
    status: int
    sent: int
    authorization: str | None


@dataclass
class Fault:
    """What to do to the next `times` requests whose path matches (None: to all)."""

    pattern: str
    times: int | None = 1
    method: str | None = None
    status: int | None = None
    code: str | None = None
    message: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    drop_after: int | None = None
    stall_after: int | None = None
    drip: float | None = None
    ignore_range: bool = False
    unsized: bool = False
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class RepoFile:
    """A file of a commit, with the names git and LFS give its content."""

    path: Path
    size: int
    oid: str
    sha256: str | None

    def listed(self, name: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "oid": self.oid, "size": self.size, "path": name}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return entry


@dataclass
class Repo:
    """A repo: its commits by hash and its branches by name."""

    gated: bool = False
    private: bool = False
    commits: dict[str, dict[str, RepoFile]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)


class LoopbackHub:
    """The server; a context manager.

    Args:
        cdn: Where large files are redirected to: "same" host, "other" host (another port), or None to send them.
        latency: Seconds before each answer.
        page_size: Entries on one page of a listing.
        commit_in_listing: Whether a listing says its commit (X-Repo-Commit).
    """

    def __init__(
        self,
        *,
        cdn: str | None = None,
        latency: float = 0.0,
        page_size: int = 1000,
        commit_in_listing: bool = True,
    ) -> None:
        self.cdn, self.latency, self.page_size, self.commit_in_listing = cdn, latency, page_size, commit_in_listing
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.log: list[Logged] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._servers = [_Server(self, name) for name in ("hub", "cdn")]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> LoopbackHub:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add_repo(
        self, repo_id: str, folder: Path, revision: str = "main", *, gated: bool = False, private: bool = False
    ) -> str:
        """Serve a folder as a revision of a repo, or move that revision to it; returns the commit."""
        repo = self.repos.setdefault(repo_id, Repo())
        repo.gated, repo.private = gated or repo.gated, private or repo.private
        files = {
            path.relative_to(folder).as_posix(): _repo_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and ".git" not in path.parts
        }
        named = json.dumps([repo_id, [(name, file.oid) for name, file in files.items()]])
        commit = hashlib.sha1(named.encode()).hexdigest()
        repo.commits[commit] = files
        repo.branches[revision] = commit
        return commit

    def fault(self, pattern: str, **what: Any) -> Fault:
        """Have requests fail whose path matches the pattern (a regular expression); see `Fault`."""
        fault = Fault(pattern, **what)
        with self.lock:
            self.faults.append(fault)
        return fault

    def take_fault(self, method: str, path: str) -> Fault:
        with self.lock:
            for fault in self.faults:
                if fault.times != 0 and fault.method in (None, method) and re.search(fault.pattern, path):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return Fault("")

    def asked(self, pattern: str = "") -> list[Logged]:
        """The logged requests whose path matches."""
        with self.lock:
            return [logged for logged in self.log if re.search(pattern, logged.path)]


def _repo_file(path: Path) -> RepoFile:
    data = path.read_bytes()
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    sha256 = hashlib.sha256(data).hexdigest() if path.suffix in LFS_SUFFIXES else None
    return RepoFile(path, len(data), oid, sha256)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # 32 connections may come at once; the default backlog of 5 would make some wait a second.
    request_queue_size = 128

    def __init__(self, hub: LoopbackHub, name: str) -> None:
        self.hub, self.name = hub, name
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, *_: object) -> None:
        """A client that goes away early is what some tests are about."""


class _RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message or MESSAGES.get(code, "")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        self.hub = self.server.hub
        url = urlsplit(self.path)
        self.asked_path, self.query = url.path, parse_qs(url.query)
        length = int(self.headers.get("content-length") or 0)
        self.form = parse_qs(self.rfile.read(length).decode()) if length else {}
        if self.hub.latency:
            time.sleep(self.hub.latency)
        self.fault = self.hub.take_fault(self.command, unquote(self.asked_path))
        if self.fault.before:
            self.fault.before()
        try:
            if self.fault.status is not None:
                raise _RefusedError(self.fault.status, self.fault.code or "", self.fault.message or "")
            self._route()
        except _RefusedError as refused:
            headers = dict(self.fault.headers)
            if refused.code:
                headers["X-Error-Code"] = refused.code
            if refused.message:
                headers["X-Error-Message"] = refused.message
            self._answer(refused.status, json.dumps({"error": refused.message}).encode(), headers)

    do_GET = do_HEAD = do_POST = _serve  # noqa: N815

    def _route(self) -> None:
        if match := re.fullmatch(r"/cdn/([0-9a-f]{64})", self.asked_path):
            self._send_file(self._by_sha256(match[1]), {})
        elif match := re.fullmatch(
            r"/api/models/((?:[^/]+/)?[^/]+?)(?:/(tree|revision|paths-info|refs)(/.*)?)?", self.asked_path
        ):
            self._api(match[1], match[2] or "revision", (match[3] or "").strip("/"))
        elif match := re.fullmatch(r"/((?:[^/]+/)?[^/]+)/resolve/([^/]+)/(.+)", self.asked_path):
            self._resolve(match[1], unquote(match[2]), unquote(match[3]))
        else:
            raise _RefusedError(404)

    def _repo(self, repo_id: str) -> Repo:
        if repo_id in self.hub.renamed:
            self.fault.headers["Location"] = self.path.replace(repo_id, self.hub.renamed[repo_id], 1)
            raise _RefusedError(307)
        repo = self.hub.repos.get(repo_id)
        known = self.headers.get("authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not known):
            raise _RefusedError(404 if known else 401, "RepoNotFound")
        return repo

    @staticmethod
    def _commit(repo: Repo, revision: str) -> str:
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _by_sha256(self, sha256: str) -> RepoFile:
        for repo in self.hub.repos.values():
            for files in repo.commits.values():
                for file in files.values():
                    if file.sha256 == sha256:
                        return file
        raise _RefusedError(404)

    def _api(self, repo_id: str, kind: str, rest: str) -> None:
        repo = self._repo(repo_id)
        if kind == "refs":
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in repo.branches.items()
            ]
            return self._answer_json({"branches": branches, "converts": [], "tags": []})
        revision, _, path = rest.partition("/")
        commit = self._commit(repo, unquote(revision) or "main")
        files = repo.commits[commit]
        if kind == "paths-info":
            return self._answer_json([files[name].listed(name) for name in self.form["paths"] if name in files])
        if kind == "tree":
            headers = {"X-Repo-Commit": commit} if self.hub.commit_in_listing else {}
            return self._tree(files, unquote(path), headers)
        siblings = []
        for name, file in files.items():
            sibling: dict[str, Any] = {"rfilename": name}
            if self.query.get("blobs", ["false"])[0].lower() == "true":
                sibling |= {"size": file.size, "blobId": file.oid}
                if file.sha256:
                    sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 134}
            siblings.append(sibling)
        return self._answer_json(
            {"_id": "0", "id": repo_id, "sha": commit, "siblings": siblings, "private": repo.private, "tags": []}
        )

    def _tree(self, files: dict[str, RepoFile], folder: str, headers: dict[str, str]) -> None:
        prefix = f"{folder}/" if folder else ""
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        entries: dict[str, dict[str, Any]] = {}
        for name, file in files.items():
            if not name.startswith(prefix):
                continue
            *folders, _ = name.removeprefix(prefix).split("/")
            for depth in range(len(folders) if recursive else min(1, len(folders))):
                path = prefix + "/".join(folders[: depth + 1])
                entries[path] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
            if recursive or not folders:
                entries[name] = file.listed(name)
        if not entries and folder:
            raise _RefusedError(404, "EntryNotFound", f"{folder} does not exist")
        start = int(self.query.get("cursor", ["0"])[0])
        stop = start + self.hub.page_size
        if stop < len(entries):
            following = f"{self.hub.url}{self.asked_path}?recursive={str(recursive).lower()}&cursor={stop}"
            headers = {**headers, "Link": f'<{following}>; rel="next"'}
        self._answer_json(list(entries.values())[start:stop], headers)

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        repo = self._repo(repo_id)
        if repo.gated and self.headers.get("authorization") != f"Bearer {TOKEN}":
            raise _RefusedError(403 if self.headers.get("authorization") else 401, "GatedRepo")
        commit = self._commit(repo, revision)
        file = repo.commits[commit].get(name)
        self.fault.headers.setdefault("X-Repo-Commit", commit)
        if file is None:
            raise _RefusedError(404, "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.sha256 or file.oid}"'}
        if file.sha256 and self.hub.cdn:
            host = self.hub.cdn_url if self.hub.cdn == "other" else ""
            headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": headers["ETag"]}
            headers["Location"] = f"{host}/cdn/{file.sha256}?name={quote(name)}"
            return self._answer(302, b"", headers)
        return self._send_file(file, headers)

    def _send_file(self, file: RepoFile, headers: dict[str, str]) -> None:
        start, stop, status = 0, file.size, 200
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("range") or "")
        if match and not self.fault.ignore_range:
            start = int(match[1]) if match[1] else max(0, file.size - int(match[2]))
            stop = min(file.size, int(match[2]) + 1) if match[1] and match[2] else file.size
            if start >= file.size:
                return self._answer(416, b"", {**headers, "Content-Range": f"bytes */{file.size}"})
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
            status = 206
        headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if self.command == "HEAD":
            return self._answer(status, b"", headers, length=stop - start)
        with open(file.path, "rb") as stream:
            stream.seek(start)
            return self._answer(status, stream.read(stop - start), headers)

    def _answer_json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _answer(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        fault = self.fault
        body = body if fault.body is None else fault.body
        headers = {**headers, **fault.headers}
        if fault.unsized:
            self.close_connection = True
            headers["Connection"] = "close"
        else:
            headers["Content-Length"] = str(len(body) if length is None else length)
        cut = next((n for n in (fault.drop_after, fault.stall_after) if n is not None), None)
        body = b"" if self.command == "HEAD" else body[:cut]
        entry = (self.headers.get("range"), status, len(body), self.headers.get("authorization"))
        with self.hub.lock:
            self.hub.log.append(Logged(self.server.name, self.command, unquote(self.path), *entry))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for block in _blocks(body, 1 if fault.drip else 1 << 16):
            self.wfile.write(block)
            if fault.drip and self.hub.closing.wait(fault.drip):
                return
        if fault.stall_after is not None:
            self.hub.closing.wait(30)
        if cut is not None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


def _blocks(body: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    view = memoryview(body)
    for start in range(0, len(body), size):
        yield bytes(view[start : start + size])
