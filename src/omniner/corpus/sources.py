"""Load the corpora of runs: read the files that `data` names, assign roles to splits, check the categories.

`splits["dev"]` selects the checkpoint and results are reported on `splits["test"]`, whatever their files are called. If
a corpus publishes no test labels (`data.report=dev`), its dev file becomes `test` and `dev` is cut from train, so that
nothing is selected on the reported split. The cut goes by post, or by text if there are no posts (a repeated text must
not be on both sides), and depends only on `data.seed` and the posts themselves. Files of further splits, such as
`unlabeled`, are read on request.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from omniner import records
from omniner.config.groups import DataConfig
from omniner.corpus import formats
from omniner.corpus.formats import ReadOptions
from omniner.corpus.taxonomy import FLAT, Taxonomy, check_taxonomy, flat_taxonomy, load_taxonomy
from omniner.errors import UserError
from omniner.files import sha256
from omniner.records import Issue, Sentence, post_or_text, sentence_to_json, to_line
from omniner.wording import counted, first_of

LABELED = ("train", "dev", "test")
_UNREAD = 0.1  # the largest share of a file that may be left behind where its reading breaks
_NAMED = 3  # number of issues, files or categories quoted in an error
# Codes of issues that lose an entity or its offsets, a whole record, or a part of it.
ENTITY_LOSSES = frozenset(
    {
        *("bad-entity", "bad-tag", "discontinuous", "empty-entity", "entity-too-long", "offset-mismatch"),
        *("offset-range", "unaligned"),
    }
)
RECORD_LOSSES = frozenset({"bad-answer", "bad-csv", "bad-json", "bad-record", "line-too-long", "no-text", "not-utf8"})
LOSSES = ENTITY_LOSSES | RECORD_LOSSES | {"empty-token", "no-tag"}


@dataclass
class Corpus:
    """A corpus as a run uses it.

    Attributes:
        name: as in `data.name`.
        splits: the sentences of train, dev, test and other requested splits.
        taxonomy: all categories that its sentences may have.
        issues: what could not be used as it was.
        digests: file (or "synthetic") -> the sha256 of its content.
        report: the published name of the split that is `splits["test"]`.
        definitions: category -> its definition, if the config has one.
    """

    name: str
    splits: dict[str, list[Sentence]]
    taxonomy: Taxonomy
    issues: list[Issue] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    report: str = "test"
    definitions: dict[str, str] = field(default_factory=dict)

    @cached_property
    def active(self) -> tuple[str, ...]:
        """The categories of the training split, in the order of the taxonomy: those that a model can learn."""
        return self.taxonomy.active(self.splits["train"])

    @property
    def reported(self) -> list[Sentence]:
        """The sentences of the reported split, which `report` names; empty if it was not read."""
        return self.splits.get("test", [])


def load_corpus(data: DataConfig, splits: Sequence[str] | None) -> Corpus:
    """Read a corpus, cut dev from train if the config says so, and check its categories.

    Args:
        data: the config group.
        splits: names after the cut; None = those of train, dev and test that exist. A flat taxonomy holds the
            categories of the splits that had to be read.

    Raises:
        UserError: files are missing or cannot be read, a split has no labels or a category is not in the taxonomy; or,
            with `data.on_issue=fail`, something could not be used as it was.
    """
    if data.report == "dev" and not data.dev_from_train:
        found = "0 with data.report=dev: the checkpoint would be chosen on the split that is reported"
        raise UserError("data.dev_from_train", found, "Set a share of train, for example 0.1.")
    roles = _roles(data)
    published = _published(data, roles, splits)
    corpus = Corpus(data.name, {}, Taxonomy(data.name, ()), report=data.report, definitions=dict(data.definitions))
    if data.format == "synthetic":
        _generate(data, published, corpus)
    else:
        _read(data, published, corpus)
    _check_labels(data, corpus)
    seen: set[str] = set()
    for split, sentences in corpus.splits.items():
        corpus.issues += make_ids_unique(sentences, split, seen)
    if data.on_issue == "fail" and corpus.issues:
        raise UserError(*_too_many(corpus.issues, "sentences" if data.from_memory else "files"))
    categories = (e.category for sentences in corpus.splits.values() for s in sentences for e in s.entities)
    if data.taxonomy == FLAT:
        corpus.taxonomy = flat_taxonomy(data.name, categories)
    else:
        corpus.taxonomy = load_taxonomy(data.taxonomy)
        _check_categories(corpus, data)
    _assign(data, roles, corpus)
    for split, most in data.limit.items():
        if most and split in corpus.splits:
            corpus.splits[split] = limit_by_post(corpus.splits[split], most, data.seed)
    if splits is not None:
        corpus.splits = {name: corpus.splits[name] for name in splits}
    return corpus


def check_files(data: DataConfig, splits: Sequence[str]) -> None:
    """Raise a `UserError` if files of these splits do not exist; no file is read."""
    check_taxonomy(data.taxonomy)
    roles, available = _roles(data), _available(data)
    needed = [name for name in available if name in {roles.get(split) for split in splits}]
    if data.from_memory and data.root is None:  # the folder of the run, which will hold them, is made later
        _published(data, roles, splits)
    elif data.format != "synthetic" and needed:
        _root(data, needed)


def digest_files(data: DataConfig, splits: Sequence[str]) -> dict[str, str]:
    """Return the sha256 of each existing file of these splits, and of the file with the categories, by their paths."""
    roles = _roles(data)
    needed = {roles.get(split) for split in splits}
    paths = [Path(data.root or "", name) for split, files in data.files.items() if split in needed for name in files]
    return {str(path): _digest(path) for path in (Path(data.taxonomy), *paths) if path.exists()}


def read_sentences(
    path: Path, data: DataConfig | None = None, prefix: str | None = None
) -> tuple[list[Sentence], list[Issue]]:
    """Read one file or folder that is not part of the corpus `data`: labelled or not, of any format.

    Args:
        path: the file or folder.
        data: the config group. Its format applies unless it is that of the choice's own files; its settings of tags,
            tokens, offsets and annotators apply, too. None = everything is detected from the file.
        prefix: of the ids of sentences that have none in the file; None = the file's name.

    Returns:
        The sentences and the issues met.

    Raises:
        UserError: nothing could be read, or more was lost than `data.max_issues`.
    """
    path = Path(path)
    id_prefix = path.stem if prefix is None else prefix
    if data is None:
        return check_read(path, *formats.read(path, "auto", ReadOptions(id_prefix=id_prefix)))
    options = read_options(data, id_prefix)
    return check_read(path, *formats.read(path, format_of_files(data), options), data.max_issues)


def read_options(data: DataConfig, id_prefix: str, id_first: int = 0) -> ReadOptions:
    """Return the reading options that the config sets.

    Args:
        data: the config group.
        id_prefix: of the ids of sentences that have none in the file.
        id_first: the number of the first of them.
    """
    return ReadOptions(
        scheme=data.scheme,
        separator=data.separator,
        glued_positions=data.glued_positions,
        joiner=data.joiner,
        id_prefix=id_prefix,
        id_first=id_first,
        offsets=data.offsets,
        annotator=data.annotator,
        tag_column=data.tag_column,
    )


def format_of_files(data: DataConfig) -> str:
    """Return the format that `data.format` sets for any file; `auto` if it is that of the choice's own files."""
    if data.format in ("auto", "synthetic"):
        return "auto"
    return "auto" if data.format == _format_of_choice(data.name) else data.format


