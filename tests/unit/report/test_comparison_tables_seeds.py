from __future__ import annotations

import pytest

from omniner.report import comparison_tables
from omniner.report.tables import Table

RUNS = comparison_tables.sweep_runs(
    [
        (["task=train", "head=crf", "seed=1"], {"test/f1": 0.70, "parse/failed": 0.0}),
        (["task=train", "head=crf", "seed=2"], {"test/f1": 0.74, "parse/failed": 2.0}),
        (["task=train", "head=span", "seed=1"], {"test/f1": 0.5, "parse/failed": 1.0}),
        (["task=train", "head=span", "seed=2"], None),
    ]
)


def test_runs_that_differ_in_the_seed_alone_are_one_row() -> None:
    table = comparison_tables.build_seed_table(RUNS, "sweep")
    assert table.names[:5] == ["configuration", "n", "failed", "test/f1 mean", "test/f1 sd"]
    assert [row[:3] for row in table.rows] == [["head=crf", 2, 0], ["head=span", 1, 1]]
    assert table.rows[0][3:] == pytest.approx([0.72, 0.02 * 2**0.5, 1.0, 2**0.5])
    assert table.rows[1][3:] == [0.5, "", 1.0, ""]


def test_the_text_has_a_line_per_configuration() -> None:
    head, *lines = comparison_tables.seed_lines(comparison_tables.build_seed_table(RUNS, "sweep"))
    assert head.split() == ["configuration", "n", "failed", "test/f1", "parse/failed"]
    assert lines[0].split() == ["head=crf", "2", "0", "72.00", "±", "2.83", "1.00", "±", "1.41"]
    assert lines[1].split() == ["head=span", "1", "1", "50.00", "1.00"]


def test_columns_stand_below_each_other_beside_chinese_names() -> None:
    runs = [([f"name={name}", "seed=1"], {"test/f1": 0.5}) for name in ("甲甲甲甲", "b")]
    table = comparison_tables.build_seed_table(comparison_tables.sweep_runs(runs), "sweep")
    _, *lines = comparison_tables.seed_lines(table)
    places = {line.split()[0]: line.index("50.00") for line in lines}
    assert places["name=b"] - places["name=甲甲甲甲"] == 4  # each of the four takes the room of two


def test_seeds_alone_are_named_after_the_sweep() -> None:
    runs = comparison_tables.sweep_runs(
        [(["head=crf", "seed=1"], {"test/f1": 0.5}), (["head=crf", "seed=2"], {"test/f1": 0.5})]
    )
    assert [row[:2] for row in comparison_tables.build_seed_table(runs, "sweep").rows] == [["sweep", 2]]


def test_nothing_finished_is_a_table_without_metrics_and_no_figure() -> None:
    runs = comparison_tables.sweep_runs([(["head=crf"], None)])
    assert comparison_tables.build_seed_table(runs, "sweep").rows == [["sweep", 0, 1]]
    assert comparison_tables.draw_seed_figure(runs, "sweep") is None


