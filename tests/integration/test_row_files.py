"""Files of rows: what the provider receives of them, and what is refused before anything is sent."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
from attached_files import PDF, SEER, png, received, written
from cluster import Desk
from engine_runs import Engine, setting
from rig import BOTH
from typer.testing import CliRunner

from opencode_tasks.cli.app import with_commands
from opencode_tasks.cli.exit_codes import PAUSED, USAGE_ERROR
from opencode_tasks.engine.estimates import forecast
from opencode_tasks.engine.forecast_text import forecast_json, forecast_lines
from opencode_tasks.engine.run import forget_texts
from opencode_tasks.errors import InputError
from opencode_tasks.ledger import Ledger
from opencode_tasks.orchestration.annotate import execute_here
from opencode_tasks.plan.make_plan import make_plan
from opencode_tasks.plan.resolver import ResolvedOptions
from opencode_tasks.testing import Reply, ScriptedProvider
from opencode_tasks.testing.models import DEFAULT_MODELS
from opencode_tasks.testing.scripted_backend import scripted_backend
from opencode_tasks.view.static_export import export_rows

PASSWORD = "the URL of a file holds a password, which would be stored; use the settings of its driver"
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["cat", "dog"]}}, "required": ["label"]}


class Files(Engine):
    """Runs over rows with files in a folder."""

    def __init__(self, folder: Path, provider: ScriptedProvider, way: dict[str, Any]) -> None:
        self.folder = folder / "data"
        self.folder.mkdir()
        self.seen = len(provider.calls)
        super().__init__(folder, provider, {**way, "file": "file", "table_folder": str(self.folder)})

    def rows(self, *cells: Any) -> None:
        """The rows of the next run, by their cells."""
        prompts = [f"look {number}" for number in range(len(cells))]
        self.frame = pd.DataFrame({"prompt": prompts, "file": pd.Series(list(cells), dtype=object)})

    def run_rows(self, **options: Any) -> list[dict[str, Any]]:
        """The rows of OUTPUT."""
        return self.execute(self.plan(**options)).frame.to_dict("records")

    def statuses(self, **options: Any) -> list[str]:
        return [row["status"] for row in self.run_rows(**options)]

    def sent(self) -> list[list[Any]]:
        """The first prompts of the requests since the last call, in the order of their texts."""
        calls = self.provider.calls[self.seen :]
        self.seen += len(calls)
        return sorted((received(call) for call in calls), key=lambda parts: parts[0])

    def stored(self) -> list[Any]:
        """The files of the rows of the newest run in the ledger."""
        run_id = self.run()["run_id"]
        with Ledger.open(self.ledger_url) as ledger:
            rows = [ledger.results.row(run_id, str(at)) for at in range(len(self.frame))]
        return [row["row"]["files"] for row in rows if row is not None]


@pytest.fixture(scope="module")
def served() -> Iterator[ScriptedProvider]:
    """A provider with a model that takes images and PDF files."""
    with ScriptedProvider(models={**DEFAULT_MODELS, "seer": SEER}) as running:
        yield running


@pytest.fixture
def real(tmp_path: Path, served: ScriptedProvider, opencode_binary: Path) -> Files:
    """Runs of the real opencode, which share a server."""
    config = served.opencode_config()
    way = {"opencode_bin": str(opencode_binary), "opencode_config": config, "model": "fake/seer"}
    return Files(tmp_path, served, way)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    """Runs without opencode."""
    with (
        ScriptedProvider(models={**DEFAULT_MODELS, "seer": SEER}) as provider,
        scripted_backend(provider, "seer") as backend,
    ):
        yield Files(tmp_path, provider, {"backend": backend})


@pytest.mark.slow
@pytest.mark.parametrize("backend", BOTH)
def test_both_backends_send_the_same_bytes_of_each_kind(real: Files, backend: Any) -> None:
    image, other = png(), png(seed=1)
    names = {
        "a b.png": image,
        "ünï 'q\" {file:x}.txt": "grün {file:/etc/passwd} @x\n".encode(),
        "d\n.pdf": PDF,
        "sub/100%25.txt": b"percent",
        "utf16.txt": "\ufeffänd\n".encode("utf-16-le"),
        "b.jpg": other,
    }
    written(real.folder, names)
    (real.folder / "link").symlink_to("a b.png")
    link = str(real.folder / "link")
    cells = ["a b.png", [*names], json.dumps(["sub/../sub/100%25.txt", link])]
    without = [None, "", []] if backend == "server" else []
    real.rows(*cells, *without)
    assert {*real.statuses(backend=backend)} == {"completed"}
    assert real.sent() == [
        ["look 0", ("image/png", image)],
        [
            "look 1",
            ("image/png", image),
            ("ünï 'q\" {file:x}.txt", "grün {file:/etc/passwd} @x\n"),
            ("application/pdf", "d\n.pdf", PDF),
            ("100%25.txt", "percent"),
            ("utf16.txt", "änd\n"),
            ("image/png", other),
        ],
        ["look 2", ("100%25.txt", "percent"), ("image/png", image)],
        *([f"look {3 + at}"] for at in range(len(without))),
    ]
    assert str(real.folder) not in json.dumps([call.body for call in real.provider.calls])


@pytest.mark.slow
@pytest.mark.parametrize("backend", BOTH)
def test_a_large_image_is_sent_as_it_is_and_stored_nowhere(real: Files, backend: Any) -> None:
    image = png(2240, 2240)
    assert len(image) > 15_000_000
    written(real.folder, {"large.png": image})
    real.rows("large.png")
    assert real.statuses(backend=backend) == ["completed"]
    assert real.sent() == [["look 0", ("image/png", image)]]
    assert Path(real.ledger_url).stat().st_size < 1_000_000
    assert real.stored() == [
        [
            {
                "address": str(real.folder / "large.png"),
                "name": "large.png",
                "media_type": "image/png",
                "size_bytes": len(image),
                "sha256": hashlib.sha256(image).hexdigest(),
            }
        ]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BOTH)
def test_a_repair_of_an_answer_has_the_files_again(real: Files, backend: Any) -> None:
    # Of this backend alone: each of the two gets both replies.
    seed = 5 if backend == "server" else 50
    written(real.folder, {"a.png": png(seed=seed), "b.txt": b"b"})
    real.rows(["a.png", "b.txt"])
    image = base64.b64encode(png(seed=seed)).decode()
    real.provider.on(
        lambda call: image in json.dumps(call.body), Reply(text="a cat"), Reply(text='{"label": "cat"}')
    )
    (row,) = real.run_rows(backend=backend, schema=SCHEMA)
    assert (row["status"], row["label"]) == ("completed", "cat")
    assert real.sent() == [["look 0", ("image/png", png(seed=seed)), ("b.txt", "b")]] * 2


@pytest.mark.slow
def test_a_sandbox_has_the_files_and_not_their_folder(real: Files) -> None:
    written(real.folder, {"a.png": png(seed=6), "other.txt": b"not for the agent"})
    real.rows("a.png")
    words = {"command": f"ls {real.folder}", "description": "look"}
    image = base64.b64encode(png(seed=6)).decode()
    work = (Reply(tool_calls=[("bash", words)]), Reply(text="done"))
    real.provider.on(lambda call: image in json.dumps(call.body), *work)
    (row,) = real.run_rows(allow_tool=("bash",), sandbox="bwrap")
    assert (row["status"], row["response"]) == ("completed", "done")
    first, second = real.provider.calls[real.seen :]
    assert received(first) == received(second) == ["look 0", ("image/png", png(seed=6))]
    (result,) = [one for one in second.body["messages"] if one["role"] == "tool"]
    assert "No such file" in result["content"]


@pytest.mark.nightly
def test_opencode_replaces_a_file_that_a_model_does_not_take_so_no_row_is_sent(real: Files) -> None:
    written(real.folder, {"a.png": png(), "d.pdf": PDF, "t.txt": b"text"})
    real.rows("a.png", "d.pdf")
    with pytest.raises(InputError) as caught:
        real.plan(model="fake/echo")
    modalities = '{"input": ["text", "image", "pdf"], "output": ["text"]}'
    entry = f'{{"models": {{"echo": {{"modalities": {modalities}}}}}}}'
    assert caught.value.faults == (
        (
            "--file: fake/echo takes no image and no pdf files, as opencode knows it; choose another model, "
            f'or declare in the opencode config what it takes: "provider": {{"fake": {entry}}}'
        ),
    )
    real.rows("a.png", "t.txt", None)
    with pytest.raises(InputError, match=r"INPUT: fake/echo takes no image files: data row 1 \(id '0'\)"):
        real.plan(model="fake/echo")
    rows = real.run_rows(model="fake/echo", bad_rows="fail")
    assert [row["status"] for row in rows] == ["failed", "completed", "completed"]
    assert (rows[0]["error_type"], rows[0]["error_message"]) == (
        "invalid_input",
        "fake/echo takes no image files",
    )
    assert real.sent() == [["look 1", ("t.txt", "text")], ["look 2"]]


@pytest.mark.parametrize("backend", BOTH)
def test_the_plugin_refuses_a_file_that_the_model_does_not_take(real: Files, backend: Any) -> None:
    written(real.folder, {"a.png": png(seed=7)})
    real.rows("a.png")
    plan = real.plan(backend=backend)
    assert plan.catalog is not None
    # The plan was made for another model than the one that opencode asks.
    object.__setattr__(plan.catalog, "model_ref", "fake/echo")
    (row,) = real.execute(plan).frame.to_dict("records")
    assert (row["status"], row["error_type"]) == ("failed", "attached_file")
    assert row["error_message"] == "fake/echo takes no image files"
    assert real.sent() == []


def test_the_key_of_a_row_has_the_content_of_its_files_and_not_their_place(files: Files) -> None:
    written(
        files.folder, {"a.png": png(), "x/a.png": png(), "x/b.png": png(), "t.txt": b"t", "x/u.txt": b"t"}
    )
    plain = [row.row_key for row in files.plan(file=()).rows]
    files.rows(
        None, "a.png", "x/a.png", "x/b.png", "t.txt", "x/u.txt", ["a.png", "t.txt"], ["t.txt", "a.png"]
    )
    files.frame["prompt"] = "row 0"
    keys = [row.row_key for row in files.plan().rows]
    assert keys[0] == plain[0]
    # The name of an image does not reach the model, and that of a text does.
    assert keys[1] == keys[2] == keys[3]
    assert len({*keys}) == 6
    (files.folder / "a.png").write_bytes(png(seed=1))
    assert [row.row_key for row in files.plan().rows][1] not in keys


def test_a_moved_folder_is_not_paid_again_and_a_changed_byte_is(files: Files) -> None:
    written(files.folder, {"a.png": png(), "b.png": png(seed=1)})
    files.rows("a.png", "b.png")
    assert files.statuses() == ["completed"] * 2
    assert len(files.sent()) == 2
    moved = files.folder.rename(files.folder.with_name("moved"))
    written(moved, {"b.png": png(seed=2)})
    rows = files.run_rows(table_folder=str(moved))
    assert [row["reused"] for row in rows] == [True, False]
    assert files.sent() == [["look 1", ("image/png", png(seed=2))]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("empty.png", b"", "is empty"),
        ("page.png", b"<html>404</html>", "is text, and no image/png as its name says"),
        ("a.zip", b"PK\x03\x04\0\0", "is no PNG, JPEG, GIF or WebP image, PDF, or text in UTF-8"),
        ("latin.txt", "grün".encode("latin-1"), "is no PNG, JPEG"),
        ("big.txt", b"x" * 2001, "has more than 2,000 bytes (OPENCODE_TASKS_MAX_FILE_BYTES)"),
        ("folder/x", b"x", "is a folder, and no file"),
        ("odd", None, "there is no file"),
    ],
    ids=["empty", "page", "zip", "latin", "big", "folder", "missing"],
)
def test_a_file_that_cannot_be_sent_is_a_fault_of_its_row(
    files: Files, name: str, content: bytes | None, fault: str
) -> None:
    written(files.folder, {"good.txt": b"good", **({} if content is None else {name: content})})
    cell = name.partition("/")[0]
    files.rows("good.txt", [cell])
    with setting("MAX_FILE_BYTES", "2000"):
        with pytest.raises(InputError) as caught:
            files.plan()
        rows = files.run_rows(bad_rows="fail")
    (line,) = caught.value.faults
    assert fault in line
    assert str(files.folder / cell) in line
    assert line.endswith(": data row 2 (id '1')")
    assert [row["status"] for row in rows] == ["completed", "failed"]
    assert rows[1]["error_type"] == "invalid_input"
    assert fault in rows[1]["error_message"]
    assert files.sent() == [["look 0", ("good.txt", "good")]]


def test_cells_and_totals_that_cannot_be_used_are_faults(files: Files) -> None:
    written(files.folder, {"a.txt": b"a" * 600, "b.txt": b"b" * 600})
    os.mkfifo(files.folder / "pipe")
    files.rows(
        *({"path": "a.txt"}, ["a.txt", None], '["a.txt", 3]', ["a.txt", "b.txt"], "pipe", "a\0b"),
        *("https://user:pw@127.0.0.1/x.png", "nosuch://x", "{a}", "['a.txt']"),
    )
    with setting("MAX_ROW_FILE_BYTES", "1000"), pytest.raises(InputError) as caught:
        files.plan()
    folder, first = files.folder, "data row 1 (id '0')"
    size = "INPUT: its files have 1,200 bytes, more than 1,000 (OPENCODE_TASKS_MAX_ROW_FILE_BYTES)"
    element = "INPUT: the list with its files has an element that is empty or no text"
    assert [*caught.value.faults] == [
        f"INPUT: the cell with its files is an object; name a path, a URL or a list of them: {first}",
        f"{element}: data row 2 (id '1'), data row 3 (id '2')",
        f"{size}: data row 4 (id '3')",
        f"INPUT: '{folder}/pipe' is no regular file: data row 5 (id '4')",
        "INPUT: the name of a file has a character that no file can have: 'a\\x00b': data row 6 (id '5')",
        f"INPUT: {PASSWORD}: data row 7 (id '6')",
        "INPUT: the file nosuch://x cannot be read: Protocol not known: nosuch: data row 8 (id '7')",
        f"INPUT: there is no file '{folder}/{{a}}': data row 9 (id '8')",
        f"INPUT: there is no file \"{folder}/['a.txt']\": data row 10 (id '9')",
    ]


def test_a_file_that_changes_after_planning_fails_its_row(files: Files) -> None:
    written(files.folder, {"a.txt": b"a", "b.txt": b"b", "c.txt": b"c", "d.txt": b"d"})
    files.rows("a.txt", "b.txt", "c.txt", "d.txt")
    plan = files.plan()
    (files.folder / "a.txt").write_bytes(b"A")
    (files.folder / "b.txt").write_bytes(b"longer")
    (files.folder / "c.txt").unlink()
    rows = files.execute(plan).frame.to_dict("records")
    assert [row["status"] for row in rows] == ["failed", "failed", "failed", "completed"]
    assert {row["error_type"] for row in rows[:3]} == {"attached_file"}
    changed = "has changed since the run began; run annotate again"
    assert rows[0]["error_message"] == f"the file {files.folder}/a.txt {changed}"
    assert rows[1]["error_message"] == f"the file {files.folder}/b.txt {changed}"
    assert rows[2]["error_message"].startswith(f"the file {files.folder}/c.txt is not on this machine")
    assert rows[0]["attempts"] == 1
    assert files.sent() == [["look 3", ("d.txt", "d")]]


def test_urls_and_a_table_at_a_url(files: Files) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/files/in/a b.png": png(), "/files/t.txt": b"t"})
    files.rows("a b.png", "../t.txt", "memory://files/t.txt", "memory://files/none.png")
    rows = files.run_rows(table_folder="memory://files/in", bad_rows="fail")
    assert [row["status"] for row in rows] == ["completed"] * 3 + ["failed"]
    assert rows[3]["error_message"] == "there is no file memory://files/none.png"
    assert files.sent() == [
        ["look 0", ("image/png", png())],
        *([f"look {n}", ("t.txt", "t")] for n in (1, 2)),
    ]


def test_a_file_of_many_rows_is_read_once_for_all_models(files: Files) -> None:
    opened: list[str] = []

    class Counted(fsspec.get_filesystem_class("memory")):  # pyright: ignore[reportUntypedBaseClass]
        protocol = "counted"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(path.removeprefix("counted://"))

        def _open(self, path: str, *args: Any, **more: Any) -> Any:
            opened.append(path)
            return super()._open(path, *args, **more)

    fsspec.register_implementation("counted", Counted, clobber=True)
    fsspec.filesystem("memory").pipe({"/shared.png": png(), "/one.png": png(seed=1)})
    files.rows(*["counted://shared.png"] * 50, "counted://one.png")
    models = {"model": "fake/seer", "models": ("fake/seer", "fake/free")}
    with pytest.raises(InputError, match="fake/free takes no image files"):
        files.plan(**models)
    assert sorted(opened) == ["/one.png", "/shared.png"]


def test_two_columns_votes_and_a_stronger_model_send_the_same_files(files: Files) -> None:
    written(files.folder, {"a.png": png(), "t.txt": b"t"})
    files.provider.on(lambda call: call.model == "seer2", Reply(text='"dog"'))
    files.provider.on("look 0", Reply(text='"cat"'), Reply(text='"dog"'), Reply(text='"cat"'))
    files.provider.models["seer2"] = SEER
    files.rows("a.png")
    files.frame["text"] = [["t.txt"]]
    schema = {"type": "string", "enum": ["cat", "dog"]}
    plan = files.plan(file=("text", "file"), schema=schema, votes=3, escalate_to="fake/seer2")
    result = execute_here(plan, files.frame)
    (row,) = result.frame.to_dict("records")
    assert (row["status"], row["response"], row["escalated"]) == ("completed", "dog", True)
    assert files.sent() == [["look 0", ("t.txt", "t"), ("image/png", png())]] * 4


def test_prompts_that_are_not_kept_take_their_files_with_them(files: Files) -> None:
    written(files.folder, {"a.txt": b"a"})
    files.rows("a.txt")
    files.statuses()
    assert files.stored()[0][0]["name"] == "a.txt"
    with setting("STORE_PROMPTS", "false"):
        forget_texts(files.ledger_url, files.run()["run_id"])
    assert files.stored() == [None]


def test_a_plan_keeps_digests_and_no_content(files: Files) -> None:
    names = [f"{number}.txt" for number in range(300)]
    written(files.folder, {name: name.encode() * 10_000 for name in names})
    files.rows(*names)
    options = files.plan().options
    tracemalloc.start()
    plan = make_plan(files.frame, ResolvedOptions(options=options))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len([*plan.rows]) == 300
    assert kept < 3_000_000


def test_a_dry_run_and_the_views_of_a_row_name_its_files(files: Files) -> None:
    fsspec.filesystem("memory").pipe({"/signed.png": png()})
    written(files.folder, {"a\n b.txt": b"12345"})
    files.rows(["a\n b.txt", "memory://signed.png?X-Amz-Signature=abc"], None)
    fsspec.filesystem("memory").pipe({"/signed.png?X-Amz-Signature=abc": png()})
    plan = files.plan()
    with Ledger.open(files.ledger_url) as ledger:
        found = forecast(ledger, plan)
    lines = forecast_lines(plan, found)
    size = len(png())
    first = lines.index("--- prompt of row 0")
    assert lines[first : first + 5] == [
        "--- prompt of row 0",
        "look 0",
        f"file a\\n b.txt: text/plain, 5 bytes, sha256 5994471abb01…, {files.folder}/a\\n b.txt",
        (
            f"file signed.png?X-Amz-Signature=***: image/png, {size} bytes, "
            f"sha256 {hashlib.sha256(png()).hexdigest()[:12]}…, memory://signed.png?X-Amz-Signature=***"
        ),
        "--- prompt of row 1",
    ]
    assert lines[-1] == "  the estimate leaves out images and PDF files (1 row): their tokens are unknown"
    assert [len(one) for one in forecast_json(plan, found)["files"]] == [2, 0]
    assert files.statuses() == ["completed"] * 2
    run_id = files.run()["run_id"]
    shown = CliRunner().invoke(with_commands(), ["show", run_id, "0", "--ledger", files.ledger_url])
    assert "--- files\na\\n b.txt: text/plain, 5 bytes" in shown.stdout
    assert "Signature=***" in shown.stdout
    arguments = ["show", run_id, "0", "--json", "--ledger", files.ledger_url]
    as_json = CliRunner().invoke(with_commands(), arguments)
    assert json.loads(as_json.stdout)["row"]["files"][1]["address"].endswith("Signature=***")
    page = files.folder / "page"
    with Ledger.open(files.ledger_url) as ledger:
        export_rows(ledger, run_id, page)
    text = "".join(path.read_text() for path in page.rglob("*") if path.is_file())
    assert "text/plain, 5 bytes" in text
    assert "Signature=***" in text
    assert "Signature=abc" not in text


@pytest.mark.slow
@pytest.mark.scripted
def test_a_command_takes_paths_from_the_folder_of_its_input_and_resumes(desk: Desk, ledger_url: str) -> None:
    desk.provider.models["echo"] = SEER
    written(desk.folder / "data", {"pictures/a.png": png(), "t.txt": b"t"})
    rows = [
        {"prompt": "look 0", "file": '["pictures/a.png", "t.txt"]'},
        {"prompt": "look 1", "file": ""},
    ]
    desk.write_csv("data/in.csv", rows)
    unpaid = Reply(status=402, body={"error": {"message": "insufficient credit"}})
    desk.provider.on("look 0", unpaid, Reply(text="seen"))
    arguments = ("data/in.csv", "-o", "out.csv", "--file", "file", "--ledger", ledger_url)
    paused = desk.annotate(*arguments, "--no-wait")
    assert paused.code == PAUSED, paused.stderr
    resumed = desk.run("resume", "--ledger", ledger_url)
    assert resumed.code == 0, resumed.stderr
    assert [row["status"] for row in desk.read_csv("out.csv")] == ["completed"] * 2
    sent = [received(call) for call in desk.provider.calls if "look 0" in call.prompt]
    assert sent == [["look 0", ("image/png", png()), ("t.txt", "t")]] * 2
    assert desk.annotate(*arguments, "--json").summary["rows"]["reused"] == 2
    other = desk.annotate(*arguments, "--file", "none")
    assert other.code == USAGE_ERROR
    assert "INPUT has no column 'none' (--file)" in other.stderr


def test_rows_with_one_prompt_and_a_file_each_are_all_sent(files: Files) -> None:
    written(files.folder, {"a.txt": b"first", "b.txt": b"second"})
    files.rows("a.txt", "b.txt")
    assert files.statuses(template="What does it say?") == ["completed"] * 2
    prompt = "What does it say?"
    assert sorted(files.sent()) == [[prompt, ("a.txt", "first")], [prompt, ("b.txt", "second")]]
    with pytest.raises(InputError, match=r"names no \{column\}.*; name one of 'prompt', 'file'"):
        files.plan(template="What does it say?", file=())


@pytest.mark.slow
def test_rows_on_ray_read_their_files_where_they_run(ray_desk: Desk) -> None:
    ray_desk.provider.models["echo"] = SEER
    written(ray_desk.folder, {"a.png": png()})
    ray_desk.write_csv("in.csv", [{"prompt": "look 0", "file": "a.png"}])
    ran = ray_desk.annotate("in.csv", "-o", "out.csv", "--file", "file")
    assert ran.code == 0, ran.stderr
    assert [received(call) for call in ray_desk.provider.calls] == [["look 0", ("image/png", png())]]


def test_files_of_a_web_server(files: Files) -> None:
    written(files.folder, {"a b.txt": b"web", "page.html": b"<p>"})
    handler = partial(SimpleHTTPRequestHandler, directory=str(files.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        files.rows(f"{url}/a%20b.txt?sig=secret", "a b.txt", f"{url}/none.txt")
        rows = files.run_rows(table_folder=url, bad_rows="fail")
        server.shutdown()
    assert [row["status"] for row in rows] == ["completed", "completed", "failed"]
    assert rows[2]["error_message"] == f"there is no file {url}/none.txt"
    assert files.sent() == [[f"look {at}", ("a b.txt", "web")] for at in (0, 1)]
