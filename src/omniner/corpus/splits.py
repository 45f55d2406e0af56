"""Divide a corpus into parts: posts whole, no text in two parts, every category in every part, sizes as requested.

Sentences of one post stay together, and so do posts that have a sentence in common: its copies in train would reveal
the answer. Texts that everybody writes ("谢谢姐妹") can tie most posts together. If a group does not fit into the
smallest part, `together=auto` ties posts only by repeated texts with mentions; if that does not help, not at all. The
result depends only on the seed, the posts and the texts: not on the order of the sentences, their ids or the version of
Python. Cost: 195,568 sentences of 65,000 posts and 90 categories in 2 s.

The groups are assigned by iterative stratification (Sechidis, Tsoumakas and Vlahavas, On the Stratification of
Multi-Label Data, 2011): the category with the fewest unassigned groups comes first, since its groups leave the least
choice. That article assigns a group to the part that lacks most of that category. Here it goes to the part where all
its mentions and sentences together leave the smallest sum of squared deviations over expectations; the final sum is 60
times smaller (measured in `experiments/easy_filter`). As soon as a category has only as many groups left as there are
parts without it, each of those parts gets one. Groups without a mention fill what is left, and finally `_level` makes
the sizes exact with the moves that disturb the shares least.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from omniner.corpus.formats.fields import quote
from omniner.errors import UserError
from omniner.records import Issue, Sentence, post_or_text
from omniner.wording import counted

TOGETHER = ("texts", "mentions", "posts")  # the strictest first
_LOOKED_AT = 64  # groups of one size and part that are compared for a move
_LOOKED_AT_PAIRS = 12  # the same on each side of an exchange
_EQUAL = 1e-9  # smaller differences between deviations are rounding errors

_Pools = list[dict[int, list[int]]]  # by part and size: the groups
# Categories lost and deviation added per moved sentence; the group that leaves, and the one that comes back or -1.
_Step = tuple[float, float, int, int]


@dataclass(frozen=True)
class Division:
    """The part of each sentence.

    Attributes:
        names: of the parts.
        shares: requested share of the sentences of each part.
        parts: number of the part of each sentence.
        targets: requested number of sentences of each part.
        groups: positions of the sentences that had to stay together.
        posts: number of posts; a sentence without one counts as its own post, together with its exact repeats.
        together: what tied sentences together: texts | mentions | posts.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]
    parts: list[int]
    targets: list[int]
    groups: list[list[int]]
    posts: int
    together: str

    def of(self, sentences: Sequence[Sentence], part: int) -> list[Sentence]:
        """Return the sentences of one part, in their old order."""
        return [sentence for sentence, number in zip(sentences, self.parts, strict=True) if number == part]

    @property
    def sizes(self) -> list[int]:
        """The number of sentences in each part."""
        counts = Counter(self.parts)
        return [counts[part] for part in range(len(self.names))]


def divide(
    sentences: Sequence[Sentence], shares: Mapping[str, float], together: str, seed: int, where: str
) -> Division:
    """Divide a corpus, in the same way for any order of its sentences.

    Args:
        sentences: labelled ones.
        shares: name of each part -> its share of the sentences, above 0; they add up to 1.
        together: auto | texts (posts with an equal sentence) | mentions (posts with an equal sentence that has
            mentions) | posts.
        seed: of the choice of posts.
        where: config key to name in the error.

    Raises:
        UserError: there are fewer groups than parts, or such large ones that a part would stay empty.
    """
    targets = split_sizes(len(sentences), list(shares.values()))
    posts = list(map(post_or_text, sentences))
    for level in TOGETHER if together == "auto" else (together,):
        found = _gather(sentences, posts, level)
        if max(map(len, found), default=0) <= min(targets):
            break
    groups = _ranked(sentences, posts, found, seed)
    parts = [0] * len(sentences)
    for group, part in zip(groups, stratify(groups, list(shares.values()), targets), strict=True):
        for position in group.members:
            parts[position] = part
    members = [group.members for group in groups]
    division = Division(
        tuple(shares), tuple(shares.values()), parts, targets, members, len(set(posts)), level
    )  # fmt: skip
    if not all(division.sizes):
        largest = max(map(len, members), default=0)
        tied = f"{counted(len(groups), 'group')} that must not be divided (the largest has {largest})"
        message = f"{counted(len(sentences), 'sentence')} in {tied} do not make {len(shares)} parts"
        raise UserError(where, message, "Add posts, or ask for fewer parts.")
    return division


