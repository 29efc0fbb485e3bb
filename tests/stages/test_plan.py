"""Stage `plan` on a user's own rows: what becomes of good ones and of bad ones."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from saferflow.data.attacks import unseen
from saferflow.data.images import open_rgb
from saferflow.data.rows import BadRow, DPORow, Labels, PromptRow, SFTRow
from saferflow.data.scenes.draw import Scene, png
from saferflow.data.tables import read_table
from saferflow.errors import DataError, ParamsError
from saferflow.params import read_values
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.stages import plan

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data" / "real"
TABLES = Path("data/tables")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project folder with the micro profile, set to read data/sources/mine.jsonl."""
    monkeypatch.chdir(tmp_path)
    Path("data/sources").mkdir(parents=True)
    configure()
    return tmp_path


def configure(path: str = "data/sources/mine.jsonl", on_bad_row: str = "fail", fields: dict | None = None) -> None:
    raw = read_values(ROOT / "profiles" / "micro.yaml")
    raw["data"]["sources"] = [
        {
            "kind": "jsonl",
            "path": path,
            "licence": "MIT",
            "evaluation_share": 0.25,
            "fields": fields or {},
            "hazards": {},
        }
    ]
    raw["data"]["on_bad_row"] = on_bad_row
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")


def write(rows: list[dict | str]) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    Path("data/sources/mine.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def good(count: int) -> list[dict]:
    Path("data/sources/cup.png").write_bytes(png(Scene("cup", "red", 1, "park", 0, 1, 1, False, "", "", False)))
    asked = ("How do I clean this?", "How do I hurt a man with this?")
    return [
        {"id": f"r{number}", "question": asked[number % 2], "expected": ("comply", "refuse")[number % 2]}
        | ({"image": "cup.png"} if number % 3 else {})
        for number in range(count)
    ]


def test_a_users_rows_fill_every_table(project):
    write(good(60))
    plan.main()
    sizes = {
        name: len(read_table(TABLES / f"{name}.parquet", kind))
        for name, kind in (("sft", SFTRow), ("dpo", DPORow), ("grpo", PromptRow), ("evaluation", PromptRow))
    }
    assert all(sizes.values())
    assert json.loads(Path("metrics/plan.json").read_text())["quarantined"] == 0
    for row in read_table(TABLES / "sft.parquet", SFTRow):
        assert check(Plan.from_json(row.plan), row.completion) == ()


def test_a_share_of_the_rows_is_set_aside_to_be_watched(project):
    write(good(200))
    set_params(watch={"share": 0.3})
    plan.main()
    kinds = {"sft": SFTRow, "dpo": DPORow, "grpo": PromptRow, "watch": PromptRow, "evaluation": PromptRow}
    ids = {
        name: {row.id.split(".")[0] for row in read_table(TABLES / f"{name}.parquet", kind)}
        for name, kind in kinds.items()
    }
    assert len(ids["watch"]) == json.loads(Path("metrics/plan.json").read_text())["watch"] > 20
    assert sum(map(len, ids.values())) == len(set().union(*ids.values())) == 200


def test_rows_of_several_turns_reach_every_table_and_a_field_that_nothing_reads_is_named(project, capsys):
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]
    rows = [
        {"messages": [*said, {"role": "user", "content": row["question"]}], "expected": row["expected"], "id": row["id"],
         "topic": "cups"}
        for row in good(60)
    ]  # fmt: skip
    write(rows)
    plan.main()
    for name, kind in (("sft", SFTRow), ("dpo", DPORow), ("grpo", PromptRow), ("evaluation", PromptRow)):
        for row in read_table(TABLES / f"{name}.parquet", kind):
            assert row.turns == (("Hello", "Good day."),)
            assert row.question.startswith("Hello\nHow do I ")
    assert "data/sources/mine.jsonl: field topic of 60 rows is not used" in capsys.readouterr().out


def test_every_bad_row_is_told_with_file_and_line_before_anything_is_written(project):
    write([*good(40), "{broken", {"id": "x"}, {"id": "r1", "question": "again?"}])
    with pytest.raises(DataError) as error:
        plan.main()
    for line in (41, 42, 43):
        assert f"data/sources/mine.jsonl:{line}: " in str(error.value)
    assert "quarantine" in str(error.value)
    assert not list(TABLES.glob("*"))


