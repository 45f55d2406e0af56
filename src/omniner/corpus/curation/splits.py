"""A corpus divided into parts: posts whole, no text in two parts, every category in every part, sizes as asked.

In go labelled sentences and the share of each part, out comes a `Division`. Sentences of one post stay together, and so
do posts that have a sentence in common: its copies in train would give the answer away. Such groups are dealt out by
iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011; see `stratify`). Nothing but the seed, the posts and
the texts has a say: neither the order of the sentences, nor their ids, nor the version of Python. Price: 195,568
sentences of 65,000 posts and 90 categories in 2 s.

Texts that everybody writes ("谢谢姐妹") can tie most posts together. A group that does not fit into the smallest part
leaves nothing to choose: `together=auto` then ties posts by repeated texts with mentions only, or else not at all.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omniner.corpus.curation.splits_stratify import Group, stratify
from omniner.corpus.formats.common import quote
from omniner.errors import UserError
from omniner.records import Issue, Sentence

TOGETHER = ("texts", "mentions", "posts")  # the strictest first


@dataclass(frozen=True)
class Division:
    """Which part each sentence is in.

    Attributes:
        names: of the parts.
        shares: of the sentences that each part was to have.
        parts: number of the part of each sentence.
        targets: sentences that each part was to have.
        groups: positions of the sentences that had to stay together.
        posts: how many there are; a sentence without one is one of its own, with its exact repeats.
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
        """The sentences of one part, in their old order."""
        return [sentence for sentence, number in zip(sentences, self.parts, strict=True) if number == part]

    @property
    def sizes(self) -> list[int]:
        """Sentences in each part."""
        counts = Counter(self.parts)
        return [counts[part] for part in range(len(self.names))]


def divide(
    sentences: Sequence[Sentence], shares: Mapping[str, float], together: str, seed: int, where: str
) -> Division:
    """Divide a corpus; the same for any order of its sentences.

    Args:
        sentences: labelled ones.
        shares: name of each part -> its share of the sentences, above 0; they add up to 1.
        together: auto | texts (posts with an equal sentence) | mentions (posts with an equal sentence that has
            mentions) | posts.
        seed: of the choice of posts.
        where: config key to name in the error.

    Raises:
        UserError: there are fewer groups than parts, or so large ones that a part would stay empty.
    """
    targets = sizes_of(len(sentences), list(shares.values()))
    posts = _posts(sentences)
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
        message = f"{len(sentences)} sentences in {len(groups)} groups that stay together (the largest has {largest}) "
        raise UserError(where, f"{message}do not make {len(shares)} parts", "Add posts, or ask for fewer parts.")
    return division


def sizes_of(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in the proportion of the shares that add up to `total`: the largest remainders are rounded up."""
    exact = [share * total for share in shares]
    sizes = [int(value + 1e-9) for value in exact]
    left = sorted(range(len(shares)), key=lambda part: (sizes[part] - exact[part], part))
    for part in left[: total - sum(sizes)]:
        sizes[part] += 1
    return sizes


def _posts(sentences: Sequence[Sentence]) -> list[str]:
    """What each sentence's post is called; a text stands for itself where there is no post."""
    return [f"post {item.post_id}" if item.post_id is not None else f"text {item.text}" for item in sentences]


def _gather(sentences: Sequence[Sentence], posts: Sequence[str], level: str) -> list[list[int]]:
    """Positions of the sentences that stay together: the connected components of posts with a text in common."""
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


def _ranked(sentences: Sequence[Sentence], posts: Sequence[str], found: Sequence[list[int]], seed: int) -> list[Group]:
    """The groups in the order in which they are dealt out: that of a keyed hash of the first name of their posts."""
    groups = []
    for members in found:
        name = min(posts[position] for position in members)
        digest = hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        counts = Counter(entity.category for position in members for entity in sentences[position].entities)
        groups.append(Group(int.from_bytes(digest, "big"), members, dict(sorted(counts.items()))))
    return sorted(groups, key=lambda group: group.rank)


def repeated(sentences: Sequence[Sentence], division: Division) -> list[Issue]:
    """An issue for each text that stands in several parts; there is none where texts stay together."""
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


def absent(sentences: Sequence[Sentence], division: Division) -> list[Issue]:
    """An issue for each category that some part lacks, with how many groups could have been dealt out."""
    held: dict[str, set[int]] = defaultdict(set)
    groups: Counter[str] = Counter()
    for members in division.groups:
        names = {entity.category for position in members for entity in sentences[position].entities}
        groups.update(names)
        for name in names:
            held[name].add(division.parts[members[0]])
    lacking = {name: set(range(len(division.names))) - held[name] for name in sorted(held)}
    return [
        Issue("absent-category", f"{name} is in {groups[name]} groups only, none of them in {_listed(division, parts)}")
        for name, parts in lacking.items()
        if parts
    ]


def _listed(division: Division, parts: set[int]) -> str:
    return ", ".join(division.names[part] for part in sorted(parts))