def test_the_figure_is_the_same_for_the_same_runs() -> None:
    first, second = (comparison_tables.draw_seed_figure(RUNS, "sweep") for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.png().startswith(b"\x89PNG")
    assert first.png() == second.png()


def test_a_sweep_has_the_means_and_deviations_of_its_best_configuration_as_metrics() -> None:
    table = comparison_tables.build_seed_table(RUNS, "sweep")
    assert comparison_tables.best_configuration(table, comparable=True) == (0, "test/f1")
    best = {"test/f1": 0.72, "test/f1_sd": 0.02 * 2**0.5, "parse/failed": 1.0, "parse/failed_sd": 2**0.5}
    assert comparison_tables.seed_metrics(table, comparable=True) == pytest.approx(best)
    alone = comparison_tables.build_seed_table(RUNS[:2], "sweep")
    assert comparison_tables.best_configuration(alone, comparable=True) == (0, "")
    assert comparison_tables.seed_metrics(alone, comparable=True) == pytest.approx(best)


def table_of(*metrics: dict[str, float] | None) -> Table:
    """Of configurations with these metrics, one run each."""
    runs = [([f"head={number}"], values) for number, values in enumerate(metrics)]
    return comparison_tables.build_seed_table(comparison_tables.sweep_runs(runs), "sweep")


def test_f1_on_dev_chooses_the_best_configuration_where_all_have_it() -> None:
    chosen = table_of({"test/f1": 0.9, "val/best_f1": 0.6}, None, {"test/f1": 0.8, "val/best_f1": 0.7})
    assert comparison_tables.best_configuration(chosen, comparable=True) == (2, "val/best_f1")
    assert comparison_tables.seed_metrics(chosen, comparable=True) == {"test/f1": 0.8, "val/best_f1": 0.7}
    untrained = table_of({"test/f1": 0.9}, {"test/f1": 0.8, "val/best_f1": 0.7})
    assert comparison_tables.best_configuration(untrained, comparable=True) == (0, "test/f1")
    unscored = table_of({"parse/failed": 1.0}, {"parse/failed": 0.0})
    assert comparison_tables.seed_metrics(unscored, comparable=True) == {}


def test_a_description_has_the_best_configurations_first_as_far_as_it_has_room() -> None:
    runs = [([f"head={number}"], {"test/f1": number / 100}) for number in range(50)]
    table = comparison_tables.build_seed_table(comparison_tables.sweep_runs(runs), "sweep")
    text = comparison_tables.seed_markdown(table, 1000, comparable=True)
    assert len(text) <= 1100
    about, _, _, _, first, second, *_ = text.splitlines()
    assert about == "Best by F1 on test: **head=49**, 49.00. Rates in per cent:"
    assert [first, second] == ["| **head=49** | 1 | 0 | 49.00 |", "| head=48 | 1 | 0 | 48.00 |"]
    shown = text.count("| head=") + 1
    assert f"and {50 - shown} more rows" in text
    several = comparison_tables.build_seed_table(RUNS, "sweep")
    assert "72.00 ± 2.83" in comparison_tables.seed_markdown(several, 1000, comparable=True)


def test_no_configuration_is_the_best_where_they_were_scored_on_different_gold() -> None:
    table = table_of({"test/f1": 0.9, "val/best_f1": 0.6}, {"test/f1": 0.95, "val/best_f1": 0.7})
    assert comparison_tables.best_configuration(table, comparable=False) == (0, "")
    assert comparison_tables.seed_metrics(table, comparable=False) == {}
    about, _, _, _, *rows = comparison_tables.seed_markdown(table, 1000, comparable=False).splitlines()
    assert about == "The configurations were scored on different sentences, so none is the best. Rates in per cent:"
    assert [row.split()[1] for row in rows] == ["head=0", "head=1"]


def test_a_description_says_of_metrics_only_what_its_table_has() -> None:
    def about(*metrics: dict[str, float] | None) -> str:
        return comparison_tables.seed_markdown(table_of(*metrics), 1000, comparable=True).partition("\n")[0]

    assert about({}, {}) == "| configuration | n | failed |"
    assert about({"val/best_f1": 0.5}, {"val/best_f1": 0.6}) == "Best by F1 on dev: **head=1**. Rates in per cent:"
    some = about({"val/best_f1": 0.5, "test/f1": 0.4}, {"val/best_f1": 0.6})
    assert some == "Best by F1 on dev: **head=1**. Rates in per cent:"
    both = about({"val/best_f1": 0.5}, {"val/best_f1": 0.6, "test/f1": 0.4})
    assert both == "Best by F1 on dev: **head=1**, F1 on test 40.00. Rates in per cent:"


def test_the_figure_is_in_per_cent_and_speaks_of_seeds_only_where_there_are_several() -> None:
    from matplotlib.figure import Figure

    seeds, single = (comparison_tables.draw_seed_figure(runs, "sweep") for runs in (RUNS, [RUNS[0], RUNS[2]]))
    assert seeds is not None
    assert single is not None
    assert seeds.title == "F1 of 3 runs: seeds (points), mean ± standard deviation"
    assert single.title == "F1 of 2 runs"
    figure = Figure()
    single.draw(figure)
    (axes,) = figure.axes
    assert sorted(float(line.get_xdata()[0]) for line in axes.lines) == pytest.approx([50, 70])
    assert axes.get_xlabel() == "F1 on test, in per cent"


def labels_of(configurations: list[list[str]]) -> list[str]:
    """The first column of the text."""
    runs = [([*overrides, "seed=1"], {"test/f1": 0.5}) for overrides in configurations]
    table = comparison_tables.build_seed_table(comparison_tables.sweep_runs(runs), "sweep")
    lines = comparison_tables.seed_lines(table)[1:]
    return [line.partition("  ")[0] for line in lines]


def test_configurations_of_long_keys_stay_apart_in_the_text() -> None:
    long = ("model.learning_rate.full", "trainer.batch_size", "trainer.warmup")
    grid = [[f"{long[0]}={a}", f"{long[1]}={b}", f"{long[2]}={c}"] for a in (1, 2) for b in (3, 4) for c in (5, 6)]
    labels = labels_of(grid)
    assert labels[0] == "learning_rate.full=1 batch_size=3 warmup=5"
    assert len(set(labels)) == len(grid)


def test_long_labels_keep_the_section_and_drop_the_common_part() -> None:
    rest = "r" * comparison_tables.LABEL
    grid = [[f"model.dropout={a}", f"head.dropout={rest}{b}{rest}"] for a in (1, 2) for b in (1, 2)]
    labels = labels_of(grid)
    assert labels[0] == f"model.dropout=1 head.dropout={rest}1"
    assert len(set(labels)) == len(grid)