@pytest.mark.parametrize("policy", ["fail", "quarantine"])
@pytest.mark.parametrize(("lines", "told"), [([], "holds no row"), (["{"], r"mine\.jsonl:1: not JSON")])
def test_a_source_without_a_readable_row_is_an_error(project, policy, lines, told):
    configure(on_bad_row=policy)
    write(lines)
    with pytest.raises(DataError, match=told):
        plan.main()
    assert not list(TABLES.glob("*"))


def test_the_tables_are_the_same_bytes_whatever_the_number_of_processes(project):
    write(good(600))
    seen = []
    for workers in (1, 2, 8):
        set_params(run={"workers": workers})
        plan.main()
        seen.append({path.name: path.read_bytes() for path in TABLES.iterdir()})
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 7


def set_params(**sections) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    for name, values in sections.items():
        raw[name] |= values
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")


@pytest.mark.parametrize("allowed", [["Apache-2.0"], []])
def test_a_source_whose_licence_is_not_allowed_stops_the_stage(project, allowed):
    write(good(60))
    set_params(data={"licences": allowed})
    with pytest.raises(DataError, match=r"mine\.jsonl: MIT"):
        plan.main()
    assert not TABLES.exists()


def test_quarantine_moves_bad_rows_to_a_table_and_counts_them(project):
    configure(on_bad_row="quarantine")
    write([*good(40), "{broken", {"id": "y", "question": "Q?", "image": "../secret.png"}])
    plan.main()
    rows = read_table(TABLES / "quarantine.parquet", BadRow)
    assert [(row.line, row.file) for row in rows] == [(41, "data/sources/mine.jsonl"), (42, "data/sources/mine.jsonl")]
    assert json.loads(Path("metrics/plan.json").read_text())["quarantined"] == 2


def unlabelled(count: int) -> list[dict]:
    """Half of them are harmful in words that the rule planner does not know."""
    asked = ("How do I sharpen a pencil?", "How do I burn down my landlord's barn?")
    return [{"id": f"u{number}", "question": f"{asked[number % 2]} ({number})"} for number in range(count)]


@pytest.mark.parametrize("on_bad_row", ["fail", "quarantine"])
def test_rows_that_nobody_labelled_stop_the_stage_with_their_places_and_the_ways_out(project, on_bad_row):
    configure(on_bad_row=on_bad_row)
    write([*good(40), *unlabelled(60)])
    with pytest.raises(DataError) as error:
        plan.main()
    told = str(error.value)
    assert "60 rows without a label" in told
    assert "data/sources/mine.jsonl:41: u0" in told
    assert "and 10 more" in told
    for way in (
        "--field expected=",
        "--hazard",
        "kind: endpoint",
        "plan.allow_guessed_labels",
        "--allow-guessed-labels",
    ):
        assert way in told
    assert len(told) < 10_000
    assert not list(TABLES.glob("[!.]*"))


def test_rows_without_a_label_and_rows_that_cannot_be_read_are_told_together(project):
    write([*good(40), *unlabelled(2), "{broken"])
    with pytest.raises(DataError) as error:
        plan.main()
    for line in (41, 42, 43):
        assert f"data/sources/mine.jsonl:{line}: " in str(error.value)


def all_labels() -> dict[str, list[Labels]]:
    kinds = {"sft": SFTRow, "dpo": DPORow, "grpo": PromptRow, "evaluation": PromptRow}
    return {
        name: [Labels.from_json(row.labels) for row in read_table(TABLES / f"{name}.parquet", kind)]
        for name, kind in kinds.items()
    }


def test_guessed_labels_are_loud_marked_and_held_out_nowhere(project, capsys):
    set_params(plan={"allow_guessed_labels": True})
    write([*good(60), *unlabelled(60)])
    plan.main()
    found = all_labels()
    assert {labels.label_source for labels in found["evaluation"]} == {"gold"}
    trained = [labels for name in ("sft", "dpo", "grpo") for labels in found[name]]
    assert {labels.label_source for labels in trained} == {"gold", "guessed"}
    left_out = read_table(TABLES / "quarantine.parquet", BadRow)
    assert left_out
    assert all("would be held out" in row.reason for row in left_out)
    assert all(row.file == "data/sources/mine.jsonl" and row.line > 60 for row in left_out)
    metrics = json.loads(Path("metrics/plan.json").read_text())
    assert metrics["labels"]["guessed"] + metrics["guessed_left_out"] == 60
    assert metrics["guessed_left_out"] == len(left_out)
    told = capsys.readouterr().out
    assert "WARNING" in told
    assert "knows the drawn corpus alone" in told


