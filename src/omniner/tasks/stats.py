"""`task=stats`: Table 3 for any corpora, and a verdict on each thing that can be wrong with them. No model, no torch.

In: `corpora=[weibo,mine.jsonl,name=folder,...]` (see `tasks.stats_corpora`), or the corpus of `data`. Out, in the run's
folder and tracked: `stats.html`, `stats.md`, `stats.json`, `tables/stats_*.csv`, `latex/stats_table3.tex`,
`figures/stats_*.png`, `issues.jsonl`, and the metrics `stats/<corpus>/...`. A failed check is a finding, not an error:
the run ends well all the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from omniner.analysis.corpora import page as stats_page
from omniner.analysis.corpora import plain as stats_json
from omniner.analysis.corpora import tables as stats_tables
from omniner.analysis.corpora.checks import CHECKS, FAILED, WARNED, Surveyed, Verdict, judge
from omniner.analysis.pages.sheets import Sheet, latex
from omniner.corpus.stats.measure import measure
from omniner.errors import UserError
from omniner.files import write_json, write_text, writing
from omniner.records import Issue
from omniner.schema import StatsConfig
from omniner.tasks import stats_corpora
from omniner.tasks.context import Context, content_digest, publish_issues
from omniner.tracking import DataInput

log = logging.getLogger("omniner")


def run(context: Context) -> None:
    """Find, read, measure, judge, publish."""
    config = context.config
    _check_limits(config.stats)
    surveyed = [_survey(context, planned) for planned in stats_corpora.plan(config)]
    verdicts = {one.statistics.name: judge(one) for one in surveyed}
    publish_issues(context, [issue for one in surveyed for issue in _named(one)])
    sheets = stats_tables.build(surveyed, verdicts, config.stats)
    _publish(context, surveyed, verdicts, sheets)
    print(stats_page.terminal(surveyed, verdicts, sheets))


def _check_limits(settings: StatsConfig) -> None:
    """Every limit is one of a check that there is."""
    for key, limits in (("stats.warn", settings.warn), ("stats.fail", settings.fail)):
        for name in limits:
            if name not in CHECKS:
                raise UserError(f"{key}.{name}", "there is no such check", f"Known: {', '.join(CHECKS)}.")


def _survey(context: Context, planned: stats_corpora.Planned) -> Surveyed:
    """Read and measure one corpus; the run knows its splits by their content."""
    config = context.config
    material = planned.read()
    sizes = ", ".join(f"{split} {len(sentences):,}" for split, sentences in material.splits.items())
    log.info("%s: %s; %s", material.name, sizes, material.about)
    context.run.datasets(
        DataInput(f"{material.name}-{split}", split, content_digest(sentences), material.source, len(sentences))
        for split, sentences in material.splits.items()
    )
    statistics = measure(material.name, material.splits, config.stats)
    spent = ", ".join(f"{step} {seconds:.1f}" for step, seconds in statistics.seconds.items())
    log.info("%s: measured in %.1f CPU s (%s)", material.name, sum(statistics.seconds.values()), spent)
    longest = config.encoding.max_length
    return Surveyed(statistics, material.about, material.issues, material.taxonomy, longest, config.stats)


def _named(surveyed: Surveyed) -> list[Issue]:
    """The issues of a corpus, with its name."""
    return [issue._replace(message=f"{surveyed.statistics.name}: {issue.message}") for issue in surveyed.issues]


def _publish(
    context: Context,
    surveyed: Sequence[Surveyed],
    verdicts: Mapping[str, Sequence[Verdict]],
    sheets: Mapping[str, Sheet],
) -> None:
    context.run.metrics(_metrics(surveyed, verdicts))
    context.run.tags({f"stats.{one.statistics.name}": one.about for one in surveyed})
    context.run.file(write_json(context.folder / "stats.json", stats_json.to_json(surveyed, verdicts)))
    for name, sheet in sheets.items():
        write_text(context.folder / "tables" / f"stats_{name}.csv", sheet.table.to_csv())
        context.run.table(sheet.table.columns, sheet.table.rows, f"tables/stats_{name}.json")
    context.run.file(
        write_text(context.folder / "latex" / "stats_table3.tex", latex(sheets["table3"], "table3")), "latex"
    )
    _figures(context, surveyed)
    _texts(context, surveyed, verdicts, sheets)


def _metrics(surveyed: Sequence[Surveyed], verdicts: Mapping[str, Sequence[Verdict]]) -> dict[str, float]:
    values: dict[str, float] = {}
    for one in surveyed:
        place = f"stats/{one.statistics.name}"
        values |= {f"{place}/{name}": value for name, value in stats_json.figures(one).items()}
        for split, texts in one.statistics.texts.items():
            values[f"{place}/{split}_sentences"] = texts.sentences
            values[f"{place}/{split}_entities"] = one.statistics.labels[split].entities
        for split, seen in one.statistics.seen.items():
            if seen.mentions:
                values[f"{place}/{split}_unseen"] = 1 - seen.surface / seen.mentions
        judged = verdicts[one.statistics.name]
        values |= {f"{place}/check/{verdict.check}": verdict.value for verdict in judged}
        for status in (FAILED, WARNED):
            values[f"{place}/{status}"] = sum(verdict.status == status for verdict in judged)
    return values


def _figures(context: Context, surveyed: Sequence[Surveyed]) -> None:
    from omniner.analysis.corpora.figures import figures

    for name, png in figures(surveyed).items():
        path = context.folder / "figures" / f"{name}.png"
        with writing(path, "wb") as file:
            file.write(png)
        context.run.file(path, "figures")


def _texts(
    context: Context,
    surveyed: Sequence[Surveyed],
    verdicts: Mapping[str, Sequence[Verdict]],
    sheets: Mapping[str, Sheet],
) -> None:
    name = context.config.name
    created = time.strftime("%Y-%m-%d %H:%M:%S")
    page = stats_page.html(name, created, surveyed, verdicts, sheets)
    context.run.file(write_text(context.folder / "stats.html", page))
    context.run.file(write_text(context.folder / "stats.md", stats_page.markdown(name, surveyed, verdicts, sheets)))
