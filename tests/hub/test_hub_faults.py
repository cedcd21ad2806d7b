"""HubStore when servers and networks fail, and when the Hub refuses: what it does and what it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from ckptmap.stores import hub_http
from ckptmap.stores.hub import HubStore
from tests.hub.conftest import CONFIG, WEIGHTS, problem
from tests.hub.loopback import TOKEN, LoopbackHub


def test_a_dropped_connection_is_resumed(tiny: LoopbackHub, pauses: list[float]) -> None:
    tiny.fault("resolve", drop_after=1000, times=2)
    store = HubStore("acme/tiny")
    assert store.read("model.safetensors", 5000, 5000) == WEIGHTS[5000:10000]
    assert [logged.range for logged in tiny.asked("resolve")] == [
        "bytes=5000-9999",
        "bytes=6000-9999",
        "bytes=7000-9999",
    ]
    assert pauses == [0.5, 1.0]


def test_a_connection_that_always_drops_is_given_up(tiny: LoopbackHub) -> None:
    tiny.fault("resolve", drop_after=10, times=None)
    store = HubStore("acme/tiny")
    assert "model.safetensors: the connection to http://127.0.0.1" in problem(
        lambda: store.read("model.safetensors", 0, 5000)
    )
    assert len(tiny.asked("resolve")) == hub_http.TRIES


def test_drops_with_progress_are_no_failures(tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_http, "PROGRESS", 50_000)
    tiny.fault("resolve", drop_after=65536, times=6)
    store = HubStore("acme/tiny")
    assert store.read("model.safetensors", 0, len(WEIGHTS)) == WEIGHTS


def test_a_server_without_ranges_is_read_no_further_than_needed(tiny: LoopbackHub, folder: Path) -> None:
    large = bytes(range(256)) * 80_000
    (folder / "model.safetensors").write_bytes(large)
    tiny.add_repo("acme/tiny", folder)
    tiny.fault("resolve", ignore_range=True, times=None)
    store = HubStore("acme/tiny")
    assert store.read("model.safetensors", 70_001, 500) == large[70_001:70_501]
    assert store.bytes_received < 1_000_000
    tiny.faults.insert(0, tiny.fault("resolve", ignore_range=True, drop_after=70_100))
    assert store.read("model.safetensors", 70_001, 500) == large[70_001:70_501]


def test_an_answer_without_its_length_that_ends_early(tiny: LoopbackHub) -> None:
    tiny.fault("resolve", ignore_range=True, unsized=True, drop_after=100, times=None)
    store = HubStore("acme/tiny")
    assert "the answer ends at byte 100 of 512000" in problem(lambda: store.read("model.safetensors", 50, 500))


def test_a_stalled_server_times_out(tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    store = HubStore("acme/tiny")
    store.files()
    tiny.fault("resolve", stall_after=10, times=1)
    assert store.read("model.safetensors", 0, 100) == WEIGHTS[:100]
    tiny.fault("resolve", stall_after=0, times=None)
    assert "does not answer in time (HF_HUB_DOWNLOAD_TIMEOUT" in problem(
        lambda: store.read("model.safetensors", 0, 100)
    )


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_server_errors_are_tried_again(tiny: LoopbackHub, pauses: list[float], status: int) -> None:
    tiny.fault("resolve", status=status, times=2)
    assert HubStore("acme/tiny").read("config.json", 0, 5) == CONFIG[:5]
    assert pauses == [0.5, 1.0]


def test_a_server_that_stays_down(tiny: LoopbackHub) -> None:
    tiny.fault("resolve", status=503, times=None)
    store = HubStore("acme/tiny")
    assert "config.json: the server answers 503 (Service Unavailable); run again later" in problem(
        lambda: store.read("config.json", 0, 5)
    )


def test_too_many_requests_waits_as_told(tiny: LoopbackHub, pauses: list[float]) -> None:
    tiny.fault("resolve", status=429, headers={"Retry-After": "3"}, times=6)
    assert HubStore("acme/tiny").read("config.json", 0, 5) == CONFIG[:5]
    assert pauses == [3.0] * 6


def test_too_many_requests_until_a_date(tiny: LoopbackHub, pauses: list[float]) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    tiny.fault("tree", status=429, headers={"Retry-After": until})
    HubStore("acme/tiny").files()
    assert len(pauses) == 1
    assert 15 < pauses[0] <= 20


@pytest.mark.parametrize("headers", [{"Retry-After": "300"}, {"RateLimit": '"api";r=0;t=300'}, {"Retry-After": "25"}])
def test_too_many_requests_is_not_waited_for_longer_than_a_minute(
    tiny: LoopbackHub, pauses: list[float], headers: dict[str, str]
) -> None:
    tiny.fault("tree", status=429, headers=headers, times=None)
    said = problem(HubStore("acme/tiny").files)
    assert "acme/tiny: too many requests, the server limits them (429) and asks to wait" in said
    assert sum(pauses) <= 60


@pytest.mark.parametrize("said", ["bytes 0-99/512000", "items 0-5", "bytes 7-11/*"])
def test_another_range_than_asked_for(tiny: LoopbackHub, said: str) -> None:
    tiny.fault("resolve", headers={"Content-Range": said})
    store = HubStore("acme/tiny")
    assert f"another part of the file than asked for ({said})" in problem(lambda: store.read("model.safetensors", 5, 5))


def test_nothing_answers_at_the_endpoint(tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    said = problem(HubStore("acme/tiny").files)
    assert said.startswith("acme/tiny: cannot reach http://127.0.0.1:9 (")
    assert "HF_HUB_OFFLINE=1" in said


@pytest.mark.parametrize("address", ["not a url", "ftp://127.0.0.1", "http://[::bad"])
def test_an_endpoint_that_is_none(tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    assert "HF_ENDPOINT" in problem(HubStore("acme/tiny").files)


@pytest.mark.parametrize("body", [b"<html>log in to the hotel</html>", b"{}", b'[{"type": "file"}]', b"[3]"])
def test_a_listing_that_is_none(tiny: LoopbackHub, body: bytes) -> None:
    tiny.fault("tree", body=body)
    assert "Check HF_ENDPOINT" in problem(HubStore("acme/tiny").files)


def test_a_gated_repo(tiny: LoopbackHub) -> None:
    tiny.repos["acme/tiny"].gated = True
    store = HubStore("acme/tiny")
    said = problem(lambda: store.read("config.json", 0, 5))
    assert said == (
        f"{store.label}: config.json: the repo is gated: ask for access at {tiny.url}/acme/tiny and log in with "
        "`hf auth login`, or set HF_TOKEN"
    )


def test_a_private_repo_opens_with_a_login(tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.repos["acme/tiny"].private = True
    assert problem(HubStore("acme/tiny").files) == (
        f"acme/tiny: {tiny.url} has no such repo, or it is private: check the name, or log in with `hf auth login`, "
        "or set HF_TOKEN"
    )
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert HubStore("acme/tiny").files()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"status": 404, "code": "RepoNotFound"}, "has no such repo"),
        ({"status": 401}, "access is refused (Unauthorized): log in"),
        ({"status": 401, "message": "Invalid credentials in Authorization header"}, "the token is not valid"),
        ({"status": 403, "message": "No access"}, "access is refused (No access): ask for it at"),
        ({"status": 403, "message": "Access to this resource is disabled."}, "the repo is disabled"),
        ({"status": 403, "code": "GatedRepo"}, "the repo is gated"),
        ({"status": 400, "message": "bad"}, "the server answers 400 (bad)"),
        ({"status": 418}, "the server answers 418 (I'm a Teapot)"),
    ],
)
def test_refusals_say_what_to_do(tiny: LoopbackHub, what: dict[str, object], said: str) -> None:
    tiny.fault("tree", **what)
    assert said in problem(HubStore("acme/tiny").files)


def test_a_missing_revision_folder_and_file(tiny: LoopbackHub) -> None:
    assert problem(HubStore("acme/tiny", revision="v9").files) == (
        f"acme/tiny@v9: the repo has no revision 'v9': name a branch, tag or commit of {tiny.url}/acme/tiny"
    )
    assert problem(HubStore("acme/tiny", subfolder="nope").files) == (
        "acme/tiny/nope: the repo has no folder 'nope' at this revision"
    )
    store = HubStore("acme/tiny")
    store.files()
    assert problem(lambda: store.size("nope.bin")) == (
        f"{store.label}: nope.bin: there is no such file in the repo at this revision"
    )
    assert "the file ends at byte 22, 1 bytes before" in problem(lambda: store.read("config.json", 20, 3))


@pytest.mark.parametrize("token", ["hf_\u00e9\u4e2d", "hf_a\x00b"])
def test_a_token_that_cannot_be_sent_is_not_shown(
    tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: token)
    said = problem(HubStore("acme/tiny").files)
    assert "HF_TOKEN" in said
    assert "hf_" not in said.replace("hf_hub", "")


@pytest.mark.parametrize("repo_id", ["a/b/c", "a--b", "../x", "", "x.git"])
def test_names_that_no_repo_has(repo_id: str) -> None:
    assert "is not the name of a Hub repo" in problem(lambda: HubStore(repo_id))


def test_subfolders_that_leave_the_repo() -> None:
    assert "is not a folder of a repo" in problem(lambda: HubStore("acme/tiny", subfolder="a/../.."))


def test_a_proxy_is_used(tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", tiny.url)
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.example")
    close_session()
    assert HubStore("acme/tiny").files()
    assert tiny.log[0].path.startswith("http://hub.example/api/models/acme/tiny/tree/main")


@pytest.mark.parametrize("name", ["HTTP_PROXY", "SSL_CERT_FILE"])
def test_settings_of_the_client_that_are_broken(tiny: LoopbackHub, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "nowhere://nothing")
    close_session()
    assert "cannot be set up" in problem(HubStore("acme/tiny").files)