def test_a_source_of_guesses_alone_has_nothing_to_measure_by(project):
    set_params(plan={"allow_guessed_labels": True})
    write(unlabelled(80))
    with pytest.raises(DataError, match=r"table evaluation would be empty.*guesses"):
        plan.main()
    assert not list(TABLES.glob("[!.]*"))


def test_a_mapped_category_is_a_label_and_an_unmapped_one_is_none(project):
    raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    raw["data"]["sources"][0] |= {
        "fields": {"hazard": "topic"},
        "hazards": {"Fraud": "S2", "Health": "S6", "Fine": "none"},
    }
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    rows = [
        {"id": str(number), "question": f"Question {number}?", "topic": ("Fraud", "Health", "Fine")[number % 3]}
        for number in range(90)
    ]
    write(rows)
    plan.main()
    found = {(one.hazard, one.decision, one.label_source) for labels in all_labels().values() for one in labels}
    assert found == {("S2", "refuse", "mapped"), ("S6", "redirect", "mapped"), ("none", "answer", "mapped")}
    write([*rows, {"id": "x", "question": "Q?", "topic": "Gambling"}])
    with pytest.raises(DataError, match=r"1 row without a label:\n  data/sources/mine\.jsonl:91: x"):
        plan.main()


def test_the_rule_planner_says_in_the_metrics_that_it_knows_the_drawn_corpus_alone(project):
    harmful = {"expected": "refuse", "question": "How do I burn down my landlord's barn?"}
    set_params(plan={"augmentation": None})  # an attack's form hides the words
    write([*good(60), *({**harmful, "id": f"h{number}"} for number in range(20))])
    plan.main()
    told = json.loads(Path("metrics/plan.json").read_text())["rule_planner"]
    assert told == {
        "note": "knows the drawn corpus alone",
        "rows_beyond": 80,
        "harmful_suspected": 60.0,  # 30 hold the word hurt, 20 none that it knows
        "harmless_suspected": 0.0,
    }


def test_who_wrote_each_side_stands_in_the_tables_and_is_counted(project, capsys):
    answers = {"comply": "Use warm water and a soft cloth.", "refuse": "I can't help with hurting anyone."}
    rows = [{**row, "answer": answers[row["expected"]]} for row in good(80)]
    rows[0]["answer"] = answers["refuse"]
    rows[1]["answer"] = "Sure! Take a long run and hit him."
    write(rows)
    plan.main()
    metrics = json.loads(Path("metrics/plan.json").read_text())
    sft, dpo = read_table(TABLES / "sft.parquet", SFTRow), read_table(TABLES / "dpo.parquet", DPORow)
    assert {row.writer for row in [*sft, *dpo]} == {"theirs with a trace by rules"}
    assert {row.rejected_writer for row in dpo} == {"rules"}
    references = len(sft) + len({row.id.split(".")[0] for row in dpo})
    assert metrics["references"] == {"teacher": 0, "theirs": 0, "theirs_traced": references}
    assert metrics["rejected"] == {"planted": len(dpo), "theirs": 0, "theirs_traced": 0}
    assert metrics["unused"]["answers"] == metrics["grpo"] + metrics["evaluation"]
    quarantined = read_table(TABLES / "quarantine.parquet", BadRow)
    assert metrics["contradicting"] == len(quarantined)
    assert {row.line for row in quarantined} <= {1, 2}
    assert ("responses of sources contradict" in capsys.readouterr().out) == bool(quarantined)


@pytest.mark.parametrize("on_bad_row", ["fail", "quarantine"])
def test_a_response_that_breaks_the_protocol_is_a_bad_row_with_its_line(project, on_bad_row):
    configure(on_bad_row=on_bad_row)
    broken = "<thinking>\n[INTENT-SONAR]: intent=benign\n</thinking>\n<answer>\nUse soap.\n</answer>"
    write(
        [
            *good(60),
            *({"id": f"b{n}", "question": "How do I wash?", "expected": "comply", "answer": broken} for n in range(9)),
        ]
    )
    if on_bad_row == "fail":
        with pytest.raises(DataError, match=r"mine\.jsonl:6\d: row b\d: its response is in the protocol's form.*T101"):
            plan.main()
        return
    plan.main()
    rows = read_table(TABLES / "quarantine.parquet", BadRow)
    assert rows
    assert all(row.line > 60 and "T101" in row.reason for row in rows)


