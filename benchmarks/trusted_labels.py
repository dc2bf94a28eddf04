"""How well the measures of quality hold on real labelled reviews, with a small real model and scripted ones.

    python benchmarks/trusted_labels.py [--rows 200]

The reviews and their labels are those of ``valid_labels.py``. Scripted models give the label of the people
to a known share of the reviews. Each step is a run of the command line:

- accuracy: the interval that 50 rows of the local model give, and the accuracy of all rows.
- choose: which model is named for a target, among the local model and two scripted ones.
- votes: the accuracy of one answer and of the majority of three, and what it is by hand.
- review: 20 rows are corrected; then they are final, and a model that learns from examples has them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from valid_labels import COMMAND, LABELS, QUESTION, reviews

from opencode_tasks.testing import Call, Reply, ScriptedProvider

SAMPLE = 50
CORRECTED = 20
TARGET = 0.9
TOKENS = 1000
RUN_LIMIT_S = 3600
EXAMPLES = "Examples of prompts, each with its answer:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripted:
    """A scripted model: USD per million tokens, its share of right answers, and the same with examples."""

    name: str
    price: float
    share: float
    with_examples: float | None = None


MODELS = (
    Scripted(name="good", price=1.0, share=0.95),
    Scripted(name="best", price=10.0, share=1.0),
    Scripted(name="unsure", price=1.0, share=0.8),
    Scripted(name="learner", price=1.0, share=0.7, with_examples=0.95),
)


class Answers:
    """Decides which answers of the scripted models are right. Each answer is drawn anew, by its number."""

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels
        self.asked: Counter[tuple[str, str]] = Counter()

    def is_right(self, model: Scripted, call: Call) -> bool:
        """Whether this answer is right. Called once for a request."""
        key = (model.name, call.prompt)
        self.asked[key] += 1
        share = model.share
        if model.with_examples is not None and EXAMPLES in call.system:
            share = model.with_examples
        return random.Random(f"{key} {self.asked[key]}").random() < share

    def label(self, call: Call) -> str:
        """The label of the people."""
        return self.labels[call.prompt.rpartition("Review: ")[2]]


def script(provider: ScriptedProvider, answers: Answers) -> None:
    """Add the models to the provider."""
    for model in MODELS:
        cost = {"input": model.price, "output": model.price}
        limit = {"context": 100_000, "output": 4096}
        provider.models[model.name] = {"name": model.name, "cost": cost, "limit": limit}
    wanted: dict[int, str] = {}

    def decide(call: Call) -> str:
        # Each rule looks at the request in turn; the answer is drawn once.
        if id(call) not in wanted:
            model = next(one for one in MODELS if one.name == call.model)
            label = answers.label(call)
            is_right = answers.is_right(model, call)
            wanted[id(call)] = label if is_right else LABELS[label == LABELS[0]]
        return wanted[id(call)]

    for label in LABELS:
        reply = Reply(text=label, input_tokens=TOKENS, output_tokens=TOKENS)
        provider.on(lambda call, label=label: decide(call) == label, reply)


class Desk:
    """A folder with the reviews, and the commands that are run there."""

    def __init__(self, folder: Path, provider: ScriptedProvider, rows: list[dict[str, str]]) -> None:
        self.folder = folder
        self.provider = provider
        self.write("in.csv", rows)
        (folder / "opencode.json").write_text(json.dumps(provider.opencode_config()))

    def write(self, name: str, rows: list[dict[str, str]]) -> None:
        """Write a table of reviews."""
        with (self.folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["id", "text", "human"])
            writer.writeheader()
            writer.writerows({"id": r["id"], "text": r["text"], "human": r["label"]} for r in rows)

    def run(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> Any:
        """Run a command; its JSON. Exits with the message of a command that fails."""
        done = subprocess.run(
            [COMMAND, *arguments],
            cwd=self.folder,
            env=os.environ | {"OPENCODE_TASKS_LEDGER": str(self.folder / "ledger.db")},
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT_S,
            check=False,
        )
        if done.returncode not in codes:
            sys.exit(f"{' '.join(arguments[:2])} ended with {done.returncode}:\n{done.stderr}{done.stdout}")
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    def annotate(self, model: str, *more: str, source: str = "in.csv") -> Any:
        """Annotate the reviews; the summary. Rows that fail have no label."""
        arguments = ["annotate", source, "-o", "out.csv", "--id-column", "id", "--runner", "threads"]
        arguments += [*self.question, "--model", model, "--json", *more]
        return self.run(*arguments, codes=(0, 1))

    @property
    def question(self) -> list[str]:
        """The options of the question."""
        config = ["--opencode-config", "opencode.json"]
        return ["--template", QUESTION, "--choices", ",".join(LABELS), *config]


def accuracy_of_local(desk: Desk) -> None:
    """Compare the interval of a sample with the accuracy of all rows."""
    sample = desk.annotate("local/smollm2", "--gold", "human", "--limit", str(SAMPLE))["quality"]["response"]
    whole = desk.annotate("local/smollm2", "--gold", "human")["quality"]["response"]
    inside = sample["low"] <= whole["accuracy"] <= sample["high"]
    print(
        f"accuracy: local/smollm2 on {sample['n']} rows {sample['accuracy']:.2f} "
        f"({sample['low']:.2f} to {sample['high']:.2f}), on all {whole['n']} rows {whole['accuracy']:.3f}: "
        f"{'inside' if inside else 'OUTSIDE'}"
    )


def choose(desk: Desk) -> None:
    """Choose among the local model and two scripted ones."""
    models = [word for name in ("local/smollm2", "fake/good", "fake/best") for word in ("--model", name)]
    found = desk.run(
        *("choose", "in.csv", "--gold", "human", *desk.question, *models),
        *("--target", str(TARGET), "--json"),
        codes=(0, 1),
    )
    for one in found["candidates"]:
        label_cost = one["label_cost_usd"]
        price = "-" if label_cost is None else f"${label_cost:.6f}"
        share = "-" if one["accuracy"] is None else f"{one['accuracy']:.3f}"
        print(
            f"choose: {one['name']}: {one['rows']} rows, accuracy {share}, {price} a correct label; "
            f"{one.get('dropped') or 'kept'}"
        )
    print(f"choose: for {TARGET:.0%} the named model is {found['chosen']}")


def votes(desk: Desk) -> None:
    """Compare one answer with the majority of three."""
    one = desk.annotate("fake/unsure", "--gold", "human")["quality"]["response"]
    voted = desk.annotate("fake/unsure", "--gold", "human", "--votes", "3", "--refresh")
    many, asked = voted["quality"]["response"], voted["votes"]
    share = next(model.share for model in MODELS if model.name == "unsure")
    by_hand = share**3 + 3 * share**2 * (1 - share)
    print(
        f"votes: one answer {one['accuracy']:.3f} (made with {share}), majority of three "
        f"{many['accuracy']:.3f} ({many['low']:.3f} to {many['high']:.3f}; by hand {by_hand:.3f}); "
        f"{asked['asked']} asked, {asked['saved']} saved"
    )


def review(desk: Desk, rows: list[dict[str, str]]) -> None:
    """Correct rows of a model, and let a later run learn from them."""
    half = len(rows) // 2
    desk.write("first.csv", rows[:half])
    desk.write("second.csv", rows[half:])
    first = desk.annotate("fake/learner", "--gold", "human", source="first.csv")
    before = desk.annotate("fake/learner", "--gold", "human", source="second.csv")
    desk.run("review", "export", first["run_id"], "-o", "review.csv", "--limit", str(CORRECTED))
    labels = {row["id"]: row["label"] for row in rows}
    with (desk.folder / "review.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    for row in table:
        row["answer"] = labels[row["row_id"]]
    with (desk.folder / "review.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    desk.run("review", "import", "review.csv", "--by", "ann")
    calls = len(desk.provider.calls)
    final = desk.annotate("fake/learner", source="first.csv")
    with (desk.folder / "out.csv").open(newline="", encoding="utf-8") as file:
        of_people = [row for row in csv.DictReader(file) if row["answered_by"]]
    is_kept = all(row["response"] == labels[row["id"]] for row in of_people)
    print(
        f"review: {len(of_people)} corrected rows are {'final' if is_kept else 'NOT final'}, "
        f"{len(desk.provider.calls) - calls} requests and ${final['cost_usd']:.6f} for the run after it"
    )
    after = desk.annotate("fake/learner", "--gold", "human", "--examples", "reviewed", source="second.csv")
    old, new = before["quality"]["response"], after["quality"]["response"]
    print(
        f"review: other rows without examples {old['accuracy']:.3f} for ${before['cost_usd']:.6f}, "
        f"with examples {new['accuracy']:.3f} for ${after['cost_usd']:.6f}"
    )


def main() -> None:
    """Measure each step and print its line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200, help="number of reviews (default 200)")
    options = parser.parse_args()
    rows = reviews(options.rows)
    answers = Answers({row["text"]: row["label"] for row in rows})
    with tempfile.TemporaryDirectory(prefix="tl-") as name, ScriptedProvider() as provider:
        script(provider, answers)
        desk = Desk(Path(name), provider, rows)
        votes(desk)
        review(desk, rows)
        accuracy_of_local(desk)
        choose(desk)


if __name__ == "__main__":
    main()
