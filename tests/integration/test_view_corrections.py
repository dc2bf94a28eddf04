"""Corrections on the pages of ``opencode-tasks view``, by HTTP: what a form means, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import httpx
import pytest
from view_runs import HOSTILE_IDS, add_run, answer, hostile_run, labelled_run, served

from opencode_tasks.engine.review import PersonAnswer, record_reviews
from opencode_tasks.ledger import GoldValue, Ledger

INPUT = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')


@pytest.fixture
def opened(tmp_path: Path) -> Generator[Ledger]:
    with Ledger.open(str(tmp_path / "ledger.db")) as found:
        yield found


class Person:
    """A person with the page in a browser."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def open(self, row_id: str, more: str = "") -> str:
        """The page of a row."""
        return self.client.get(f"/row?id={quote(row_id, safe='')}{more}").text

    def send(self, page: str, action: str = "/review", **entered: str) -> httpx.Response:
        """Send the form of a page for an action."""
        form = page.partition(f'action="{action}"')[2].partition("</form>")[0]
        hidden = {name: unescape(value) for name, value in INPUT.findall(form)}
        assert "token" in hidden, page
        values = {f"value.{name}": text for name, text in entered.items() if name != "note"}
        # A browser sends line breaks in this form.
        sent = {name: re.sub(r"\r\n|\r|\n", "\r\n", text) for name, text in (hidden | values).items()}
        return self.client.post(action, data=sent)


@contextmanager
def person(ledger: Ledger, run_id: str, by: str = "maria") -> Generator[Person]:
    with (
        served(ledger, run_id, by=by) as address,
        httpx.Client(base_url=address.partition("/?")[0], trust_env=False) as client,
    ):
        client.get(address)
        yield Person(client)


def stored(ledger: Ledger, run_id: str, row_id: str) -> tuple[Any, str | None]:
    [line] = ledger.row_list.lines(run_id, [row_id])
    return line["response"] if line["structured"] is None else line["structured"], line["answered_by"]


def run_of(ledger: Ledger, schema: Mapping[str, Any] | None, *answers: tuple[str, Any]) -> None:
    """A run ``r`` whose row ``i`` has the answer i, and a last row without an answer."""
    add_run(ledger, "r", [(f"{i}", f"prompt {i}") for i in range(len(answers) + 1)], schema=schema)
    for i, (text, value) in enumerate(answers):
        answer(ledger, "r", f"{i}", text, value)


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {"type": "string"},
        {"type": ["string", "null"]},
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "boolean"}}},
    ],
)
def test_nothing_entered_is_no_answer(opened: Ledger, schema: Any) -> None:
    run_of(opened, schema)
    with person(opened, "r") as maria:
        page = maria.open("0")
        for entered in ({}, {"response": " \n"}, {"a": ""}):
            refused = maria.send(page, **entered)
            assert (refused.status_code, "the answer is empty" in refused.text) == (400, True)
        assert stored(opened, "r", "0")[1] is None


def test_an_answer_that_is_emptied_is_no_answer(opened: Ledger) -> None:
    run_of(opened, None, ("good", None))
    with person(opened, "r") as maria:
        refused = maria.send(maria.open("0"), response="  ")
        assert (refused.status_code, "the answer is empty" in refused.text) == (400, True)
    assert stored(opened, "r", "0") == ("good", None)


@pytest.mark.parametrize(
    ("types", "first", "text", "changed"),
    [
        ({"type": ["string", "null"]}, "good", "", None),
        ({"type": ["number", "null"]}, 5, "", None),
        ({"type": ["number", "null"]}, None, "5", 5),
        ({"enum": ["a", "b", None]}, "a", "", None),
        ({"enum": ["a", "b", None]}, None, "b", "b"),
        ({"type": ["boolean", "null"]}, True, "", None),
        ({"type": ["string", "number", "null"]}, 5, "6", 6),
    ],
)
def test_null_is_shown_confirmed_and_chosen(
    opened: Ledger, types: Any, first: Any, text: str, changed: Any
) -> None:
    """As the whole answer and in a field."""
    shown = "null" if first is None else str(first)
    run_of(opened, types, (shown, first), ("null", None))
    with person(opened, "r") as maria:
        page = maria.open("1")
        # The form shows null as an empty text, or as a choice.
        choice = 'name="value.response" value="" checked' if "<fieldset>" in page else 'name="value.response"'
        assert choice in page
        assert ">null</textarea>" not in page.replace("\n", "")
        assert maria.send(page, response="").status_code == 303
        assert stored(opened, "r", "1") == ("null", "maria")
        assert opened.reviews.of_run("r")[0].answer is None
        assert maria.send(maria.open("0"), response=text).status_code == 303
        assert opened.reviews.of_run("r")[0].answer == changed
    schema = {"type": "object", "properties": {"x": types}, "required": ["x"]}
    add_run(opened, "fields", [("0", "prompt")], schema=schema)
    answer(opened, "fields", "0", "{}", {"x": first})
    with person(opened, "fields") as maria:
        assert maria.send(maria.open("0"), x=text).status_code == 303
        assert stored(opened, "fields", "0") == ({"x": changed}, "maria")


def test_a_purged_run_cannot_be_reviewed(opened: Ledger) -> None:
    labelled_run(opened)
    with person(opened, "labelled") as maria:
        page = maria.open("r1")
        late = datetime.now(UTC) + timedelta(days=1)
        opened.retention.purge(late, texts_only=True, now=late)
        refused = maria.send(page, response="anything")
        assert refused.status_code == 400
        assert "its settings were purged, so it cannot be reviewed" in refused.text
    assert opened.reviews.of_run("labelled") == []


