"""Share of valid labels of the small local model on real reviews, and of those that people agree with.

    python benchmarks/valid_labels.py [--rows 200] [--command PATH] [WAY ...]

The reviews are sentences of the Amazon set of Hutto and Gilbert (2014) with the ratings of 20 people each.
The source package of vaderSentiment on the package index has them (MIT licence); pip downloads it. Rows are
drawn from those with a clear rating, half of them positive. Each way to ask is a run of the command line. A
label is valid if it is exactly one of the two. ``--command`` names the command of another
checkout, to compare versions; ways that it does not know are left out.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("opencode-tasks"))
PACKAGE = "vaderSentiment==3.3.2"
INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS = "amazonReviewSnippets_GroundTruth.txt"
# Ratings are means from -4 to 4.
CLEAR = 1.5
LABELS = ("positive", "negative")
SEED = 7
DOWNLOAD_LIMIT_S = 120
RUN_LIMIT_S = 3600
USAGE_ERROR = 2

QUESTION = "Is this review positive or negative? Answer with one word.\n\nReview: {text}"
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": list(LABELS)}},
    "required": ["label"],
    "additionalProperties": False,
}
WAYS: dict[str, list[str]] = {
    "text": [],
    "schema": ["--schema", "schema.json"],
    "schema, no repair": ["--schema", "schema.json", "--max-repairs", "0"],
    "schema, two repairs": ["--schema", "schema.json", "--max-repairs", "2"],
    "choices, no repair": ["--choices", ",".join(LABELS), "--max-repairs", "0"],
    "choices": ["--choices", ",".join(LABELS)],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Results of one way to ask, as counts of rows; ``tokens`` are those of all requests."""

    way: str
    valid: int
    right: int
    tokens: int
    seconds: float


def reviews(count: int) -> list[dict[str, str]]:
    """Rows with ``id``, ``text`` and ``label``, in an order that does not depend on the label."""
    with tempfile.TemporaryDirectory() as folder:
        # The environment has no pip of its own.
        pip = [str(Path(sys.base_prefix) / "bin" / "python3"), "-m", "pip", "--disable-pip-version-check"]
        download = ["download", "-q", "--no-deps", "--no-binary", ":all:", "-d", folder, PACKAGE]
        subprocess.run([*pip, *download], check=True, timeout=DOWNLOAD_LIMIT_S)
        (archive,) = Path(folder).glob("*.tar.gz")
        text = member(member(archive.read_bytes(), INNER), RATINGS).decode("utf-8", errors="replace")
    rated: dict[str, list[dict[str, str]]] = {label: [] for label in LABELS}
    for line in text.splitlines():
        name, rating, sentence = line.split("\t", 2)
        if abs(float(rating)) >= CLEAR:
            label = LABELS[float(rating) < 0]
            rated[label].append({"id": name, "text": sentence.strip(), "label": label})
    draw = random.Random(SEED)
    rows = [row for label in LABELS for row in draw.sample(rated[label], count // 2)]
    draw.shuffle(rows)
    return rows


def member(archive: bytes, name: str) -> bytes:
    """Content of the file of a tar archive whose path ends with ``name``."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        (found,) = [one for one in opened if one.name.endswith(name)]
        content = opened.extractfile(found)
        assert content is not None
        return content.read()


def measure(command: str, folder: Path, way: str, rows: list[dict[str, str]]) -> Line | None:
    """Run one way to ask; None if the command does not know its options."""
    output = folder / "out.csv"
    output.unlink(missing_ok=True)
    arguments = ["annotate", "in.csv", "-o", str(output), "--id-column", "id", "--template", QUESTION]
    arguments += ["--model", "local/smollm2", "--runner", "threads", "--ledger", "ledger.db", "--refresh"]
    done = subprocess.run(
        [command, *arguments, "--json", *WAYS[way]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
        check=False,
    )
    if done.returncode == USAGE_ERROR and "No such option" in done.stderr:
        return None
    if not output.exists():
        sys.exit(done.stderr)
    summary = json.loads(done.stdout)
    with output.open(newline="", encoding="utf-8") as file:
        answers = {row["id"]: row for row in csv.DictReader(file)}
    column = "label" if way.startswith("schema") else "response"
    found = [(row["label"], answers[row["id"]].get(column, "").strip().lower()) for row in rows]
    return Line(
        way=way,
        valid=sum(answer in LABELS for _, answer in found),
        right=sum(answer == label for label, answer in found),
        tokens=sum(int(count or 0) for count in summary["tokens"].values()),
        seconds=float(summary["seconds"]),
    )


def main() -> None:
    """Measure each way and print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200, help="number of reviews (default 200)")
    parser.add_argument("--command", default=COMMAND, help="path of opencode-tasks (default: this one)")
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"some of: {', '.join(WAYS)} (default: all)")
    options = parser.parse_args()
    if unknown := [way for way in options.ways if way not in WAYS]:
        parser.error(f"unknown ways: {', '.join(unknown)}")
    rows = reviews(options.rows)
    with tempfile.TemporaryDirectory(prefix="vl-") as name:
        folder = Path(name)
        (folder / "schema.json").write_text(json.dumps(SCHEMA))
        with (folder / "in.csv").open("w", newline="", encoding="utf-8") as file:
            # Without the label: an input column of that name would meet the answer's.
            writer = csv.DictWriter(file, ["id", "text"])
            writer.writeheader()
            writer.writerows({"id": row["id"], "text": row["text"]} for row in rows)
        print("| asked with | valid labels | right labels | tokens | seconds |")
        print("|---|---|---|---|---|")
        for way in options.ways or WAYS:
            line = measure(options.command, folder, way, rows)
            if line is not None:
                shares = f"{line.valid / len(rows):.0%} | {line.right / len(rows):.0%}"
                print(f"| {way} | {shares} | {line.tokens:,} | {line.seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
