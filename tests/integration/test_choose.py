"""``opencode-tasks choose``: the cheapest model whose labels are good enough."""

from __future__ import annotations

import json
import shlex
import signal
import time
from typing import Any

import pytest
from cluster import Desk

from opencode_tasks.testing import Call, Reply

ROWS = 60
# Price of a million tokens in USD, and of how many rows in twenty the answer is right.
MODELS = {"poor": (0.1, 12), "good": (1.0, 19), "best": (10.0, 20)}
# Each answer of the scripted provider has these tokens.
TOKENS = 1000


@pytest.fixture
def labelled(desk: Desk) -> Desk:
    """A table of rows with the label yes, and models that give it to a known share of them."""
    for name, (price, right) in MODELS.items():
        desk.provider.models[name] = {
            "name": name,
            "cost": {"input": price, "output": price},
            "limit": {"context": 100_000, "output": 4096},
        }

        def is_right(call: Call, name: str = name, right: int = right) -> bool:
            return call.model == name and int(call.prompt.split()[1]) % 20 < right

        def is_wrong(call: Call, name: str = name, right: int = right) -> bool:
            return call.model == name and int(call.prompt.split()[1]) % 20 >= right

        desk.provider.on(is_right, Reply(text="yes", input_tokens=TOKENS, output_tokens=TOKENS))
        desk.provider.on(is_wrong, Reply(text="no", input_tokens=TOKENS, output_tokens=TOKENS))
    desk.write_csv(
        "in.csv",
        [{"id": f"r{n}", "prompt": f"row {n}", "human": "yes" if n < ROWS else ""} for n in range(80)],
    )
    return desk


def choose(desk: Desk, *more: str) -> Any:
    config = desk.folder / "opencode.json"
    config.write_text(json.dumps(desk.provider.opencode_config()))
    models = [word for name in MODELS for word in ("--model", f"fake/{name}")]
    fixed = ["--opencode-config", str(config), "--opencode-bin", str(desk.binary)]
    ledger = ["--ledger", str(desk.folder / "ledger.db")]
    return desk.run(
        "choose", "in.csv", "--gold", "human", "--choices", "yes,no", *models, *fixed, *ledger, *more
    )


@pytest.mark.scripted
def test_an_interrupted_choice_says_how_to_continue(labelled: Desk) -> None:
    desk = labelled
    desk.provider.on("row", Reply(text="yes", delay_s=0.5))
    config = desk.folder / "opencode.json"
    config.write_text(json.dumps(desk.provider.opencode_config()))
    models = ("--model", "fake/echo", "--model", "fake/free")
    fixed = ["--opencode-config", str(config), "--opencode-bin", str(desk.binary)]
    ledger = ["--ledger", str(desk.folder / "ledger.db")]
    command = ["choose", "in.csv", "--gold", "human", "--choices", "yes,no", *models, *fixed, *ledger]
    with desk.start(*command) as process:
        while len(desk.provider.calls) < 5:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    *_, said, again = stderr.splitlines()
    assert said == "interrupted: finished rows are in the ledger; to continue, run the same command again:"
    assert again.split()[:3] == ["opencode-tasks", "choose", "in.csv"]
    resumed = desk.run("resume", *ledger)
    assert resumed.code == 2
    assert "is part of opencode-tasks choose: run that command again" in resumed.stderr


@pytest.mark.slow
@pytest.mark.scripted
def test_the_cheapest_model_that_reaches_the_target_is_named_and_its_answers_are_kept(labelled: Desk) -> None:
    desk = labelled
    ran = choose(desk, "--target", "0.9", "--json")
    assert ran.code == 0, ran.stderr
    found = ran.summary
    assert (found["chosen"], found["options"]) == ("fake/good", {"model": "fake/good", "variant": None})
    by_name = {one["name"].partition("/")[2]: one for one in found["candidates"]}
    for name, (price, right) in MODELS.items():
        one = by_name[name]
        assert one["low"] <= right / 20 <= one["high"], one
        assert one["row_cost_usd"] == pytest.approx(price * 2 * TOKENS / 1e6)
        assert one["label_cost_usd"] == pytest.approx(one["cost_usd"] / one["correct"])
        calls = [call for call in desk.provider.calls if call.model == name]
        assert len(calls) == one["rows"] == len({call.prompt for call in calls})
    assert by_name["poor"]["rows"] < ROWS
    assert "are correct" in by_name["poor"]["dropped"]
    assert by_name["good"]["rows"] == ROWS
    # The command annotates the whole table, and pays for the other rows alone.
    before = len(desk.provider.calls)
    words = shlex.split(found["command"])
    assert words[:3] == ["opencode-tasks", "annotate", "in.csv"]
    words[words.index("OUTPUT")] = "out.csv"
    annotated = desk.run(*words[1:], "--runner", "threads")
    assert annotated.code == 0, annotated.stderr
    assert len(desk.provider.calls) - before == 80 - ROWS
    # The same choice costs nothing.
    before = len(desk.provider.calls)
    again = choose(desk, "--target", "0.9", "--html", "choice.html")
    assert (again.code, len(desk.provider.calls)) == (0, before)
    assert "cheapest with 90% correct labels: fake/good (95.0%" in again.stdout
    assert "not sure yet" in again.stdout
    page = (desk.folder / "choice.html").read_text()
    for text in ("Chosen: <bdi>fake/good</bdi>", "2 fake/good", shlex.quote(found["candidates"][0]["name"])):
        assert text in page, text
    assert f"<pre>{again.stdout.splitlines()[-1].removeprefix('run: ')}</pre>" in page
    assert '<dt>choices</dt><dd class="block">yes,no</dd>' in page