def data_of_another_run(data: DataConfig) -> DataConfig:
    """Return the data settings of another run, for its gold file.

    If its choice of `data` is not found (the user's own, without the `--config-dir` of that run), the format may be
    that of the choice's own files: it is then detected from the file.
    """
    known = data.format == "auto" or _format_of_choice(data.name) is not None
    return data if known else replace(data, format="auto")


def _format_of_choice(name: str) -> str | None:
    """Return the format that `data=<name>` sets for its own files; None if there is no such choice."""
    from hydra.errors import MissingConfigException  # half a second with config.compose, which few files need

    from omniner.config import compose

    try:
        return str(compose.compose_unchecked([f"data={name}"]).data.format)
    except MissingConfigException:
        return None


def check_read(
    path: Path,
    sentences: list[Sentence],
    issues: list[Issue],
    limit: float = 1,
    suspects: str = "the file and data.format",
) -> tuple[list[Sentence], list[Issue]]:
    """Reject a file from which nothing, or too little, could be read.

    Args:
        path: the file or folder.
        sentences: read from it.
        issues: met while reading.
        limit: largest share of its sentences, and of its entities, that may be lost. Below 1, at most a tenth of the
            file may be left behind where reading it breaks: what is mended in one place hides all of the rest.
        suspects: what messages advise to check.

    Returns:
        The sentences and the issues, unchanged.

    Raises:
        UserError: there is no sentence, all entities or all their offsets were lost, or more than allowed.
    """
    lost = [issue for issue in issues if issue.code in LOSSES]
    examples = f" ({'; '.join(map(str, (lost or issues)[:_NAMED]))})" if issues else ""
    fix = f"Check {suspects}."
    if not sentences:
        raise UserError(_place(path, issues), f"no sentence could be read{examples}", fix)
    entities = [entity for sentence in sentences for entity in sentence.entities]
    bad = [issue for issue in lost if issue.code in ENTITY_LOSSES]
    if bad and not any(entity.start is not None for entity in entities):
        found = f"not one entity could be taken with its place, {len(bad):,} were tried{examples}"
        raise UserError(_place(path, bad), found, f"{fix[:-1]}, or data.offsets.")
    torn = [issue for issue in lost if issue.unread]
    if limit < 1 and (unread := sum(issue.unread for issue in torn)) > _UNREAD:
        found = f"{unread:.0%} of the file was not read ({'; '.join(map(str, torn[:_NAMED]))})"
        raise UserError(_place(path, torn), found, "Mend it there, or set data.max_issues=1 to go on without the rest.")
    records = len({(issue.file, issue.line, issue.id) for issue in lost if issue.code in RECORD_LOSSES})
    unplaced = sum(entity.start is None for entity in entities)  # some of the lost ones, which kept their surface
    for what, count, total in (
        ("sentences", records, records + len(sentences)),
        ("entities", len(bad), len(bad) + len(entities) - min(unplaced, len(bad))),
    ):
        if count > limit * total:
            found = f"{count / total:.0%} of its {what} were lost on reading{examples}"
            raise UserError(_place(path, lost), found, f"{fix[:-1]}, or set data.max_issues.")
    return sentences, issues