def split_sizes(total: int, shares: Sequence[float]) -> list[int]:
    """Return whole numbers that add up to `total`, in proportion to the shares; the largest remainders round up."""
    exact = [share * total for share in shares]
    sizes = [int(value + 1e-9) for value in exact]
    left = sorted(range(len(shares)), key=lambda part: (sizes[part] - exact[part], part))
    for part in left[: total - sum(sizes)]:
        sizes[part] += 1
    return sizes


def _gather(sentences: Sequence[Sentence], posts: Sequence[str], level: str) -> list[list[int]]:
    """Return positions of the sentences that stay together: the connected components of posts with a common text."""
    numbers: dict[str, int] = {}
    owners = [numbers.setdefault(post, len(numbers)) for post in posts]
    parents = list(range(len(numbers)))

    def root(post: int) -> int:
        while parents[post] != post:
            parents[post] = post = parents[parents[post]]
        return post

    if level != "posts":
        mentioned = {item.text for item in sentences if item.entities} if level == "mentions" else None
        first: dict[str, int] = {}
        for owner, item in zip(owners, sentences, strict=True):
            if mentioned is None or item.text in mentioned:
                parents[root(owner)] = root(first.setdefault(item.text, owner))
    members: dict[int, list[int]] = defaultdict(list)
    for position, owner in enumerate(owners):
        members[root(owner)].append(position)
    return list(members.values())


def _ranked(
    sentences: Sequence[Sentence], posts: Sequence[str], found: Sequence[list[int]], seed: int
) -> list[SentenceGroup]:
    """Return the groups in the order of assignment, by a keyed hash of the first of each group's sorted post names."""
    groups = []
    for members in found:
        name = min(posts[position] for position in members)
        digest = hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        counts = Counter(entity.category for position in members for entity in sentences[position].entities)
        groups.append(SentenceGroup(int.from_bytes(digest, "big"), members, dict(sorted(counts.items()))))
    return sorted(groups, key=lambda group: group.rank)


def repeated_text_issues(sentences: Sequence[Sentence], division: Division) -> list[Issue]:
    """Return an issue for each text that is in several parts; there is none if equal texts stay together."""
    places: dict[str, set[int]] = defaultdict(set)
    first: dict[str, str] = {}
    for sentence, part in zip(sentences, division.parts, strict=True):
        places[sentence.text].add(part)
        first.setdefault(sentence.text, sentence.id)
    return [
        Issue("repeated-text", f"{quote(text)} is in {_listed(division, parts)}", id=first[text])
        for text, parts in places.items()
        if len(parts) > 1
    ]


def absent_category_issues(sentences: Sequence[Sentence], division: Division) -> list[Issue]:
    """Return an issue for each category that some part lacks, with the number of groups that contain it."""
    held: dict[str, set[int]] = defaultdict(set)
    groups: Counter[str] = Counter()
    for members in division.groups:
        names = {entity.category for position in members for entity in sentences[position].entities}
        groups.update(names)
        for name in names:
            held[name].add(division.parts[members[0]])
    lacking = {name: set(range(len(division.names))) - held[name] for name in sorted(held)}
    return [
        Issue(
            "absent-category",
            f"{name} is in {counted(groups[name], 'group')} only, none of them in {_listed(division, parts)}",
        )
        for name, parts in lacking.items()
        if parts
    ]


def _listed(division: Division, parts: set[int]) -> str:
    return ", ".join(division.names[part] for part in sorted(parts))


class SentenceGroup(NamedTuple):
    """Sentences that stay together.

    Attributes:
        rank: a large pseudo-random number: it orders the groups, and decides between equally good parts.
        members: positions of the sentences.
        counts: mentions by category.
    """

    rank: int
    members: list[int]
    counts: dict[str, int]