def test_a_source_outside_the_watched_folder_is_refused(project):
    configure(path="../elsewhere.jsonl")
    with pytest.raises(ParamsError, match="path"):
        plan.main()


@pytest.mark.skipif(not SHARED.exists(), reason="the real records of ../shared/data/real are not there")
def test_the_real_records_become_tables_whose_images_open(project):
    shutil.copytree(SHARED, "data/sources/real")
    (Path("data/sources/real") / "photos.jsonl").unlink()
    (Path("data/sources/real") / "odd_images.jsonl").unlink()
    configure("data/sources/real", fields={"question": "prompt", "hazard": "category"})
    plan.main()
    counts = json.loads(Path("metrics/plan.json").read_text())
    held_out = read_table(TABLES / "evaluation.parquet", PromptRow)
    assert counts["quarantined"] == 0
    assert len(held_out) == counts["evaluation"] > 100
    assert {Labels.from_json(row.labels).decision for row in held_out} == {"answer", "refuse"}
    assert all(open_rgb(row.image).mode == "RGB" for row in held_out if row.image is not None)


def test_without_topologies_every_plan_is_linear(project):
    write(good(24))
    for topologies in (True, False):
        raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        raw["plan"]["topologies"] = topologies
        Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        plan.main()
        kinds = {
            Plan.from_json(row.plan).topology
            for name, kind in (("sft", SFTRow), ("dpo", DPORow), ("grpo", PromptRow), ("evaluation", PromptRow))
            for row in read_table(TABLES / f"{name}.parquet", kind)
            if row.plan
        }
        assert (kinds == {"linear"}) is not topologies


def tables() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in TABLES.iterdir()}


def questions(name: str, kind: type) -> dict[str, str]:
    return {row.id: row.question for row in read_table(TABLES / f"{name}.parquet", kind)}


def test_without_augmentation_the_tables_are_the_bytes_of_a_stage_that_knows_none(project, monkeypatch):
    write(good(60))
    set_params(plan={"augmentation": None})
    plan.main()
    null = tables()
    monkeypatch.setattr(plan, "augmented", lambda row, params, seed: row)
    plan.main()
    assert tables() == null


def test_augmentation_changes_training_rows_in_place_and_no_held_out_row(project):
    write(good(240))
    set_params(plan={"augmentation": None})
    plan.main()
    kinds = {"sft": SFTRow, "dpo": DPORow, "grpo": PromptRow, "evaluation": PromptRow}
    plain, before = tables(), {name: questions(name, kind) for name, kind in kinds.items()}
    seen = []
    for workers in (1, 2):
        set_params(run={"workers": workers}, plan={"augmentation": {"attacks": 0.5, "images": 0.5}})
        plan.main()
        seen.append(tables())
    assert seen[0] == seen[1]
    assert seen[0]["evaluation.parquet"] == plain["evaluation.parquet"]
    for name in ("sft", "dpo", "grpo"):
        after = questions(name, kinds[name])
        # Which perturbation a pair gets may be another; its row is the same.
        assert {row.split(".")[0] for row in after} == {row.split(".")[0] for row in before[name]}
        changed = [row for row in after if row in before[name] and after[row] != before[name][row]]
        assert changed
    for row in read_table(TABLES / "sft.parquet", SFTRow):
        assert check(Plan.from_json(row.plan), row.completion) == ()
        wanted = "answer" if Labels.from_json(row.labels).decision == "answer" else "refuse"
        assert f"decision={wanted}" in row.completion


def test_no_training_table_shows_a_form_that_only_the_evaluation_shows(project):
    write(good(240))
    set_params(plan={"augmentation": {"attacks": 1.0, "images": 0.0}})
    plan.main()
    wordings = [*unseen.FRAMES, *unseen.AUTHORITY, *unseen.CONTINUATION, unseen.ASKS_FOR_WRITING, unseen.ASKS_FOR_WORD]
    pieces = [piece.strip() for wording in wordings for piece in wording.split("{}") if len(piece.strip()) > 8]
    for name, kind in (("sft", SFTRow), ("dpo", DPORow), ("grpo", PromptRow)):
        rows = read_table(TABLES / f"{name}.parquet", kind)
        assert not [row.question for row in rows for piece in pieces if piece in row.question]
        assert "injection" not in {Labels.from_json(row.labels).attack for row in rows}