def _place(path: Path, issues: Sequence[Issue]) -> str:
    file, line = (issues[0].file, issues[0].line) if issues else (str(path), int(path.is_file()))
    return f"{file or path}:{line}" if line else file or str(path)


def _available(data: DataConfig) -> list[str]:
    """Return the published splits that the config names."""
    if data.format == "synthetic":
        return [name for name, size in data.size.items() if size > 0]
    return [name for name, files in data.files.items() if files]


def _roles(data: DataConfig) -> dict[str, str]:
    """Map each split of the corpus to the published split that it is, or is cut from; train, dev, test first."""
    available = _available(data)
    roles = {name: name for name in available}
    if data.report == "dev":
        # The published test split has no labels; to tag it, name it in data.files under another name.
        roles.pop("test", None)
        if "dev" in roles:
            roles["test"] = roles.pop("dev")
    if data.dev_from_train and "train" in available:
        roles["dev"] = "train"
    known = [name for name in LABELED if name in roles]
    return {name: roles[name] for name in dict.fromkeys([*known, *roles])}


def _published(data: DataConfig, roles: dict[str, str], splits: Sequence[str] | None) -> list[str]:
    """Return the published splits that must be read for the requested splits."""
    wanted = [name for name in LABELED if name in roles] if splits is None else splits
    for name in wanted:
        if name not in roles:
            if data.from_memory:
                raise _not_given(data, name)
            key = "data.size" if data.format == "synthetic" else "data.files"
            found = f"the corpus {data.name} gives no split {name!r}, only {', '.join(sorted(roles)) or 'none'}"
            raise UserError(key, found, "Name the files of this split, or ask for another one.")
    needed = {roles[name] for name in wanted}
    return [name for name in _available(data) if name in needed]


def _not_given(data: DataConfig, split: str) -> UserError:
    """Return the error for a split that a program has neither given nor has cut from train."""
    argument = "dev" if split == "test" and data.report == "dev" else split
    fix = f"Give {argument}=..."
    if split == "dev":
        fix += ", or set data.dev_from_train=0.1 to cut it from train."
    elif argument == "test":
        fix += ", or set data.report=dev and data.dev_from_train=0.1 to report on dev."
    return UserError(argument, f"no sentences are given, only {' and '.join(data.from_memory)}", fix)