def stratify(groups: Sequence[SentenceGroup], shares: Sequence[float], targets: Sequence[int]) -> list[int]:
    """Choose the part of each group.

    Args:
        groups: in the order of their ranks.
        shares: of the mentions of every category, by part.
        targets: requested number of sentences of each part; exact if moves and exchanges of groups allow it.

    Returns:
        The number of a part for each group.
    """
    deal = _Assignment(groups, shares, targets)
    having: dict[str, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        for category in group.counts:
            having[category].append(number)
    while deal.left:
        category = min(deal.left, key=lambda name: (deal.left[name], name))
        for number in having[category]:
            if deal.part[number] < 0:
                deal.place(number, deal.best(number, deal.waiting(category)))
    for number in range(len(groups)):
        if deal.part[number] < 0:
            deal.place(number, deal.best(number, deal.parts))
    _level(deal)
    return deal.part


class _Assignment:
    """The groups assigned so far, and what each part still lacks."""

    def __init__(self, groups: Sequence[SentenceGroup], shares: Sequence[float], targets: Sequence[int]) -> None:
        self.groups, self.parts = groups, range(len(shares))
        self.part = [-1] * len(groups)
        self.largest = [part for part in self.parts if shares[part] == max(shares)]
        self.sentences = [share * sum(targets) for share in shares]
        self.room = list(targets)  # sentences that a part lacks; negative = it has too many
        self.left: dict[str, int] = defaultdict(int)  # number of unassigned groups with a category
        totals: dict[str, int] = defaultdict(int)
        for group in groups:
            for category, count in group.counts.items():
                self.left[category] += 1
                totals[category] += count
        # By category and part: mentions that were to be there, those still lacking, and the number of groups that have
        # any.
        self.expected = {name: [share * total for share in shares] for name, total in totals.items()}
        self.lacks = {name: list(values) for name, values in self.expected.items()}
        self.held = {name: [0] * len(shares) for name in totals}

    def waiting(self, category: str) -> Sequence[int]:
        """Return the parts that a group with the category may go to.

        These are all parts, unless only as many groups are left as there are parts without the category: then only
        those parts. The first of so few groups goes to a part with the largest share, which is there to be learnt from.
        """
        without = [part for part in self.parts if not self.held[category][part]]
        if self.left[category] > len(without):
            return self.parts
        return self.largest if len(without) == len(self.parts) else without

    def best(self, number: int, among: Sequence[int]) -> int:
        """Choose the part where a group leaves the smallest squared deviations, of sentences and every category."""
        added = {part: self._deviation(number, part) for part in among}
        least = min(added.values()) + _EQUAL
        rank, parts = self.groups[number].rank, len(self.parts)
        return min((part for part in among if added[part] <= least), key=lambda part: (rank + part) % parts)

    def _deviation(self, number: int, part: int) -> float:
        """Return what the group adds to the part's squared deviations over expectations."""
        group = self.groups[number]
        size = len(group.members)
        added = size * (size - 2 * self.room[part]) / self.sentences[part]
        for category, count in group.counts.items():
            added += count * (count - 2 * self.lacks[category][part]) / self.expected[category][part]
        return added

    def place(self, number: int, part: int) -> None:
        """Assign a group to a part."""
        for category in self.groups[number].counts:
            self.left[category] -= 1
            if not self.left[category]:
                del self.left[category]
        self._count(number, part, 1)

    def move(self, number: int, to: int) -> None:
        """Move a group from its part to another one."""
        self._count(number, self.part[number], -1)
        self._count(number, to, 1)

    def _count(self, number: int, part: int, sign: int) -> None:
        group = self.groups[number]
        self.part[number] = part
        self.room[part] -= sign * len(group.members)
        for category, count in group.counts.items():
            self.lacks[category][part] -= sign * count
            self.held[category][part] += sign

    def price(self, counts: dict[str, int], source: int, target: int) -> tuple[int, float]:
        """Compute the cost of moving these mentions: categories that a part loses, and squared deviation added."""
        lost, added = 0, 0.0
        for category, count in counts.items():
            lost += bool(count) and self.held[category][source if count > 0 else target] == 1
            lacks, expected = self.lacks[category], self.expected[category]
            added += count * (2 * lacks[source] + count) / expected[source]
            added -= count * (2 * lacks[target] - count) / expected[target]
        return lost, added


def _level(deal: _Assignment) -> None:
    """Give every part its exact size, as far as moves of one group and exchanges of two can.

    Each step brings the sizes nearer to the targets. Steps that take no part past its target are preferred; if there
    are none, steps that do, by less than before. The last group of a category leaves its part only if nothing else
    helps: with few posts, exact sizes and all categories in every part may not be possible together.
    """
    pools = _pools(deal)
    while (found := _best(deal, pools) or _best_past(deal, pools)) is not None:
        step, source, target = found
        for number, to in ((step[2], target), (step[3], source)):
            if number >= 0:
                size = len(deal.groups[number].members)
                pools[deal.part[number]][size].remove(number)
                deal.move(number, to)
                pools[to][size].append(number)


def _best(deal: _Assignment, pools: _Pools) -> tuple[_Step, int, int] | None:
    """Return a step from a part with too many to one with too few sentences, and these parts; None if there is none.

    The parts farthest from their targets come first, unless their step loses a category and another pair's does not.
    """
    sources = sorted((part for part in deal.parts if deal.room[part] < 0), key=lambda part: deal.room[part])
    targets = sorted((part for part in deal.parts if deal.room[part] > 0), key=lambda part: -deal.room[part])
    costly: list[tuple[_Step, int, int]] = []
    for source in sources:
        for target in targets:
            if (step := _step(deal, pools, source, target)) is not None:
                if not step[0]:
                    return step, source, target
                costly.append((step, source, target))
    return costly[0] if costly else None


def _best_past(deal: _Assignment, pools: _Pools) -> tuple[_Step, int, int] | None:
    """Return the step past one or both targets that brings sizes nearest, preferably without losing a category."""
    found: list[tuple[bool, int, int, _Step, int, int]] = []
    for source in deal.parts:
        for target in deal.parts:
            excess, lack = -deal.room[source], deal.room[target]
            if excess <= 0 or lack <= 0:
                continue
            ours, theirs = (_sizes(pools[part]) for part in (source, target))
            gains = {one - other for one in ours for other in (0, *theirs)}
            for gain in sorted(one for one in gains if min(excess, lack) < one < excess + lack):
                off = abs(excess - gain) + abs(lack - gain) - excess - lack
                moves = _moves(deal, pools, source, target, [gain] if gain in ours else [])
                steps = [*moves, *_exchanges(deal, pools, source, target, gain)]
                found += [(step[0] > 0, off, gain, step, source, target) for step in steps]
    return min(found)[3:] if found else None


def _step(deal: _Assignment, pools: _Pools, source: int, target: int) -> _Step | None:
    """Return the cheapest move; if it loses a category or there is none, compare exchanges, too."""
    most = min(-deal.room[source], deal.room[target])
    ours, theirs = (_sizes(pools[part]) for part in (source, target))
    found = min(_moves(deal, pools, source, target, [size for size in ours if size <= most]), default=None)
    if found is None or found[0]:
        others = [found] if found else []
        gain = max((one - other for one in ours for other in theirs if 0 < one - other <= most), default=0)
        return min([*others, *_exchanges(deal, pools, source, target, gain)], default=None)
    return found


def _sizes(pool: dict[int, list[int]]) -> list[int]:
    """Return the sizes of the groups of a part."""
    return sorted(size for size, numbers in pool.items() if numbers)


def _pools(deal: _Assignment) -> _Pools:
    pools: _Pools = [defaultdict(list) for _ in deal.parts]
    for number, group in enumerate(deal.groups):
        pools[deal.part[number]][len(group.members)].append(number)
    return pools


def _moves(deal: _Assignment, pools: _Pools, source: int, target: int, sizes: Sequence[int]) -> Iterator[_Step]:
    """Yield moves of groups of these sizes."""
    for size in sizes:
        for number in pools[source][size][:_LOOKED_AT]:
            lost, added = deal.price(deal.groups[number].counts, source, target)
            yield lost / size, added / size, number, -1


def _exchanges(deal: _Assignment, pools: _Pools, source: int, target: int, gain: int) -> Iterator[_Step]:
    """Yield exchanges of groups whose sizes differ by `gain`; none if it is 0."""
    theirs = _sizes(pools[target])
    for size in _sizes(pools[source]) if gain else ():
        for going in pools[source][size][:_LOOKED_AT_PAIRS] if size - gain in theirs else ():
            for coming in pools[target][size - gain][:_LOOKED_AT_PAIRS]:
                gone, come = deal.groups[going].counts, deal.groups[coming].counts
                names = sorted(gone.keys() | come.keys())
                counts = {name: gone.get(name, 0) - come.get(name, 0) for name in names}
                lost, added = deal.price(counts, source, target)
                yield lost / gain, added / gain, going, coming