def test_an_older_page_does_not_replace_the_review_of_another_person(opened: Ledger) -> None:
    labelled_run(opened)
    ann = PersonAnswer(row_id="r1", answer="positive", answered_by="ann")
    with person(opened, "labelled") as maria:
        page = maria.open("r1")
        record_reviews(opened, "labelled", [ann])
        refused = maria.send(page, response="neutral")
        assert refused.status_code == 400
        assert "ann has reviewed this row meanwhile" in refused.text
        assert stored(opened, "labelled", "r1") == ("positive", "ann")
        # What maria entered is still there, and she may insist.
        assert 'value="neutral" checked' in refused.text
        assert maria.send(refused.text, response="neutral").status_code == 303
        assert stored(opened, "labelled", "r1") == ("neutral", "maria")
        # A form that is sent twice is no conflict.
        page = maria.open("r2")
        assert [maria.send(page, response="negative").status_code for _ in range(2)] == [303, 303]
        # Nor does the button of an older page undo a review that it did not show.
        page, after = maria.open("r1"), maria.open("r2", "&done=r1")
        record_reviews(opened, "labelled", [ann])
        for one in (page, after):
            refused = maria.send(one, "/undo")
            assert (refused.status_code, "ann has reviewed" in refused.text) == (400, True)
        assert stored(opened, "labelled", "r1") == ("positive", "ann")


def test_a_page_from_before_the_answer_of_the_model_does_not_replace_it(opened: Ledger) -> None:
    labelled_run(opened, open_rows=1)
    with person(opened, "labelled") as maria:
        page = maria.open("r5")
        answer(opened, "labelled", "r5", "neutral", "neutral")
        refused = maria.send(page, response="positive")
        assert (refused.status_code, "it is completed meanwhile" in refused.text) == (400, True)
    assert stored(opened, "labelled", "r5") == ("neutral", None)


def test_rows_with_any_id_are_reviewed_and_undone(opened: Ledger) -> None:
    hostile_run(opened)
    with person(opened, "hostile") as maria:
        for row_id in HOSTILE_IDS[:-2]:
            answered = maria.send(maria.open(row_id, "&at=0"), label="ok")
            assert answered.status_code == 303, row_id
            assert stored(opened, "hostile", row_id)[1] == "maria"
            place = dict(parse_qsl(answered.headers["location"].partition("?")[2]))
            assert place["done"] == row_id
            after = maria.client.get(answered.headers["location"]).text
            assert maria.send(after, "/undo").status_code == 303
            assert stored(opened, "hostile", row_id)[1] is None


def test_a_copied_review_has_no_button_to_undo_it(opened: Ledger) -> None:
    labelled_run(opened, "first")
    record_reviews(opened, "first", [PersonAnswer(row_id="r0", answer="neutral", answered_by="ann")])
    add_run(opened, "second", [("copy", "prompt")], keys_of="first", schema={"enum": ["neutral", "positive"]})
    assert opened.rows.reuse_answers("second", now=datetime.now(UTC)) == 1
    with person(opened, "second") as maria:
        page = maria.open("copy")
        assert ("reviewed by" in page, "Undo the review" in page) == (True, False)
        assert maria.send(page, response="positive").status_code == 303
        assert "Undo the review" in maria.open("copy")


def test_the_gold_value_is_compared_with_the_answer_of_the_model(opened: Ledger) -> None:
    labelled_run(opened)
    with person(opened, "labelled") as maria:
        assert maria.send(maria.open("r1"), response="neutral").status_code == 303
        page = maria.open("r1")
        assert "neutral (the answer of the model differs)" in page
        # Both answers are named.
        person_answer, model_answer = page.index("Answer of maria"), page.index("Answer of the model")
        assert page.index("neutral", person_answer) < model_answer < page.index("negative", model_answer)
        assert maria.send(maria.open("r2"), response="neutral").status_code == 303
        opened.gold.add("labelled", [GoldValue(row_id="r4", field="response", value="neutral")])
        opened.gold.set_correct("labelled", [("r4", "response", False)])
        cells = re.findall(r'data-title="gold"><bdi>(.*?)</bdi>', maria.client.get("/").text)
        shown = ["", "the model differs: neutral", "the model is right", "", "the model differs: neutral", ""]
        assert cells == shown
        ids = re.compile(r"data-row><bdi>(.*?)</bdi>")
        assert ids.findall(maria.client.get("/?gold=wrong").text) == ["r1", "r4"]
        assert ids.findall(maria.client.get("/?gold=open").text) == ["r4"]


def test_the_end_of_a_list_names_the_rows_without_a_review(opened: Ledger) -> None:
    labelled_run(opened)
    with person(opened, "labelled") as maria:
        for query, at, left in (("", 5, "5 rows"), ("&reviewed=no", 4, "4 rows"), ("&q=r2", 0, "no row")):
            row_id = {"": "r5", "&reviewed=no": "r4", "&q=r2": "r2"}[query]
            sent = maria.send(maria.open(row_id, f"&at={at}{query}"), response="neutral")
            page = maria.client.get(sent.headers["location"]).text
            assert f"This is the end of the list: {left} of it" in page
        # Not at its end.
        sent = maria.send(maria.open("r0", "&at=0"), response="neutral")
        assert "the end of the list" not in maria.client.get(sent.headers["location"]).text


def test_a_row_shows_the_system_text_as_it_was_sent(opened: Ledger) -> None:
    text = "You label reviews. Answer with one of: good, bad"
    add_run(opened, "told", [("a", "Works well.")], schema={"enum": ["good", "bad"]}, system_text=text)
    answer(opened, "told", "a", "good", "good")
    with person(opened, "told") as maria:
        assert text in maria.open("a")