def _generate(data: DataConfig, splits: Sequence[str], corpus: Corpus) -> None:
    from omniner.corpus.sample import generate_sample  # only this format needs its word lists

    corpus.splits.update(generate_sample({name: data.size[name] for name in splits}, data.seed))
    digest = hashlib.sha256()
    for name, sentences in corpus.splits.items():
        for number, sentence in enumerate(sentences):
            sentence.id = sentence.id or f"{name}-{number}"
            digest.update(f"{name} {to_line(sentence_to_json(sentence))}\n".encode())
    corpus.digests["synthetic"] = digest.hexdigest()


def _read(data: DataConfig, splits: Sequence[str], corpus: Corpus) -> None:
    root = _root(data, splits)
    for split in splits:
        sentences: list[Sentence] = []
        for name in data.files[split]:
            path = root / name
            options = read_options(data, split, len(sentences))
            corpus.digests[name] = _digest(path)
            if split in data.from_memory:
                found, issues = _read_from_memory(path, split, corpus.digests[name], data, options)
            else:
                found, issues = check_read(path, *formats.read(path, data.format, options), data.max_issues)
            sentences += found
            corpus.issues += issues
        corpus.splits[split] = sentences


def _read_from_memory(
    path: Path, split: str, digest: str, data: DataConfig, options: ReadOptions
) -> tuple[list[Sentence], list[Issue]]:
    """Read sentences that a program gave; errors and issues name them by the argument and their number in it."""
    if digest != data.from_memory[split]:
        fix = "Put the file back, or train anew."
        raise UserError(path, "it does not hold the sentences that this run was given (data.from_memory)", fix)
    try:
        sentences, issues = formats.read(path, data.format, options)
    except UserError as error:
        raise UserError(_item_at(error.where, path, split), error.found, error.fix) from error
    issues = [
        issue._replace(file=_item_at(f"{issue.file}:{issue.line}" if issue.line else issue.file, path, split), line=0)
        for issue in issues
    ]
    return check_read(Path(split), sentences, issues, data.max_issues, suspects="these items")


def _item_at(place: str, path: Path, split: str) -> str:
    """Return the argument and the number of the item in it for a file and line: `train[2]` for the third line."""
    line = place.removeprefix(f"{path}:")
    return f"{split}[{int(line) - 1}]" if line.isdigit() else split if place == str(path) else place


def _digest(path: Path) -> str:
    """Return the sha256 of a file; for a folder, that of the names and digests of its files."""
    if path.is_file():
        return sha256(path)
    files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return hashlib.sha256("".join(f"{name} {sha256(path / name)}\n" for name in files).encode()).hexdigest()


def _root(data: DataConfig, splits: Sequence[str]) -> Path:
    """Return the folder of the files, after checking that all of them exist."""
    names = [name for split in splits for name in data.files[split]]
    if not names:
        raise UserError("data.files", "no file is named", "Give the files of each split: data.files.train=[...].")
    where = f" Source: {data.source}." if data.source else ""
    folder = "data.root (or OMNINER_DATA)" if data.source else "data.root"
    fix = f"Set {folder} to where the files are.{where}"
    if data.root is None:
        raise UserError("data.root", f"not set; {data.name} needs the files {', '.join(names)}", fix)
    root = Path(data.root)
    if root.is_file():
        fix = (
            f"Name its folder, and the file as data.files.train=[{root.name}]; task=split makes the splits of one file."
        )
        raise UserError("data.root", f"{root} is a file, not a folder", fix)
    if not root.is_dir():
        found = f"there is no folder {root.absolute()}; it should hold {', '.join(names)}"
        raise UserError("data.root", found, fix)
    if missing := [name for name in names if not (root / name).exists()]:
        raise _lacking(data, root, splits, missing, fix)
    return root


