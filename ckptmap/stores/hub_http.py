"""Requests to a Hub: ranges, pages, patience with a server that fails, and errors a person can act on."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from ckptmap.errors import CheckpointError
from ckptmap.printable import SECRETS, masked

if TYPE_CHECKING:
    import httpx2

TRIES = 4
"""How often one request is sent before the failure is reported."""

FIRST_PAUSE = 0.5
"""Seconds before the second try; each later pause is twice as long."""

LONGEST_WAIT = 60.0
"""Seconds that one read waits in all, for a server that asks to come back later."""

PROGRESS = 1 << 20
"""A try that brought this many bytes is no failure: the count of tries starts anew."""

MAX_PAGES = 1000
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
CHANGED = "the repo changed while it was read, run again"

MOST_ENTRIES = 1_000_000
MOST_JSON = 100_000_000
MOST_OF_A_REFUSAL = 1_000_000
"""Bytes of an answer in JSON and of one that refuses, after decoding."""
SLOW_AFTER, SLOWEST = 20.0, 200
"""Seconds after which a server must have sent so many bytes a second."""

_sleep, _now = time.sleep, time.monotonic
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Place:
    """What is being read, for messages: the source as people name it, its repo, revision and file."""

    label: str
    repo_id: str
    revision: str
    file: str = ""

    def error(self, problem: str) -> CheckpointError:
        """The error to raise about this place."""
        return CheckpointError(masked(problem), source=self.label, where=self.file)


class RefusalError(CheckpointError):
    """The server refused: with which status (0 when it only hung up) and X-Error-Code (empty when it sent none)."""

    status = 0
    code = ""


class _CutShortError(Exception):
    """The server's answer ended before all its bytes came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a range read brought: the bytes, and what the headers say of the repo and the file."""

    data: bytes
    commit: str | None
    etag: str | None


class _Patience:
    """How often and how long one request is tried again; `data` is what it has brought so far."""

    def __init__(self, place: Place, data: bytearray | None = None) -> None:
        self.place = place
        self._data = bytearray() if data is None else data
        self._seen = 0
        self._failures = 0
        self._waited = 0.0
        self._answered = 0

    def failed(self, problem: str) -> None:
        """Wait before the next try, or raise when there is none."""
        if len(self._data) - self._seen >= PROGRESS:
            self._seen, self._failures = len(self._data), 0
        self._failures += 1
        if self._failures >= TRIES:
            # Some servers hang up after an error of theirs; then that error is what matters.
            raise refusal(self.place, problem, self._answered)
        self._wait(FIRST_PAUSE * 2.0 ** (self._failures - 1), problem)

    def refused(self, response: httpx2.Response) -> None:
        """The same, when the server itself says that it cannot answer now."""
        status = self._answered = response.status_code
        problem = f"the server answers {status} ({response.reason_phrase})"
        if status == 429:
            problem = "too many requests, the server limits them (429)"
        self._failures += 1
        asked = _retry_after(response)
        # Being told when to come back is no failure: only the sum of the waits bounds it.
        if self._failures >= TRIES and (asked is None or status != 429):
            raise refusal(self.place, f"{problem}; run again later", status)
        if asked is not None:
            problem += f" and asks to wait {asked:.0f} s"
        self._wait(FIRST_PAUSE * 2.0 ** (self._failures - 1) if asked is None else max(asked, FIRST_PAUSE), problem)

    def _wait(self, pause: float, problem: str) -> None:
        if self._waited + pause > LONGEST_WAIT:
            raise self.place.error(f"{problem}; run again later")
        self._waited += pause
        _sleep(pause)