@pytest.mark.scripted
@pytest.mark.slow
def test_a_row_that_failed_is_not_asked_again_and_its_cost_counts(labelled: Desk) -> None:
    labelled.provider.models["flaky"] = {**labelled.provider.models["poor"], "name": "flaky"}
    for number in range(ROWS):

        def is_row(call: Call, number: int = number) -> bool:
            return call.model == "flaky" and call.prompt == f"row {number}"

        # A second request would be right.
        texts = ["perhaps", "yes"] if number % 3 == 0 else ["yes"]
        replies = [Reply(text=text, input_tokens=TOKENS, output_tokens=TOKENS) for text in texts]
        labelled.provider.on(is_row, *replies)
    more = ("--target", "0.8", "--max-repairs", "0", "--model", "fake/flaky", "--json")
    ran = choose(labelled, *more)
    assert ran.code == 0, ran.stderr
    flaky = next(one for one in ran.summary["candidates"] if one["name"] == "fake/flaky")
    calls = [call for call in labelled.provider.calls if call.model == "flaky"]
    assert len(calls) == flaky["rows"] == len({call.prompt for call in calls})
    failed = sum(int(call.prompt.split()[1]) % 3 == 0 for call in calls)
    assert (flaky["correct"], flaky["unanswered"]) == (len(calls) - failed, failed)
    assert flaky["errors"] == {"structured_output": failed}
    assert flaky["cost_usd"] == pytest.approx(len(calls) * MODELS["poor"][0] * 2 * TOKENS / 1e6)
    assert ran.summary["chosen"] == "fake/good"
    line = f"fake/flaky: {failed} of {len(calls)} rows without an answer (structured_output {failed})"
    assert line in ran.stderr


@pytest.mark.scripted
@pytest.mark.slow
def test_no_model_reaches_a_target_that_is_too_high(labelled: Desk) -> None:
    labelled.write_csv(
        "in.csv", [{"prompt": f"row {n}", "human": "no" if n == 3 else "yes"} for n in range(20)]
    )
    ran = choose(labelled, "--target", "1", "--json")
    assert (ran.code, ran.summary["chosen"], ran.summary["command"]) == (1, None, None)
    shown = choose(labelled, "--target", "1").stdout
    assert "no model reaches 100%" in shown
    assert "95.0%" in next(line for line in shown.splitlines() if line.startswith("fake/best"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "fault"),
    [
        pytest.param(more, fault, marks=pytest.mark.scripted)
        for more, fault in (
            (("--target", "1.5"), "--target: 1.5 is not a share"),
            (("--gold", "none"), "INPUT has no column 'none' (--gold). It has "),
            (("--rows", "0"), "--rows: 0 is not at least 1"),
            (("--model", "fake/poor"), "--model: 'fake/poor' is named twice"),
            (("--html", "no/page.html"), "no/page.html: the folder no does not exist"),
        )
    ]
    + [pytest.param(("--model", "fake/absent"), "no model 'absent'")],
)
def test_a_choice_that_cannot_be_made_is_refused_before_anything_is_sent(
    labelled: Desk, more: tuple[str, ...], fault: str
) -> None:
    ran = choose(labelled, *more)
    assert (ran.code, fault in ran.stderr, labelled.provider.calls) == (2, True, []), ran.stderr


@pytest.mark.scripted
@pytest.mark.slow
def test_a_budget_ends_the_choice_and_a_higher_one_continues_it(labelled: Desk) -> None:
    ran = choose(labelled, "--max-cost", "0.3")
    assert (ran.code, "stopped by --max-cost" in ran.stderr) == (75, True), ran.stderr
    before = len(labelled.provider.calls)
    assert choose(labelled, "--max-cost", "5").code == 0
    assert len(labelled.provider.prompts()) == len(
        {(call.model, call.prompt) for call in labelled.provider.calls}
    )
    assert len(labelled.provider.calls) > before
