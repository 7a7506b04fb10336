"""Raters' files become a table, all or none; whatever was not shown or was changed is refused and nothing is lost."""

import json

import pytest
from studies import export, fair, make_study, save

from srpo.core.contracts.errors import InputError
from srpo.core.ratings.study import read_study, write_study
from srpo.core.ratings.table import about, checksum, collect, read_ratings, rows_of, write_ratings
from srpo_pipelines.cli import main


@pytest.fixture
def study():
    return make_study()


def resigned(value):
    """The export, its checksum made to fit again."""
    return value | {"checksum": checksum(value["study"], value["rater"], value["answers"])}


def test_rows_say_whose_image_it_was(study, tmp_path):
    rows = rows_of(save(tmp_path, export(study, "ann", fair)), study)
    assert len(rows) == (16 + 3 + 5) * 4  # a quarter of 19 is shown twice
    assert len({row["item"] for row in rows if row["kind"] == "item"}) == 16
    assert len({row["item"] for row in rows if row["kind"] == "gold"}) == 3
    for row in rows:
        if row["kind"] != "gold":
            expected = "excellent" if (row["dimension"], row["model_a"]) == ("realism", "tuned") else "good"
            assert row["answer"] == expected
            assert row["correct"] is None
        else:
            assert row["correct"] == (True if row["dimension"] == "realism" else None)
            assert row["model_a"] == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value | {"study": "s2"}, "has the study 's2': it must be 's1'"),
        (lambda value: value | {"mode": "pair"}, "has the mode 'pair'"),
        (lambda value: value | {"schema": "x"}, "of another schema"),
        (lambda value: value | {"rater": "Ann!"}, "has the rater 'Ann!'"),
        (lambda value: value | {"rater": "ben"}, "was changed after it was exported"),
        (lambda value: resigned(value | {"rater": "ben"}), "ben was shown"),
        (lambda value: value | {"answers": "none"}, "answers is 'none': it must be a JSON list"),
        (lambda value: resigned(value | {"answers": value["answers"][:10]}), "holds 10 of 24 items"),
        (lambda value: resigned(value | {"answers": value["answers"] * 2}), "holds 48 of 24 items"),
        (lambda value: value | {"answers": value["answers"][::-1]}, "its checksum differs"),
    ],
)
def test_a_file_that_is_not_the_raters_own_is_refused(study, tmp_path, change, said):
    path = save(tmp_path, change(export(study, "ann", fair)), "ann")
    with pytest.raises(InputError, match=said) as error:
        rows_of(path, study)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("item", "other", "item 3 has item 'other': ann was shown"),
        ("swapped", None, "has swapped None"),
        ("ms", -5, "has ms -5"),
        ("ms", "fast", "has ms 'fast': it must be a JSON int"),
        ("answers", {"realism": "good"}, "it must answer alignment, realism, detail, aesthetics"),
        ("answers", dict.fromkeys(("alignment", "realism", "detail", "aesthetics"), "best"), "alignment 'best'"),
        ("extra", 1, "it must be an object with"),
    ],
)
def test_a_tampered_item_is_refused_even_with_a_checksum_that_fits(study, tmp_path, name, value, said):
    given = export(study, "ann", fair)
    given["answers"][2][name] = value
    with pytest.raises(InputError, match=said):
        rows_of(save(tmp_path, resigned(given)), study)


def test_a_changed_grade_is_found(study, tmp_path):
    given = export(study, "ann", fair)
    given["answers"][2]["answers"]["realism"] = "fail"
    with pytest.raises(InputError, match="was changed after it was exported"):
        rows_of(save(tmp_path, given), study)


def test_a_file_cut_anywhere_is_refused(study, tmp_path):
    whole = json.dumps(export(study, "ann", fair))
    path = tmp_path / "ann.json"
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_text(whole[:length])
        with pytest.raises(InputError, match="is cut or no JSON"):
            rows_of(path, study)


def test_a_rater_who_stopped_early_counts_as_far_as_they_came(study, tmp_path):
    given = export(study, "ann", fair)
    path = save(tmp_path, resigned(given | {"answers": given["answers"][:10]}))
    assert len(rows_of(path, study, partial=True)) == 40


