"""Who may open the pages of ``opencode-tasks view``, and what they answer to requests that are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from view_runs import add_run, answer, labelled_run, served, serving

from opencode_tasks.ledger import Ledger


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with Ledger.open(str(tmp_path_factory.mktemp("view") / "ledger.db")) as opened:
        labelled_run(opened)
        yield opened


@pytest.fixture(scope="module")
def address(labelled: Ledger) -> Iterator[httpx.URL]:
    with served(labelled, "labelled") as found:
        yield httpx.URL(found)


@pytest.fixture
def stranger(address: httpx.URL) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address.copy_with(query=None), trust_env=False) as client:
        yield client


@pytest.fixture
def client(address: httpx.URL, stranger: httpx.Client) -> httpx.Client:
    """A browser that opened the address with the token."""
    answered = stranger.get(address)
    assert (answered.status_code, answered.headers["location"]) == (303, "/")
    return stranger


@pytest.mark.parametrize("other", ['a={"x":1}', "u[a]=1", "é=1", "=", "a", '"', "a=b; a=b"])
def test_cookies_of_other_programs_lock_nobody_out(client: httpx.Client, other: str) -> None:
    """All programs of a machine get the cookies of each other: cookies do not name a port."""
    own = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    client.cookies.clear()
    for header in (f"{other}; {own}", f"{own}; {other}"):
        assert client.get("/", headers=[(b"cookie", header.encode())]).status_code == 200, header
    assert client.get("/", headers=[(b"cookie", other.encode())]).status_code == 403


PATHS = ["/", "/row?id=r1", "/counts", "/view.js", "/view.css", "/none", "/?token=wrong", "/?token="]


@pytest.mark.parametrize("path", PATHS)
def test_without_the_token_nothing_is_shown(stranger: httpx.Client, path: str) -> None:
    answered = stranger.get(path)
    assert answered.status_code == 403
    assert "labelled" not in answered.text


def test_the_token_becomes_a_cookie_that_other_sites_cannot_use(
    address: httpx.URL, stranger: httpx.Client
) -> None:
    answered = stranger.get(address.copy_merge_params({"status": "failed"}))
    assert answered.headers["location"] == "/?status=failed"
    cookie = answered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    shown = stranger.get("/?status=failed")
    assert shown.status_code == 200
    assert address.params["token"] not in shown.text
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert shown.headers["x-content-type-options"] == "nosniff"


def test_the_address_with_which_a_browser_is_started_works_once(labelled: Ledger) -> None:
    """Other users of the machine see it among the arguments of the browser."""
    with serving(labelled, "labelled") as server, httpx.Client(trust_env=False) as client:
        assert server.address.rpartition("=")[2] not in server.address_once
        assert client.get(server.address_once).status_code == 303
        assert client.get(server.address_once.partition("?")[0]).status_code == 200
        with httpx.Client(trust_env=False) as other:
            assert other.get(server.address_once).status_code == 403
            assert other.get(server.address).status_code == 303


def test_the_redirect_stays_on_this_host(address: httpx.URL, stranger: httpx.Client) -> None:
    path = f"//evil.example/?token={address.params['token']}"
    answered = stranger.get(address.copy_with(raw_path=path.encode()))
    assert (answered.status_code, answered.headers["location"]) == (303, "/evil.example/")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", ""])
def test_another_host_name_is_refused(client: httpx.Client, address: httpx.URL, host: str) -> None:
    """A foreign page whose name resolves to this machine has its own name in the header."""
    assert client.get("/", headers={"Host": host}).status_code == 403
    assert client.get(address, headers={"Host": host}).status_code == 403
    assert client.get("/", headers={"Host": f"localhost:{address.port}"}).status_code == 200


FORM = {"query": "?id=r1&at=1", "value.response": "neutral"}


@pytest.mark.parametrize("path", ["/review", "/undo"])
def test_a_form_without_the_token_changes_nothing(
    client: httpx.Client, address: httpx.URL, labelled: Ledger, path: str
) -> None:
    right = FORM | {"token": address.params["token"]}
    assert client.post(path, data=FORM).status_code == 403
    assert client.post(path, data=FORM | {"token": "wrong"}).status_code == 403
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        assert client.post(path, data=right, headers=headers).status_code == 403
    client.cookies.clear()
    assert client.post(path, data=right).status_code == 403
    assert client.get(path).status_code == 403
    assert labelled.row_list.lines("labelled", ["r1"])[0]["answered_by"] is None


def test_a_review_is_written_and_undone(client: httpx.Client, address: httpx.URL, labelled: Ledger) -> None:
    form = FORM | {
        "token": address.params["token"],
        "note": " sure ",
        "query": "?status=completed&id=r1&at=1",
    }
    answered = client.post("/review", data=form)
    assert answered.status_code == 303
    assert answered.headers["location"] == "/row?status=completed&id=r2&at=2&done=r1"
    [line] = labelled.row_list.lines("labelled", ["r1"])
    assert (line["structured"], line["answered_by"], line["status"]) == ("neutral", "maria", "completed")
    assert labelled.row_list.reviews("labelled", ["r1"])["r1"][0]["note"] == "sure"
    assert "reviewed by" in client.get("/row?id=r1").text
    assert client.post("/undo", data=form).headers["location"] == "/row?status=completed&id=r1&at=1"
    assert labelled.row_list.lines("labelled", ["r1"])[0]["structured"] == "negative"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"value.response": "great"}, "is none of positive, negative, neutral"),
        ({"value.response": ""}, "is none of positive, negative, neutral"),
    ],
)
def test_an_answer_that_does_not_fit_is_shown_again(
    client: httpx.Client, address: httpx.URL, changed: dict[str, str], message: str
) -> None:
    form = FORM | {"token": address.params["token"], "note": "as entered"} | changed
    answered = client.post("/review", data=form)
    assert answered.status_code == 400
    assert message in answered.text
    assert "as entered" in answered.text


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/?page=999", 200, "1 to 6 of 6 rows"),
        ("/?page=-1&sort=none&status=none&value.none=1", 200, "1 to 6 of 6 rows"),
        ("/?cost=abc", 200, "cost: &#39;abc&#39; is not a number"),
        ("/?cost=nan&agreement=1", 200, "cost: &#39;nan&#39; is not a number"),
        ("/?q=%00%ff%25_", 200, "No row fits"),
        ("/?page=99999999999999999999", 200, "1 to 6 of 6 rows"),
        ("/row?id=none", 404, "There is no row &#39;none&#39;"),
        ("/row?id=r1&at=99999999999999", 200, "Row <bdi>r1</bdi>"),
        ("/row?id=r1&at=x", 200, "Row <bdi>r1</bdi>"),
        ("/?run=none", 404, "There is no run none"),
        ("/counts?run=%00", 200, "version"),
        ("/counts?id=none", 200, '"is_live":false'),
        ("/none", 404, "Not Found"),
    ],
)
def test_a_wrong_address_has_a_clear_answer(
    client: httpx.Client, path: str, status: int, message: str
) -> None:
    answered = client.get(path)
    assert answered.status_code == status
    assert message in answered.text


def test_a_large_form_is_refused(client: httpx.Client, address: httpx.URL) -> None:
    form = FORM | {"token": address.params["token"], "note": "x" * 11 * 1024 * 1024}
    assert client.post("/review", data=form).status_code == 413
    many = {f"f{i}": "" for i in range(2000)}
    assert client.post("/review", data=many).status_code == 413


def test_pages_and_reviews_on_both_databases(ledger: Ledger) -> None:
    labelled_run(ledger, "first")
    add_run(ledger, "second", [("copy", "prompt")], keys_of="first")
    assert ledger.rows.reuse_answers("second", now=datetime.now(UTC)) == 1
    with (
        served(ledger, "second") as found,
        httpx.Client(base_url=found.partition("/?")[0], trust_env=False) as client,
    ):
        client.get(found)
        source = client.get("/row?id=copy")
        assert 'the answer of <a href="/row?run=first&amp;id=r0">row' in source.text
        shown = client.get("/row?run=first&id=r0").text
        assert "Review number 0" in shown
        listed = client.get("/?run=first&q=NUMBER&value.response=negative&sort=-cost&label.team=search").text
        assert listed.count("data-row") == 2
        assert client.get("/counts?run=first").json()["is_live"] is False
        form = {"token": httpx.URL(found).params["token"], "query": "?run=first&id=r1&at=1"}
        reviewed = client.post("/review", data=form | {"value.response": "neutral"})
        assert reviewed.headers["location"] == "/row?run=first&id=r2&at=2&done=r1"
        assert client.get("/?run=first&reviewed=yes").text.count("data-row") == 1
        assert client.post("/undo", data=form).headers["location"] == "/row?run=first&id=r1&at=1"
        assert client.get("/?run=first&reviewed=yes").text.count("data-row") == 0


def test_fields_of_an_object_are_read_by_their_types(tmp_path: Path) -> None:
    fields = {
        "label": {"enum": ["a", "b"]},
        "score": {"type": "number"},
        "sure": {"type": "boolean"},
        "text": {"type": "string"},
        "words": {"type": "array", "items": {"type": "string"}},
    }
    schema = {"type": "object", "properties": fields, "required": ["label"]}
    value = {"label": "a", "score": 1, "sure": True, "text": "x\ny", "words": ["z"], "extra": 1}
    with Ledger.open(str(tmp_path / "ledger.db")) as opened:
        add_run(opened, "r", [("one", "prompt")], schema=schema)
        answer(opened, "r", "one", "{}", value)
        with (
            served(opened, "r") as found,
            httpx.Client(base_url=found.partition("/?")[0], trust_env=False) as client,
        ):
            client.get(found)
            token = httpx.URL(found).params["token"]

            def review(**changed: str) -> httpx.Response:
                form = {
                    "value.label": "a",
                    "value.score": "1",
                    "value.sure": "true",
                    "value.text": "x\r\ny",
                    "value.words": '["z"]',
                }
                entered = {f"value.{name}": text for name, text in changed.items()}
                place = {"token": token, "query": "?id=one&at=0"}
                return client.post("/review", data=place | form | entered)

            def stored() -> object:
                return opened.row_list.lines("r", ["one"])[0]["structured"]

            assert review().status_code == 303
            assert stored() == value
            changed = {"label": "b", "score": "2.5", "sure": "false", "text": "new", "words": '["z", "é"]'}
            assert review(**changed).status_code == 303
            read = {"label": "b", "score": 2.5, "sure": False, "text": "new", "words": ["z", "é"], "extra": 1}
            assert stored() == read
            assert review(score="", words="").status_code == 303
            assert stored() == {"label": "a", "sure": True, "text": "x\ny", "extra": 1}
            for name, wrong in (("score", "many"), ("score", "NaN"), ("score", "1e999"), ("words", "z")):
                refused = review(**{name: wrong})
                assert refused.status_code == 400
                assert f"{name}: &#39;{wrong}&#39; is not a" in refused.text
            assert review(label="c").status_code == 400


def test_a_confirmed_text_is_not_changed_by_the_browser(tmp_path: Path) -> None:
    text = "one\r\ntwo\rthree\n four \u2028 five"
    with Ledger.open(str(tmp_path / "ledger.db")) as opened:
        add_run(opened, "r", [("one", "prompt")])
        answer(opened, "r", "one", text)
        with (
            served(opened, "r") as found,
            httpx.Client(base_url=found.partition("/?")[0], trust_env=False) as client,
        ):
            client.get(found)
            form = {"token": httpx.URL(found).params["token"], "query": "?id=one&at=0"}
            sent = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")
            assert client.post("/review", data=form | {"value.response": sent}).status_code == 303
            assert opened.row_list.lines("r", ["one"])[0]["response"] == text
            assert client.post("/review", data=form | {"value.response": "a\r\nb"}).status_code == 303
            assert opened.row_list.lines("r", ["one"])[0]["response"] == "a\nb"
