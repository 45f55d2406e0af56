"""Notes that need no teacher: what was counted in the training split, put into words, in Chinese and in English.

In go a kind of error, its categories and `Facts`, out come sentences. They state counts and the kind of mistake that
was made, nothing else: no reason is guessed. A teacher is told the same counts (`questions`).
"""

from __future__ import annotations

from omniner.guidance.clusters import BoundaryPiece, Facts, SurfaceCount
from omniner.guidance.lessons import COUNTED, Note
from omniner.scoring.error_types import LANGUAGES, lesson_kinds

_SURFACES = 3  # named in a note
_LABELS = 3  # named of a surface


def counted_note(kind: str, gold: str, predicted: str, facts: Facts) -> Note:
    """The note on a cluster that says what the training split shows."""
    return Note(COUNTED, {language: _rule(kind, gold, predicted, facts, language) for language in LANGUAGES}, {})


def describe_error(kind: str, gold: str, predicted: str, language: str) -> str:
    """What goes wrong, in one sentence."""
    return lesson_kinds()[kind].opening.of(language).format(gold=gold, predicted=predicted)


def describe_facts(facts: Facts, gold: str, predicted: str, language: str) -> list[str]:
    """All counts, a sentence each."""
    lines = [describe_piece(piece, gold or predicted, facts, language) for piece in facts.pieces]
    lines += [describe_surface(surface, language) for surface in facts.surfaces]
    for name, mentions, typical in facts.categories:
        words = (", " if language == "en" else "、").join(typical)
        if language == "en":
            lines.append(
                f"{name} has {mentions} mentions, most often {words}" if typical else f"{name} has no mentions"
            )
        else:
            lines.append(f"{name}共{mentions}个实体，常见的有{words}" if typical else f"{name}没有实体")
    return lines


def describe_surface(surface: SurfaceCount, language: str) -> str:
    """`“小满”出现12处：品牌10次、时间1次、没有单独标注1处`."""
    text, places, labels = surface
    alone = places - sum(labels.values())
    named = list(labels.items())[:_LABELS]
    if language == "en":
        if not places:
            return f"“{text}” does not occur"
        said = [f"{count} as {name}" for name, count in named]
        said += [f"{alone} without a label of its own"] if alone > 0 else []
        return f"“{text}” occurs {_times(places)}: {', '.join(said)}"
    if not places:
        return f"“{text}”没有出现"
    said = [f"{name}{count}次" for name, count in named]
    said += [f"没有单独标注{alone}处"] if alone > 0 else []
    return f"“{text}”出现{places}处：{'、'.join(said)}"


def describe_piece(piece: BoundaryPiece, category: str, facts: Facts, language: str) -> str:
    """`末尾多了“的”3次（120个品牌中0个以它结尾）`."""
    side, change, text, errors, held = piece
    mentions = next((item.mentions for item in facts.categories if item.name == category), 0)
    if language == "en":
        what = f"“{text}” too {'much' if change == 'extra' else 'little'}"
        ends = "begin" if side == "left" else "end"
        where = "beginning" if side == "left" else "end"
        return f"{what} at the {where} {_times(errors)} ({held} of {mentions} {category} {ends} with it)"
    where, ends = ("开头", "开头") if side == "left" else ("末尾", "结尾")
    what = f"{where}{'多' if change == 'extra' else '少'}了“{text}”{errors}次"
    return f"{what}（{mentions}个{category}中{held}个以它{ends}）"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _rule(kind: str, gold: str, predicted: str, facts: Facts, language: str) -> str:
    """The opening, and the counts that say most about this kind."""
    known = [surface for surface in facts.surfaces if surface.places]
    if lesson_kinds()[kind].has_gold:
        known.sort(key=lambda surface: not surface.labels)  # what train labels says more
    said = [describe_piece(piece, gold or predicted, facts, language) for piece in facts.pieces[:_SURFACES]]
    said = said or [describe_surface(surface, language) for surface in known[:_SURFACES]]
    first = describe_error(kind, gold, predicted, language)
    if not said:  # new words: what else there is of the categories
        typical = [(name, words) for name, _, words in facts.categories if words]
        if language == "en":
            said = [f"frequent as {name} are {', '.join(words)}" for name, words in typical]
        else:
            said = [f"常见的{name}有{'、'.join(words)}" for name, words in typical]
    if language == "en":
        return f"{first} In the training split, {'; '.join(said)}." if said else first
    return f"{first}训练集中，{'；'.join(said)}。" if said else first