def _lacking(data: DataConfig, root: Path, splits: Sequence[str], missing: Sequence[str], fix: str) -> UserError:
    """Describe a folder that lacks files: it may hold the splits under other names."""
    found = f"{root.absolute()} lacks {', '.join(missing)}"
    there = sorted(path.name for path in root.iterdir() if path.is_file() and not path.name.startswith("."))
    if not there:
        return UserError("data.root", found, fix)
    named = {}
    for split in splits:
        alike = [name for name in data.files[split] if name not in missing]
        alike = alike or [name for name in there if Path(name).stem == split]
        named[split] = f"{split}: [{', '.join(alike) or '...'}]"
    files = f"'data.files={{{', '.join(named.values())}}}'"
    found += f", but holds {first_of(there, _NAMED)}"
    return UserError("data.root", found, f"Name the files of each split, {files}, or: {fix[0].lower()}{fix[1:]}")


def _check_labels(data: DataConfig, corpus: Corpus) -> None:
    """Drop sentences without labels, which are not negatives; reject a split that has no others."""
    for split in LABELED:
        sentences = corpus.splits.get(split, [])
        bare = [sentence for sentence in sentences if records.is_unlabeled(sentence)]
        if not bare:
            continue
        if len(bare) == len(sentences):
            found = f"{', '.join(data.files[split])} has no labels"
            fix = "Set data.report=dev if no test labels are published, or name labeled files."
            if split in data.from_memory:
                found, fix = "none of the sentences has labels", "Give labelled ones."
            raise UserError(_where(data, split), found, fix)
        corpus.issues += [
            Issue("unlabeled", f"no labels in the split {split}; left out", id=sentence.id) for sentence in bare
        ]
        corpus.splits[split] = [sentence for sentence in sentences if not records.is_unlabeled(sentence)]


def load_for_training(data: DataConfig) -> Corpus:
    """Read train, dev and test (see `load_corpus`); also reject a missing split, and train or dev without entities."""
    corpus = load_corpus(data, LABELED)
    for split in ("train", "dev"):
        require_entities(_where(data, split), corpus.splits[split])
    return corpus


def _where(data: DataConfig, split: str) -> str:
    """Return what gives a split: a key, or the argument of a program."""
    return split if data.from_memory else f"data.files.{split}"


def require_entities(where: str | Path, sentences: Sequence[Sentence]) -> None:
    """Raise a `UserError` if none of these sentences has an entity: there is nothing to learn or to measure.

    Args:
        where: the key or the file that they are from.
        sentences: labelled ones.
    """
    if not any(sentence.entities for sentence in sentences):
        found = f"none of {len(sentences):,} labelled sentences has an entity"
        raise UserError(where, found, "Look where they come from: were the labels exported?")


def make_ids_unique(sentences: Sequence[Sentence], prefix: str, seen: set[str], file: str = "") -> list[Issue]:
    """Rename ids that occurred before: with a prefix and, if that is not enough, with a number, too.

    Args:
        sentences: changed in place.
        prefix: put before a repeated id.
        seen: all ids so far; those of the sentences are added.
        file: name for the issues.

    Returns:
        An issue for each id that was renamed.
    """
    issues = []
    for number, sentence in enumerate(sentences):
        if (old := sentence.id) in seen:
            sentence.id = f"{prefix}-{old}"
            while sentence.id in seen:
                sentence.id += f"#{number}"
            message = f"the id {old} stands twice in the corpus; renamed {sentence.id}"
            issues.append(Issue("duplicate-id", message, file, id=sentence.id))
        seen.add(sentence.id)
    return issues


def _too_many(issues: Sequence[Issue], source: str) -> tuple[str, str, str]:
    listed = ", ".join(f"{count} {code}" for code, count in records.count_codes(issues).items())
    first = "; ".join(str(issue) for issue in issues[:_NAMED])
    fix = f"Repair the {source}, or set data.on_issue=keep to go on with what could be read."
    return "data.on_issue", f"{counted(len(issues), 'issue')} ({listed}): {first}", fix


def _check_categories(corpus: Corpus, data: DataConfig) -> None:
    places: dict[str, tuple[str, str]] = {}  # unknown category -> split, id of its first sentence
    for split, sentences in corpus.splits.items():
        for sentence in sentences:
            for entity in sentence.entities:
                if entity.category not in corpus.taxonomy:
                    places.setdefault(entity.category, (split, sentence.id))
    if not places:
        return
    found = []
    for category, (_, id) in list(places.items())[:_NAMED]:
        nearest = corpus.taxonomy.nearest(category)
        found.append(f"{category!r} (sentence {id}" + (f"; nearest: {nearest})" if nearest else ")"))
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    split = next(iter(places.values()))[0]
    where = "data.taxonomy" if data.format == "synthetic" else ", ".join(data.files[split])
    if split in data.from_memory:
        where = split
    message = f"not in the taxonomy {corpus.taxonomy.name}: {', '.join(found)}{more}"
    raise UserError(where, message, "Correct the names, or set data.taxonomy=flat to take those of the corpus.")


