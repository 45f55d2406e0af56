from __future__ import annotations

import pytest

from omniner.report import comparison_tables

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


def test_a_sweep_has_means_and_deviations_as_metrics() -> None:
    several = comparison_tables.seed_metrics(comparison_tables.build_seed_table(RUNS, "sweep"))
    assert several["head=crf/test/f1"] == pytest.approx(0.72)
    assert several["head=crf/test/f1_sd"] == pytest.approx(0.02 * 2**0.5)
    assert "head=span/test/f1_sd" not in several
    alone = comparison_tables.seed_metrics(comparison_tables.build_seed_table(RUNS[:2], "sweep"))
    assert alone["test/f1"] == pytest.approx(0.72)


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


def test_keys_that_their_section_alone_tells_apart_keep_it_and_are_cut_where_nothing_is_lost() -> None:
    rest = "r" * comparison_tables.LABEL
    grid = [[f"model.dropout={a}", f"head.dropout={rest}{b}{rest}"] for a in (1, 2) for b in (1, 2)]
    labels = labels_of(grid)
    assert labels[0] == f"model.dropout=1 head.dropout={rest}1"
    assert len(set(labels)) == len(grid)