def test_prompts_of_a_rater_come_whole_and_differ_between_raters():
    study = make_study(prompts=40, per_rater=10)
    seen = []
    for rater in ("ann", "ben"):
        shown = [one.item for one in study.plan_of(rater) if not one.item.startswith("gold")]
        groups = {item.split("-")[0] for item in shown}
        assert len(groups) == 10
        assert {f"{group}-{model}" for group in groups for model in study.models} == set(shown)
        assert len(shown) - len(set(shown)) >= 4  # a quarter is shown twice (a gold item may be among them)
        seen.append(groups)
    assert seen[0] != seen[1]


def test_a_repeat_comes_later_and_sides_are_drawn():
    shown = make_study("pair", prompts=40).plan_of("ann")
    first = {}
    for place, one in enumerate(shown):
        assert one.repeat == (one.item in first)
        assert not one.repeat or place - first[one.item] > 5
        first.setdefault(one.item, place)
    assert 10 < sum(one.swapped for one in shown) < len(shown) - 10


def test_the_table_comes_back_with_its_study(study, tmp_path):
    rows = collect([save(tmp_path, export(study, name, fair)) for name in ("ann", "ben")], study)
    write_ratings(tmp_path / "ratings.parquet", rows, about(study))
    found, of = read_ratings(tmp_path / "ratings.parquet")
    assert found == rows
    assert of == about(study)


def test_the_key_comes_back(study, tmp_path):
    write_study(tmp_path, study)
    assert read_study(tmp_path) == study
    assert read_study(tmp_path / "key.json") == study
    (tmp_path / "key.json").write_text('{"schema": "srpo.study/1"}')
    with pytest.raises(InputError, match=r"study is missing"):
        read_study(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_study(tmp_path / "nowhere")


def test_the_command_adds_files_or_leaves_the_table_as_it_was(study, tmp_path, capsys):
    write_study(tmp_path, study)
    table, key = tmp_path / "ratings.parquet", ["--study", str(tmp_path)]
    ann, ben, cho = (str(save(tmp_path, export(study, name, fair))) for name in ("ann", "ben", "cho"))
    assert main(["ratings", "import", ann, ben, *key]) == 0
    before = table.read_bytes()
    for files, said in (
        ([ann], "of the rater 'ann', who is in the table already"),
        ([cho, cho], f"who is in {cho} already"),
        ([cho, str(tmp_path / "none.json")], "none.json cannot be read (No such file or directory)"),
    ):
        assert main(["ratings", "import", *files, *key]) == 2
        assert said in capsys.readouterr().err
        assert table.read_bytes() == before
    assert main(["ratings", "import", cho, *key]) == 0
    assert {row["rater"] for row in read_ratings(table)[0]} == {"ann", "ben", "cho"}


def test_one_rater_is_told_as_one(study, tmp_path, capsys):
    write_study(tmp_path, study)
    assert main(["ratings", "import", str(save(tmp_path, export(study, "ann", fair))), "--study", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["ratings", "report", str(tmp_path / "ratings.parquet")]) == 0
    assert "1 rater, 8 prompts; nothing can be said of other raters than this one." in capsys.readouterr().out


def test_the_report_says_who_won(study, tmp_path, capsys):
    write_study(tmp_path, study)
    files = [str(save(tmp_path, export(study, name, fair))) for name in ("ann", "ben", "cho")]
    assert main(["ratings", "import", *files, "--study", str(tmp_path)]) == 0
    page, numbers = tmp_path / "said.html", tmp_path / "said.json"
    table = str(tmp_path / "ratings.parquet")
    assert main(["ratings", "report", table, "--output", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "3 raters, 8 prompts" in shown
    assert "Realism and artefacts  0.0 [0.0, 43.5]" in shown
    assert "counted" in shown
    assert "<table>" in page.read_text()
    assert main(["ratings", "report", table, "--output", str(numbers)]) == 0
    found = json.loads(numbers.read_text())
    assert found["delta"]["realism"] == {"mean": 1.0, "low": pytest.approx(0.385, abs=1e-3), "high": 1.0}
    assert found["net_win"]["alignment"]["mean"] == 0
    assert main(["ratings", "report", table, "--output", str(tmp_path / "said.txt")]) == 2