def _assign(data: DataConfig, roles: dict[str, str], corpus: Corpus) -> None:
    """Assign the published splits to their roles, and cut dev from train if the config says so."""
    published = corpus.splits
    corpus.splits = {name: published[source] for name, source in roles.items() if source in published}
    if roles.get("dev") != "train" or "train" not in published:
        return
    if data.report != "dev" and "dev" in _available(data):
        message = "data.dev_from_train cuts dev from train: the published dev split is not used"
        corpus.issues.append(Issue("unused-split", message))
    train = published["train"]
    corpus.splits["train"], corpus.splits["dev"] = cut_by_post(train, data.dev_from_train, data.seed)
    size, wanted = len(corpus.splits["dev"]), data.dev_from_train * len(train)
    if abs(size - wanted) > max(1, wanted / 2):
        found = (
            f"{size:,} of {len(train):,} sentences, not {data.dev_from_train:.0%}: posts are not parted, and too large"
        )
        corpus.issues.append(Issue("size-of-dev", f"data.dev_from_train holds out {found}"))


def cut_by_post(sentences: Sequence[Sentence], share: float, seed: int) -> tuple[list[Sentence], list[Sentence]]:
    """Cut off a part, post by post, until it holds a share of the sentences.

    Posts are drawn in the order of a keyed hash of their id (of the text if there is none), so the draw is the same for
    any order of the sentences and any version of Python. A post is skipped if it would exceed the share by more than
    the part still lacks, and by more than a tenth. If this finds less than half of the share, the smallest of the
    remaining posts is added, as long as something is left to train on.

    Returns:
        The rest and the part, both in their old order.

    Raises:
        UserError: there are not enough posts for two parts.
    """
    keys, order = _draw(sentences, seed)
    sizes, wanted, held = Counter(keys), math.ceil(share * len(sentences)), 0
    chosen: set[str] = set()
    for key in order:
        lacking = wanted - held
        if lacking <= 0:
            break
        if sizes[key] - lacking > max(lacking, wanted // 10):
            continue
        if held + sizes[key] >= len(sentences):  # something must be left to train on
            continue
        chosen.add(key)
        held += sizes[key]
    if 2 * held < wanted:
        fitting = [key for key in order if key not in chosen and held + sizes[key] < len(sentences)]
        chosen.update(sorted(fitting, key=sizes.__getitem__)[:1])
    if not chosen:
        found = f"{counted(len(sizes), 'post')} cannot be parted into train and dev"
        raise UserError("data.dev_from_train", found, "Add posts, or give a dev split.")
    rest = [s for s, key in zip(sentences, keys, strict=True) if key not in chosen]
    return rest, [s for s, key in zip(sentences, keys, strict=True) if key in chosen]


def limit_by_post(sentences: Sequence[Sentence], most: int, seed: int) -> list[Sentence]:
    """Choose at most `most` sentences, post by post, drawn as `cut_by_post` does; they keep their order.

    A post with more sentences than are still allowed is skipped; if all have more, a part of the first one is taken.
    """
    keys, order = _draw(sentences, seed)
    sizes, held = Counter(keys), 0
    chosen: set[str] = set()
    for key in order:
        if held + sizes[key] <= most:
            chosen.add(key)
            held += sizes[key]
    if not chosen:
        return [one for one, key in zip(sentences, keys, strict=True) if key == order[0]][:most]
    return [one for one, key in zip(sentences, keys, strict=True) if key in chosen]


def _draw(sentences: Sequence[Sentence], seed: int) -> tuple[list[str], list[str]]:
    """Return the post of each sentence, and all posts in drawing order."""
    keys = list(map(post_or_text, sentences))

    def rank(key: str) -> bytes:
        return hashlib.blake2b(f"{seed} {key}".encode("utf-8", "surrogatepass"), digest_size=16).digest()

    return keys, sorted(set(keys), key=rank)