class HubClient:
    """Sends requests through huggingface_hub's shared session, with its login, and counts what travels.

    Source: huggingface_hub 2.4.0, `utils/_http.py` (session, error classes) and `utils/_headers.py` (login).
    """

    def __init__(self) -> None:
        self.requests = 0
        self.bytes_received = 0
        self._lock = threading.Lock()
        self._known_headers: dict[str, str] | None = None

    def json(
        self, url: str, place: Place, *, params: Mapping[str, str] | None = None, form: Mapping[str, Any] | None = None
    ) -> tuple[Any, httpx2.Response]:
        """The answer to a GET (a POST when there is a form), decoded, and the response it came in."""
        patience = _Patience(place)
        method = "GET" if form is None else "POST"
        while True:
            with _transport_errors(patience), self._send(method, url, params=params, data=form) as response:
                if response.status_code in RETRIED:
                    patience.refused(response)
                    continue
                raise_for_status(response, place)
                _read_all(response, MOST_JSON, place)
                return _decoded(response, place), response

    def pages(self, url: str, place: Place, params: Mapping[str, str]) -> tuple[list[Any], httpx2.Response]:
        """All entries of a listing that comes in pages, and the first response."""
        more, first = self.json(url, place, params=params)
        response, entries = first, list[Any]()
        for _ in range(MAX_PAGES):
            if not isinstance(more, list):
                raise place.error(_not_a_hub("the listing is no list"))
            entries += more
            if len(entries) > MOST_ENTRIES:
                raise place.error(_not_a_hub(f"the listing has more than {MOST_ENTRIES:,} entries"))
            following = response.links.get("next", {}).get("url")
            if not following:
                return entries, first
            with _transport_errors(_Patience(place)):
                following = _hub_utils().fix_hf_endpoint_in_url(urljoin(str(response.url), following), endpoint())
            more, response = self.json(following, place)
        raise place.error(_not_a_hub(f"the listing has more than {MAX_PAGES} pages"))

    def range(self, url: str, offset: int, length: int, size: int, place: Place) -> Answer:
        """Exactly `length` bytes from `offset` of a file that the listing says is `size` bytes long."""
        data = bytearray()
        patience = _Patience(place, data)
        while True:
            span = {"range": f"bytes={offset + len(data)}-{offset + length - 1}"}
            with _transport_errors(patience), self._send("GET", url, extra=span) as response:
                if response.status_code in RETRIED:
                    patience.refused(response)
                    continue
                _take(response, data, offset, length, size, place)
                # A CDN's answer says nothing of the repo: the Hub's redirect to it does.
                first = (*response.history, response)[0]
                return Answer(bytes(data), first.headers.get("x-repo-commit"), _etag(first))

    @contextmanager
    def _send(self, method: str, url: str, *, extra: Mapping[str, str] | None = None, **body: Any) -> Iterator[Any]:
        from huggingface_hub import constants

        headers = {**self._headers(), "accept-encoding": "identity", **(extra or {})}
        if not _same_origin(url, endpoint()):
            headers.pop("authorization", None)
        self._count(requests=1)
        # On a redirect to another host the client itself drops the authorization header.
        # Source: httpx2, `_client.py`, `_redirect_headers`.
        stream = (
            _hub_utils()
            .get_session()
            .stream(
                method, url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, follow_redirects=True, **body
            )
        )
        with stream as response:
            try:
                yield response
            finally:
                self._count(requests=len(response.history), received=response.num_bytes_downloaded)

    def _headers(self) -> dict[str, str]:
        with self._lock:
            if self._known_headers is None:
                self._known_headers = _hub_utils().build_hf_headers(library_name="ckptmap")
                SECRETS.update(self._known_headers.get("authorization", "").split()[1:])
            return dict(self._known_headers)

    def _count(self, *, requests: int = 0, received: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.bytes_received += received


def endpoint() -> str:
    """The Hub's address, asked anew each time because tests and programs change it."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def _hub_utils() -> Any:
    # Any, because huggingface_hub exports its helpers in a way that type checkers do not see.
    import huggingface_hub.utils

    return huggingface_hub.utils


def _take(response: httpx2.Response, data: bytearray, offset: int, length: int, size: int, place: Place) -> None:
    """Add what a response brings to the data, and stop reading when all that is wanted came."""
    if response.status_code == 416:
        total = response.headers.get("content-range", "").rpartition("/")[2]
        _check_size(total, size, place)
        raise place.error(f"the server has no bytes {offset}-{offset + length - 1} of it (416)")
    raise_for_status(response, place)
    start = offset + len(data)
    plain = response.headers.get("content-encoding", "identity") == "identity"
    if response.status_code == 206:
        said = response.headers.get("content-range", "unnamed").strip()
        match = _CONTENT_RANGE.fullmatch(said)
        if match is None or int(match[1]) != start or not plain:
            raise place.error(f"the server answers with another part of the file than asked for ({said})")
        _check_size(match[3], size, place)
        skip, begin = 0, start
    else:
        # The server knows no ranges and sends the whole file: leave out what is before, and stop after.
        if plain:
            _check_size(response.headers.get("content-length", ""), size, place)
        skip, begin = start, 0
    for block in _not_too_slow(response, place):
        data += block[skip : skip + length - len(data)]
        skip = max(0, skip - len(block))
        if len(data) == length:
            return
    raise _CutShortError(f"the answer ends at byte {begin + response.num_bytes_downloaded} of {size}")


def _read_all(response: httpx2.Response, most: int, place: Place) -> None:
    """Read a whole answer that is no larger than any real one, decoded; the response then has it."""
    data = bytearray()
    for block in _not_too_slow(response, place):
        data += block
        if len(data) > most:
            raise place.error(_not_a_hub(f"{urlsplit(str(response.url)).path} answers with more than {most:,} bytes"))
    response._content = bytes(data)  # what its own `read`, which knows no bound, would have set


def _not_too_slow(response: httpx2.Response, place: Place) -> Iterator[bytes]:
    """What comes, as long as it comes at a rate that somebody could wait for."""
    start = _now()
    for block in response.iter_bytes():
        yield block
        if (seconds := _now() - start) > SLOW_AFTER and response.num_bytes_downloaded < SLOWEST * seconds:
            raise place.error(f"{endpoint()} sends less than {SLOWEST:,} bytes a second; run again later")


def _check_size(said: str, listed: int, place: Place) -> None:
    if said.isdecimal() and int(said) != listed:
        raise place.error(f"{CHANGED} (it was {listed} bytes long and is now {said})")


def raise_for_status(response: httpx2.Response, place: Place) -> None:
    """Turn a refusal into an error that says what to do.

    Source: huggingface_hub 2.4.0, `utils/_http.py`, `hf_raise_for_status`, for what X-Error-Code means.
    """
    if response.is_success:
        return
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        HfHubHTTPError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{endpoint()}/{place.repo_id}"
    login = "log in with `hf auth login`, or set HF_TOKEN"
    status = response.status_code
    code = response.headers.get("x-error-code", "")
    try:
        _read_all(response, MOST_OF_A_REFUSAL, place)
        _hub_utils().hf_raise_for_status(response)
        problem = f"the server answers {status} ({response.reason_phrase})"
    except GatedRepoError:
        problem = f"the repo is gated: ask for access at {page} and {login}"
    except DisabledRepoError:
        problem = f"the repo is disabled on the Hub, see {page}"
    except RevisionNotFoundError:
        problem = f"the repo has no revision {place.revision!r}: name a branch, tag or commit of {page}"
    except RemoteEntryNotFoundError:
        problem = "there is no such file at this revision"
    except HfHubHTTPError as error:
        said = masked((error.server_message or response.reason_phrase).strip().split("\n")[0])[:200]
        if response.headers.get("x-error-message") == "Invalid credentials in Authorization header":
            problem = f"the token is not valid: {login} to a valid one"
        elif isinstance(error, RepositoryNotFoundError):
            problem = f"{endpoint()} has no such repo, or it is private: check the name, or {login}"
        elif status == 401:
            problem = f"access is refused ({said}): {login}"
        elif status == 403:
            problem = f"access is refused ({said}): ask for it at {page} and {login}"
        elif status in (404, 405, 410, 501):
            problem = _not_a_hub(f"{urlsplit(str(response.url)).path} answers {status}")
        else:
            problem = f"the server answers {status} ({said})"
    raise refusal(place, problem, status, code)


def refusal(place: Place, problem: str, status: int, code: str = "") -> RefusalError:
    """The error to raise when the server answered with a refusal."""
    error = RefusalError(masked(problem), source=place.label, where=place.file)
    error.status, error.code = status, code
    return error


@contextmanager
def _transport_errors(patience: _Patience) -> Iterator[None]:
    """Try again what a network does to a request; report what it cannot help."""
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    place = patience.place
    try:
        yield
    except CheckpointError:
        raise
    except httpx2.ConnectError as error:
        offline = "check the network, HTTPS_PROXY and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to read what is in the cache"
        patience.failed(f"cannot reach {endpoint()} ({error}): {offline}")
    except httpx2.ProxyError as error:
        patience.failed(f"the proxy does not connect to {endpoint()} ({error}): check HTTPS_PROXY")
    except httpx2.TimeoutException:
        patience.failed(f"{endpoint()} does not answer in time (HF_HUB_DOWNLOAD_TIMEOUT sets how long to wait)")
    except (httpx2.NetworkError, httpx2.RemoteProtocolError, _CutShortError) as error:
        patience.failed(f"the connection to {endpoint()} broke ({error})")
    except httpx2.LocalProtocolError:
        # Its text would show the header, and so the token.
        raise place.error("the request cannot be formed: check HF_TOKEN for stray characters") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
        raise place.error(f"{endpoint()} cannot be read ({error}): check HF_ENDPOINT") from None
    except OfflineModeIsEnabled:
        raise place.error("HF_HUB_OFFLINE is set; unset it to reach the Hub") from None
    except UnicodeError:
        raise place.error("the request cannot be formed: check HF_TOKEN for stray characters") from None
    except (OSError, ValueError, ImportError) as error:
        # The client reads its settings late: certificates, proxies, the stored login.
        advice = "check HF_ENDPOINT, HTTPS_PROXY and the files of the login"
        raise place.error(f"the connection to {endpoint()} cannot be set up ({error}): {advice}") from None
    except RuntimeError as error:
        # Another thread of the program closed the shared client; the session makes a new one.
        if "closed" not in str(error):
            raise
        patience.failed("the connection was closed by the program")


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds the server asks to wait, said as seconds, as a date, or in its rate limit header."""
    limit = _hub_utils().parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    said = response.headers.get("retry-after", "").strip()
    if said.isdecimal():
        return float(said)
    try:
        until = parsedate_to_datetime(said)
    except ValueError:
        return None
    # A date without a zone means Greenwich.
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _decoded(response: httpx2.Response, place: Place) -> Any:
    try:
        return response.json()
    except ValueError:
        raise place.error(_not_a_hub(f"{urlsplit(str(response.url)).path} answers with no JSON")) from None


def _not_a_hub(problem: str) -> str:
    return f"{problem}; is {endpoint()} a Hub? Check HF_ENDPOINT"


def _etag(response: httpx2.Response) -> str | None:
    said = response.headers.get("x-linked-etag") or response.headers.get("etag")
    return None if said is None else str(said).removeprefix("W/").strip('"')


def _same_origin(url: str, other: str) -> bool:
    return urlsplit(url)[:2] == urlsplit(other)[:2]
