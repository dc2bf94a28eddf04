"""The plugin's journal, read while it grows."""

from __future__ import annotations

from pathlib import Path

from opencode_tasks.opencode.journal import JournalReader


def test_each_complete_line_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    reader = JournalReader(path)
    assert reader.new_records() == []
    path.write_text('{"kind":"loaded"}\n{"kind":"al')
    assert reader.new_records() == [{"kind": "loaded"}]
    assert reader.new_records() == []
    with path.open("a") as journal:
        journal.write('ive","session":"ses_1"}\n')
    assert reader.new_records() == [{"kind": "alive", "session": "ses_1"}]
    assert reader.new_records() == []


def test_a_line_that_was_written_in_part_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"kind":"al{"kind":"loaded"}\n{"kind":"alive"}\n')
    assert JournalReader(path).new_records() == [{"kind": "alive"}]


def test_a_missing_line_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"n":1,"kind":"loaded"}\n{"n":2,"kind":"alive"}\n')
    reader = JournalReader(path)
    assert (len(reader.new_records()), reader.is_whole) == (2, True)
    with path.open("a") as journal:
        journal.write('{"n":4,"kind":"alive"}\n')
    assert (len(reader.new_records()), reader.is_whole) == (1, False)


def test_lines_that_are_no_records_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text("1\n" + "[" * 100_000 + '\n"text"\n{"n":1,"kind":"alive"}\n')
    assert JournalReader(path).new_records() == [{"n": 1, "kind": "alive"}]
