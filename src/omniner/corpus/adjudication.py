"""Merge several annotators' files into one corpus: match, check on practice sentences, vote, ask the expert.

These are the two stages of the OmniNER2025 paper (its section 3.1), in the order of this module:

1. `match_annotators` puts the labels of all annotators side by side, sentence by sentence;
2. `score_practice` scores each annotator on practice sentences with known gold, to decide who may take part;
3. `decide` accepts what the annotators agree on, or what a vote settles. If all labels are the same, they are accepted.
   Otherwise entities are voted on one by one, and whatever is accepted needs more than half of all annotators
   (`quorum_of`):

   a. a span with its category that a quorum gave is accepted. Two accepted spans may overlap only if a quorum gave
      both of them (this means nesting). Otherwise the one with more votes stays (of equals the longer, then the
      first), and the other is rejected;
   b. a vote that overlaps an accepted entity is excluded, unless its owner gave that entity, too (and so means
      nesting);
   c. the remaining votes form groups of overlapping spans. In each group, span and category are voted on separately.
      If exactly one span has a quorum and, among those who mark something that overlaps it, exactly one category has
      a quorum, the two form an entity;
   d. a group in which a quorum marked nothing is rejected. Annotators whose vote there was excluded by rule b abstain,
      because they did mark something.

   A sentence needs the expert if a group stays open, or if some entity has no offsets in the text. The order of
   entities or annotators has no influence. Cost: about 20 microseconds for a sentence that is voted on;
4. `for_review` also gives the expert what a vote settled. This is the paper's second stage, in which experts review all
   sentences with discrepancies. It is not the default, because a vote of independent people is seldom wrong
   (experiments/adjudication), and an expert's time is expensive;
5. `write_queue` writes the expert's sentences as tasks for Label Studio. The annotations of all annotators are
   predictions, with the annotator as `model_version`, so that the expert sees them side by side and can start from any
   of them. What the vote settled comes first, under the name `VOTE`;
6. `read_expert_answers` and `apply_expert_answers` read and apply the expert's answers, in any corpus format.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from omniner.config.groups import DataConfig
from omniner.corpus import sources
from omniner.corpus.align import ids_by_text
from omniner.corpus.formats import label_studio, recognise
from omniner.corpus.formats.fields import IssueLog, write_json_list
from omniner.errors import UserError
from omniner.files import write_text
from omniner.records import UNLABELED, Entity, Issue, Sentence, entity_to_json, is_unlabeled

Annotation = tuple[Entity, ...]  # one annotator's entities of a sentence: without repeats, sorted by position


@dataclass(frozen=True, slots=True)
class AnnotatedSentence:
    """One sentence with the labels of every annotator.

    Attributes:
        sentence: id, text, post and meta; its own entities are empty.
        annotations: of each annotator, in their order; None if they have not labelled it.
    """

    sentence: Sentence
    annotations: tuple[Annotation | None, ...]


def match_annotators(
    names: Sequence[str], files: Sequence[Sequence[Sentence]]
) -> tuple[list[AnnotatedSentence], list[Issue]]:
    """Match the sentences of all annotators by id, or by text if that matches more (`_with_common_ids`).

    If texts differ, the most frequent one is used (of equally frequent ones the first annotator's). Labels of another
    text are discarded, because their offsets mean nothing here.

    Args:
        names: of the annotators, for issues.
        files: the sentences of each annotator.

    Returns:
        Each sentence once, in order of first appearance. And an issue for each sentence that is twice in a file, has
        another text or no labels, or that an annotator does not have.
    """
    issues: list[Issue] = []
    files = _with_common_ids(names, files, issues)
    tables = [_by_id(name, sentences, issues) for name, sentences in zip(names, files, strict=True)]
    items = []
    for id in dict.fromkeys(id for table in tables for id in table):
        found = [table.get(id) for table in tables]
        texts = Counter(sentence.text for sentence in found if sentence is not None)
        text = texts.most_common(1)[0][0]  # ties go to the text met first
        annotations = tuple(_annotation(name, id, one, text, issues) for name, one in zip(names, found, strict=True))
        same = [sentence for sentence in found if sentence is not None and sentence.text == text]
        post = next((sentence.post_id for sentence in same if sentence.post_id is not None), None)
        meta = {key: value for key, value in same[0].meta.items() if key != UNLABELED}
        items.append(AnnotatedSentence(Sentence(id, text, [], post, meta), annotations))
    return items, issues


def _with_common_ids(
    names: Sequence[str], files: Sequence[Sequence[Sentence]], issues: list[Issue]
) -> list[Sequence[Sentence]]:
    """Give sentences the ids of equal texts in earlier files, if their own ids match fewer sentences."""
    known: dict[str, str] = {}  # text of each id so far
    found: list[Sequence[Sentence]] = []
    for name, sentences in zip(names, files, strict=True):
        if ids := ids_by_text(sentences, known):
            sentences = [
                replace(sentence, id=id or (f"{name}: {sentence.id}" if sentence.id in known else sentence.id))
                for sentence, id in zip(sentences, ids, strict=True)
            ]
            issues.append(Issue("matched-by-text", f"{name}: ids are none of the others'; matched by the texts"))
        for sentence in sentences:
            known.setdefault(sentence.id, sentence.text)
        found.append(sentences)
    return found


def check_shared(names: Sequence[str], items: Sequence[AnnotatedSentence]) -> None:
    """Raise a `UserError` if an annotator shares no labelled sentence with another one: nothing could be compared."""
    shared = [item.annotations for item in items if len(item.annotations) - item.annotations.count(None) > 1]
    for place, name in enumerate(names):
        if all(annotations[place] is None for annotations in shared):
            others = ", ".join(other for other in names if other != name)
            found = f"{name} has labelled no sentence that any of {others} has, by id or by text"
            raise UserError("annotators", found, "Name files of the same sentences.")


def _by_id(name: str, sentences: Sequence[Sentence], issues: list[Issue]) -> dict[str, Sentence]:
    table: dict[str, Sentence] = {}
    for sentence in sentences:
        if sentence.id in table:
            issues.append(Issue("duplicate-id", f"{name}: stands twice; the first one counts", id=sentence.id))
        else:
            table[sentence.id] = sentence
    return table


def _annotation(name: str, id: str, sentence: Sentence | None, text: str, issues: list[Issue]) -> Annotation | None:
    if sentence is None:
        issues.append(Issue("not-annotated", f"{name} has no such sentence", id=id))
    elif sentence.text != text:
        issues.append(Issue("text-mismatch", f"{name} labelled another text; these labels are set aside", id=id))
    elif is_unlabeled(sentence):
        issues.append(Issue("not-annotated", f"{name} has the sentence without labels", id=id))
    else:
        return annotation_of(sentence.entities)
    return None


def annotation_of(entities: Sequence[Entity]) -> Annotation:
    """Return each entity once, sorted by position and name; those without offsets come last.

    What becomes gold has no confidence: that of an annotator that is a model is left out.
    """
    plain = {entity if entity.score is None else Entity(*entity) for entity in entities}
    return tuple(sorted(plain, key=place_key))


def place_key(entity: Entity) -> tuple[bool, int, int, str, str]:
    """Return the sort key of entities: position, the longer one first, then category and surface."""
    return (entity.start is None, entity.start or 0, -(entity.end or 0), entity.category, entity.text)


class PracticeScore(NamedTuple):
    """An annotator's results on the practice sentences.

    Attributes:
        name: of the annotator.
        sentences: number of practice sentences that count.
        labelled: number of these that the annotator labelled.
        precision, recall, f1: micro, of entities; `accuracy` if neither gold nor the annotator has any entity.
        accuracy: share of the sentences without any mistake.
    """

    name: str
    sentences: int
    labelled: int
    precision: float
    recall: float
    f1: float
    accuracy: float

    def passes(self, measure: str, above: float) -> bool:
        """Return whether `measure` (f1 | accuracy) is above a threshold."""
        return bool(getattr(self, measure) > above)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object that `counts.json` lists."""
        return self._asdict()


def score_practice(
    names: Sequence[str], items: Sequence[AnnotatedSentence], practice: Sequence[Sentence]
) -> tuple[list[PracticeScore], list[Issue]]:
    """Score every annotator on practice sentences.

    A sentence that an annotator did not label counts as one without entities, so that nobody passes by leaving out the
    hard ones. A sentence that no annotator has is left out, with an issue. The paper requires an accuracy above 90 %
    without saying of what. By the share of faultless sentences few annotators would pass, so the default is F1 of
    entities.

    Args:
        names: of the annotators.
        items: their sentences, including the practice sentences.
        practice: gold of the practice sentences. Entities are equal if offsets, surface and category are.

    Returns:
        A score for each annotator, in their order, and the issues.
    """
    of: Mapping[str, AnnotatedSentence] = {item.sentence.id: item for item in items}
    issues: list[Issue] = []
    common: list[tuple[Sentence, AnnotatedSentence]] = []
    for sentence in practice:
        item = of.get(sentence.id)
        if item is None:
            issues.append(Issue("practice-unused", "no annotator has this practice sentence", id=sentence.id))
        elif item.sentence.text != sentence.text:
            issues.append(Issue("text-mismatch", "the practice gold has another text; not used", id=sentence.id))
        else:
            common.append((sentence, item))
    return [_practice_score(name, number, common) for number, name in enumerate(names)], issues


def _practice_score(name: str, number: int, common: Sequence[tuple[Sentence, AnnotatedSentence]]) -> PracticeScore:
    right = given = wanted = exact = labelled = 0
    for sentence, item in common:
        annotation = item.annotations[number]
        labelled += annotation is not None
        ours: set[Entity] = set(annotation_of(sentence.entities))
        theirs = set(annotation or ())
        right, given, wanted = right + len(ours & theirs), given + len(theirs), wanted + len(ours)
        exact += annotation is not None and ours == theirs
    accuracy = exact / len(common) if common else 0.0
    if not given + wanted:  # leaving a sentence without entities empty is correct, too, but not labelling it is not
        return PracticeScore(name, len(common), labelled, accuracy, accuracy, accuracy, accuracy)
    precision = right / given if given else 0.0
    recall = right / wanted if wanted else 0.0
    return PracticeScore(name, len(common), labelled, precision, recall, 2 * right / (given + wanted), accuracy)


VOTE = "vote of all"  # the name under which the result of the vote is shown

OUTCOMES = ("unanimous", "majority", "vote", "separate", "queued", "expert", "practice")

Span = tuple[int, int]


class Vote(NamedTuple):
    """An entity and the numbers of the annotators who gave exactly this entity."""

    entity: Entity
    voters: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """How one sentence was decided.

    Attributes:
        item: the sentence with its annotations.
        how: unanimous | majority (a quorum gave exactly these entities) | vote (no quorum gave the same set, but each
            entity has a quorum) | separate (span and category of some entity won separately) | queued (the expert must
            decide) | expert | practice (its gold was known).
        entities: the labels; empty while the sentence is queued.
        proposal: what the vote settled, if the expert is to review it; otherwise None.
        accepted, rejected, open: the votes by their outcome.
    """

    item: AnnotatedSentence
    how: str
    entities: Annotation
    accepted: list[Vote] = field(default_factory=list)
    rejected: list[Vote] = field(default_factory=list)
    open: list[Vote] = field(default_factory=list)
    proposal: Annotation | None = None

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Return one line of `decisions.jsonl`, with annotators by name."""
        item: dict[str, Any] = {"id": self.item.sentence.id, "how": self.how}
        item["entities"] = [entity_to_json(entity) for entity in self.entities]
        if self.proposal is not None:
            item["proposal"] = [entity_to_json(entity) for entity in self.proposal]
        for name in ("accepted", "rejected", "open"):
            if votes := getattr(self, name):
                item[name] = [
                    {**entity_to_json(vote.entity), "votes": [names[voter] for voter in vote.voters]} for vote in votes
                ]
        absent = [name for name, annotation in zip(names, self.item.annotations, strict=True) if annotation is None]
        if absent:
            item["absent"] = absent
        return item


def quorum_of(annotators: int) -> int:
    """Return how many annotators must agree: more than half of all."""
    return annotators // 2 + 1


def decide(item: AnnotatedSentence) -> Decision:
    """Decide one sentence from its annotations."""
    present = [annotation for annotation in item.annotations if annotation is not None]
    quorum = quorum_of(len(item.annotations))
    if len(present) == len(item.annotations) and all(annotation == present[0] for annotation in present):
        return Decision(item, "unanimous", present[0])
    whole, count = Counter(present).most_common(1)[0] if present else ((), 0)
    votes = _votes(item.annotations)
    if count >= quorum:
        accepted = [vote for vote in votes if vote.entity in whole]
        return Decision(item, "majority", whole, accepted, [vote for vote in votes if vote.entity not in whole])
    if len(present) < quorum or any(vote.entity.start is None for vote in votes):
        return Decision(item, "queued", (), open=votes)
    return _vote(item, votes, quorum)


def for_review(decision: Decision) -> Decision:
    """Queue what a vote settled, with its result as the proposal; leave other decisions unchanged."""
    if decision.how not in ("majority", "vote", "separate"):
        return decision
    return replace(decision, how="queued", entities=(), proposal=decision.entities)


def _votes(annotations: Iterable[Annotation | None]) -> list[Vote]:
    """Return every entity that was given, by position, with the annotators who gave it."""
    voters: dict[Entity, list[int]] = defaultdict(list)
    for number, annotation in enumerate(annotations):
        for entity in annotation or ():
            voters[entity].append(number)
    return [Vote(entity, tuple(voters[entity])) for entity in sorted(voters, key=place_key)]


def _vote(item: AnnotatedSentence, votes: Sequence[Vote], quorum: int) -> Decision:
    """Vote by entity and, if that does not settle it, by span and category separately."""
    present = [number for number, annotation in enumerate(item.annotations) if annotation is not None]
    winners = [vote for vote in votes if len(vote.voters) >= quorum]
    accepted = _compatible(winners, quorum)
    rest, rejected = _overruled(accepted, [vote for vote in votes if vote not in winners])
    rejected += [vote for vote in winners if vote not in accepted]
    apart = [found for group in _overlapping_groups(rest) if (found := _separate_majorities(group, quorum)) is not None]
    settled = {_span(vote.entity): vote.entity for vote in apart}
    rejected += [vote for vote in rest if settled.get(_span(vote.entity), vote.entity) != vote.entity]
    rest, out = _overruled(apart, [vote for vote in rest if _span(vote.entity) not in settled])
    rejected += out
    still: list[Vote] = []
    for group in _overlapping_groups(rest):
        seen = {voter for vote in group for voter in vote.voters}
        over = [vote for vote in rejected if any(overlap(vote.entity, one.entity) for one in group)]
        seen.update(voter for vote in over for voter in vote.voters)
        if len(present) - len(seen) >= quorum:
            rejected += group
        else:
            still += group
    accepted = sorted([*accepted, *apart], key=lambda vote: place_key(vote.entity))
    rejected.sort(key=lambda vote: place_key(vote.entity))
    if still:
        return Decision(item, "queued", (), accepted, rejected, still)
    entities = annotation_of([vote.entity for vote in accepted])
    return Decision(item, "separate" if apart else "vote", entities, accepted, rejected)


def overlap(one: Entity, other: Entity) -> bool:
    """Return whether two entities with offsets share a character."""
    return min(_span(one)[1], _span(other)[1]) > max(_span(one)[0], _span(other)[0])


def _span(entity: Entity) -> Span:
    assert entity.start is not None
    assert entity.end is not None
    return entity.start, entity.end


def _compatible(winners: Sequence[Vote], quorum: int) -> list[Vote]:
    """Return the winners that may be accepted together: chosen by strength, listed by position."""

    def strength(vote: Vote) -> tuple[Any, ...]:
        start, end = _span(vote.entity)
        return (-len(vote.voters), start - end, start, vote.entity.category)

    kept: list[Vote] = []
    for vote in sorted(winners, key=strength):
        if all(not overlap(vote.entity, one.entity) or len({*vote.voters} & {*one.voters}) >= quorum for one in kept):
            kept.append(vote)
    return [vote for vote in winners if vote in kept]


def _overruled(accepted: Sequence[Vote], rest: Sequence[Vote]) -> tuple[list[Vote], list[Vote]]:
    """Separate the votes that continue from those that an accepted entity overrules (rule b).

    A vote with several owners continues with those owners who gave the accepted entity, too.
    """
    going, out = [], []
    for vote in rest:
        over = [one for one in accepted if overlap(one.entity, vote.entity)]
        owners = tuple(voter for voter in vote.voters if all(voter in one.voters for one in over))
        losers = tuple(voter for voter in vote.voters if voter not in owners)
        if owners:
            going.append(Vote(vote.entity, owners))
        if losers:
            out.append(Vote(vote.entity, losers))
    return going, out


def _overlapping_groups(votes: Sequence[Vote]) -> list[list[Vote]]:
    """Group overlapping spans, left to right; `votes` are sorted by position."""
    groups: list[list[Vote]] = []
    end = -1
    for vote in votes:
        start, stop = _span(vote.entity)
        if start >= end:
            groups.append([])
        groups[-1].append(vote)
        end = max(end, stop)
    return groups


def _separate_majorities(group: Sequence[Vote], quorum: int) -> Vote | None:
    """Return the entity whose span and category win separately (rule c), with the annotators who gave the span."""
    spans: dict[Span, set[int]] = defaultdict(set)
    for vote in group:
        spans[_span(vote.entity)].update(vote.voters)
    winners = [span for span in sorted(spans) if len(spans[span]) >= quorum]
    if len(winners) != 1:
        return None
    example = next(vote.entity for vote in group if _span(vote.entity) == winners[0])
    names: dict[str, set[int]] = defaultdict(set)
    for vote in group:
        if overlap(vote.entity, example):
            names[vote.entity.category].update(vote.voters)
    categories = [name for name in sorted(names) if len(names[name]) >= quorum]
    if len(categories) != 1:
        return None
    return Vote(example._replace(category=categories[0]), tuple(sorted(spans[winners[0]])))


def write_queue(
    path: Path, decisions: Iterable[Decision], names: Sequence[str], categories: Sequence[str]
) -> list[Issue]:
    """Write the queued sentences as a list of tasks, atomically.

    Args:
        path: the JSON file; the labelling configuration gets its name with `.xml`.
        decisions: only queued ones are written.
        names: of the annotators.
        categories: the expert's choices.

    Returns:
        An issue for each entity without offsets, which Label Studio cannot show.
    """
    log = IssueLog(path)
    write_text(path.with_suffix(label_studio.CONFIGURATION), label_studio.labelling_configuration(categories, log))
    write_json_list(path, (_task(decision, names, log) for decision in decisions if decision.how == "queued"))
    return log.items


def _task(decision: Decision, names: Sequence[str], log: IssueLog) -> dict[str, Any]:
    sentence = decision.item.sentence
    task = label_studio.make_task(replace(sentence, meta={**sentence.meta, UNLABELED: True}), log)
    proposals = [(VOTE, decision.proposal), *zip(names, decision.item.annotations, strict=True)]
    task["predictions"] = [
        {
            "model_version": name,
            "result": label_studio.result_regions(Sentence(sentence.id, sentence.text, list(annotation)), log),
        }
        for name, annotation in proposals  # Label Studio shows the first one by default
        if annotation is not None
    ]
    return task


def read_expert_answers(path: Path, data: DataConfig | None = None) -> tuple[list[Sentence], list[Issue]]:
    """Read the sentences that the expert has labelled.

    A task that was exported before it was done still has its predictions; these are not an answer.

    Returns:
        The sentences, and an issue for whatever could not be read.
    """
    sentences, issues = sources.read_sentences(path, data)
    undone: set[str] = set()
    if recognise(path)[0] == "label_studio":
        undone = label_studio.unfinished_tasks(path)
        issues = [issue for issue in issues if issue.code != "only-predictions"]
    return [item for item in sentences if not is_unlabeled(item) and item.id not in undone], issues


def apply_expert_answers(
    decisions: Sequence[Decision], answers: Sequence[Sentence]
) -> tuple[list[Decision], list[Issue]]:
    """Apply the expert's answers to the decisions; an answer replaces any decision about its sentence.

    Returns:
        The decisions, and the issues. Answers to unknown sentences or other texts, and the second of two answers,
        become issues and change nothing.
    """
    issues: list[Issue] = []
    given: dict[str, Sentence] = {}
    known = {decision.item.sentence.id: decision.item.sentence.text for decision in decisions}
    for answer in answers:
        if answer.id not in known:
            issues.append(Issue("unknown-id", "the expert's sentence is none of the annotators'", id=answer.id))
        elif answer.text != known[answer.id]:
            issues.append(Issue("text-mismatch", "the expert's answer is about another text; not used", id=answer.id))
        elif answer.id in given:
            issues.append(Issue("duplicate-id", "a second answer of the expert; the first one counts", id=answer.id))
        else:
            given[answer.id] = answer
    done = []
    for decision in decisions:
        name = decision.item.sentence.id
        if name not in given:
            done.append(decision)
            continue
        if decision.how != "queued":
            message = f"decided by the annotators ({decision.how}); the expert's answer counts"
            issues.append(Issue("expert-overrules", message, id=name))
        votes = decision.accepted, decision.rejected, decision.open
        labels = annotation_of(given[name].entities)
        done.append(Decision(decision.item, "expert", labels, *votes, decision.proposal))
    return done, issues
