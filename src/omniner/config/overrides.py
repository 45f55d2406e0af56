"""Read the arguments of the command line as users mean them, and explain mistakes in them.

Hydra's grammar allows Chinese letters only inside quotes, and no brackets, `=` or `#` in a value, so that
`predictions=预测.jsonl` would need quotes within quotes. `read_arguments` adds quotes if the grammar cannot read a
value without them; `override_line` writes arguments for a shell. `explain_override` turns Hydra's message about a wrong
argument into the key, what was found and what to do.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import Any

from omniner.config.groups import Config
from omniner.config.validate import Wanted, field_types, take_apart, unknown
from omniner.errors import UserError
from omniner.wording import first_of

log = logging.getLogger("omniner")

_PLAIN = re.compile(r"[\w.@/+~-]+=[\w./:+-]*", re.ASCII)  # arguments that need no quotes
_PLAIN_VALUE = re.compile(r"(?!(?:null|true|false|nan|inf)$)[a-z_][\w./\-]*", re.ASCII | re.IGNORECASE)  # text
_SHOWN = 5  # number of files that a warning lists
_OWN_FOLDER = ("-cd", "--config-dir")
_SEARCH_PATH = "hydra.searchpath"
_VALUED_FLAGS = {
    *("-p", "--package", "-cp", "--config-path", "-cn", "--config-name", *_OWN_FOLDER, "-c", "--cfg"),
    "--experimental-rerun",
}
_INFO = {"-i", "--info"}  # may have a value
_TOPIC = re.compile("[a-z-]+")
_FLAGS = (
    _VALUED_FLAGS
    | _INFO
    | {
        *("-h", "--help", "--hydra-help", "--version", "-r", "--run", "-m", "--multirun"),
        *("-sc", "--shell-completion", "--resolve"),
    }
)
_MULTIRUN = ("-m", "--multirun")
_ONE_OF = (("-r", "--run"), _MULTIRUN, ("-c", "--cfg"), ("-i", "--info"), ("-sc", "--shell-completion"))
_SWEEP_EXTRA = {"joblib", "submitit_local", "submitit_slurm", "optuna"}  # Hydra plugins of the extra `sweep`
_BRACKETS = {"[": "]", "{": "}"}
EACH = "To run each of them: -m "  # advice if several values are given for one; the argument follows
ELSEWHERE = {  # names that other tools use for a key or a choice
    "model.path": ("model_name_or_path", "pretrained_model_name_or_path", "bert_model", "embeddings"),
    "model.revision": ("model_revision",),
    "model.chat_template": ("template",),
    "prompt.instruction": ("prompt.template", "prompt.text", "prompt_template", "instruction"),
    "model.learning_rate": ("lr",),
    "tuning=lora or tuning=full": ("finetuning_type", "peft_type"),
    "tuning=qlora": ("quantization_bit", "load_in_4bit"),
    "tuning.rank": ("lora_rank", "lora_r", "r"),
    "tuning.alpha": ("lora_alpha",),
    "tuning.targets": ("lora_target", "target_modules"),
    "tuning.pack_tokens": ("packing",),
    "data=own data.root": ("dataset", "dataset_dir", "data_folder", "data_dir"),
    "data.files.train": ("train_file", "train_data", "train_path"),
    "data.files.dev": ("dev_file", "validation_file", "valid_file", "dev_data", "eval_file"),
    "data.files.test": ("test_file", "test_data"),
    "data.limit": ("max_samples", "max_train_samples", "max_eval_samples"),
    "data.dev_from_train": ("val_size", "dev_size", "validation_split"),
    "data.taxonomy": ("labels", "label_list", "categories", "entity_types", "tag_dictionary"),
    "encoding.max_length": ("cutoff_len", "max_seq_length", "max_seq_len", "max_sequence_length"),
    "encoding.on_too_long": ("truncation",),
    "trainer.max_epochs": ("epochs", "num_epochs", "num_train_epochs", "n_epochs"),
    "trainer.batch_size (sentences per optimizer step)": (
        *("per_device_train_batch_size", "train_batch_size", "mini_batch_size", "batch_size"),
        *("gradient_accumulation_steps", "accumulate_grad_batches"),
    ),
    "trainer.patience": ("early_stopping", "early_stopping_patience"),
    "trainer.schedule": ("lr_scheduler_type", "lr_scheduler", "scheduler"),
    "trainer.warmup": ("warmup_ratio", "warmup_steps", "warmup_fraction"),
    "trainer.gradient_clip": ("max_grad_norm", "grad_clip", "gradient_clip_val"),
    "trainer.precision": ("fp16", "bf16", "use_amp", "amp"),
    "trainer=gpu or trainer=cpu": ("device", "use_cuda", "no_cuda", "gpu", "cuda"),
    "decoding.max_new_tokens": ("max_tokens", "max_length"),
    "decoding.min_score": ("threshold", "score_threshold", "confidence_threshold", "min_confidence"),
    "resume": ("resume_from_checkpoint", "ckpt_path", "resume_from"),
    "overwrite": ("overwrite_output_dir", "overwrite_cache"),
    "tracking": ("report_to", "logger", "wandb"),
    "tracking.experiment": ("experiment_name", "project"),
    "name": ("run_name", "exp_name"),
    "metrics.unit (every average is in scores.json)": ("average", "metric", "main_evaluation_metric"),
    "task=convert (to=merged output=...)": ("export_dir",),
    "decoding.url": ("base_url", "api_base", "endpoint"),
    "decoding.api_key_env (the name of an environment variable)": ("api_key",),
    "split.shares": ("ratios", "split_ratio", "train_size", "test_size", "data.split"),
}
_PARTS = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[][{},:]|[^][{},:'"]+|.""", re.DOTALL)


def read_arguments(arguments: Sequence[str], conf: Path) -> list[str]:
    """Quote values that Hydra would misread, and move flags behind all overrides.

    Hydra refuses overrides on both sides of a flag, which happens when an override is added to a command.

    Args:
        arguments: arguments of the command line, or overrides from elsewhere.
        conf: the folder `conf/`, whose subfolders are the groups.

    Returns:
        The same arguments, each in a form that Hydra can read.

    Raises:
        UserError: an argument is wrong: an unknown flag, two flags that exclude each other, or a list of choices for a
            group.
    """
    sweep = any(flag in arguments for flag in _MULTIRUN)
    read = [_read_argument(argument, sweep, conf) for argument in arguments]
    flags, overrides = list[str](), list[str]()
    for before, argument in zip(["", *read], read, strict=False):
        of_flag = before in _VALUED_FLAGS or (before in _INFO and _TOPIC.fullmatch(argument))
        (flags if argument.startswith("-") or of_flag else overrides).append(argument)
    names = {flag.partition("=")[0] for flag in flags}
    if len(given := [long for short, long in _ONE_OF if names & {short, long}]) > 1:
        raise UserError(" ".join(given), "flags that cannot be combined", "Give one of them.")
    return overrides + flags


def _read_argument(argument: str, sweep: bool, conf: Path) -> str:
    if argument.startswith("-"):
        if argument.partition("=")[0] not in _FLAGS and not argument.lstrip("-").isdecimal():
            raise UserError(argument, "unknown flag", f"{_near(argument, _FLAGS)}See --help.")
        return argument
    key, equals, value = argument.partition("=")
    name = key.lstrip("+~").partition("@")[0]
    if equals and "." not in name and name in field_types(Config) and (conf / name).is_dir():
        _check_choice(name, value, sweep, conf)
    if not equals or _PLAIN.fullmatch(argument) or _parses(argument):
        return argument
    if value[:1] in _BRACKETS and value.endswith(_BRACKETS[value[0]]):
        quoted = f"{key}={''.join(_quote_items(value, key))}"
        if _parses(quoted):
            return quoted
    if sweep and "," in value and value[:1] not in _BRACKETS:
        return f"{key}={','.join(one if _parses(f'{key}={one}') else quote(one) for one in value.split(','))}"
    return f"{key}={quote(value)}"


def quote(value: str, mark: str = "'") -> str:
    """Return a value in quotation marks for an override; it may contain any characters."""
    # a backslash is special only before a quotation mark
    escaped = re.sub(rf"(\\*)({mark}|$)", lambda found: found[1] * 2 + (f"\\{mark}" if found[2] else ""), value)
    return f"{mark}{escaped}{mark}"


def override_line(overrides: Mapping[str, Any]) -> str:
    """Return keys and their values as shell arguments."""
    return " ".join(
        shlex.quote(f"{key}={_value(value)}") if isinstance(value, str) else f"{key}={_value(value)}"
        for key, value in overrides.items()
    )


def _value(value: Any) -> str:
    """Return a value as it is written in an override."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    # in double quotes: `shlex.quote` puts single ones around the argument
    return quote(value, '"') if isinstance(value, str) and not _PLAIN_VALUE.fullmatch(value) else str(value)


def _quote_items(value: str, key: str) -> Iterator[str]:
    """Yield the parts of a list or a mapping; those that Hydra cannot read are quoted."""
    for part in _PARTS.findall(value):
        bare = part.strip()
        if not bare or bare in "[]{},:" or _parses(f"{key}={bare}"):
            yield part
        else:
            yield quote(bare)


def _parses(argument: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _check_choice(group: str, value: str, sweep: bool, conf: Path) -> None:
    """Raise a `UserError` unless a group gets one choice; a sweep may give several."""
    if value in ("", "null"):
        raise UserError(group, "no choice", f"Name one, such as {group}={_choices(group, conf)[0]}.")
    if value.startswith("["):
        each = f"{group}={value.strip('[]')}"
        raise UserError(group, f"a list, where one choice belongs: {value}", EACH + each)
    if "," in value and not sweep:
        raise UserError(group, f"several choices: {value}", f"{EACH}{group}={value}")


def own_folders(arguments: Sequence[str]) -> list[Path]:
    """Return the folders of the user's own groups, which `--config-dir` and `hydra.searchpath` name.

    Args:
        arguments: in the form that Hydra reads.
    """
    named = ""
    path: list[str] = []
    for one, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        flag, equals, value = one.partition("=")
        if flag in _OWN_FOLDER:
            named = value if equals else following
        elif flag.lstrip("+") == _SEARCH_PATH and not path:  # Hydra takes the first
            path = _listed(one)
    folders = [one.removeprefix("file://") for one in (named, *path)]
    return [Path(one) for one in folders if one and "://" not in one]


def _listed(argument: str) -> list[str]:
    """Return the items of an argument whose value is a list, as texts; empty if Hydra will refuse the argument."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(argument).value()
    except HydraException:
        return []
    return [str(one) for one in value] if isinstance(value, list) else []


def check_own_choices(arguments: Sequence[str], conf: Path) -> None:
    """Report the user's files that have the name, but not the content, of a file in `conf/`: Hydra ignores them.

    A warning lists them; there are many if someone has copied all of `conf/`.

    Args:
        arguments: in the form that Hydra reads; they name the folders of the user's own groups.
        conf: the folder `conf/`.

    Raises:
        UserError: the arguments choose such a file.
    """
    passed_over = []
    for own in own_folders(arguments):
        for ours in sorted(conf.glob("*/**/*.yaml")):
            theirs = own / ours.relative_to(conf)
            if not theirs.is_file() or theirs.read_bytes() == ours.read_bytes():
                continue
            group = ours.parent.relative_to(conf).as_posix()
            if any(theirs.stem in one.partition("=")[2].split(",") for one in arguments if _names_group(one, group)):
                found = f"{group}={theirs.stem} is a choice of OmniNER, which would be taken in its place"
                fix = f"Rename the file; with `defaults: [{theirs.stem}]` it says only what differs from ours."
                raise UserError(theirs, found, fix)
            passed_over.append(str(theirs))
    if passed_over:
        shown = first_of(passed_over, _SHOWN, ", ")
        log.warning("never taken, because files of OmniNER have their names; rename what you want to choose: %s", shown)


def explain_own_file(error: BaseException, arguments: Sequence[str]) -> UserError | None:
    """Return the error for a file of the user that Hydra could not read, with the line.

    Args:
        error: what the reader of YAML raised.
        arguments: of the command line; they name the folders of the user's own groups.

    Returns:
        The mistake; None where no such file is at fault.
    """
    if isinstance(error, UnicodeDecodeError):
        for file in sorted(file for folder in own_folders(arguments) for file in folder.rglob("*.yaml")):
            data = file.read_bytes()
            try:
                data.decode("utf-8")
            except UnicodeDecodeError as broken:
                encoding = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "GB18030"
                line = data.count(b"\n", 0, broken.start) + 1
                return UserError(
                    f"{file}:{line}", "not UTF-8", f"Convert it, for example: iconv -f {encoding} -t UTF-8."
                )
        return None
    mark = getattr(error, "problem_mark", None)
    where = f"{mark.name}:{mark.line + 1}" if mark else getattr(error, "name", None)  # of a character that YAML forbids
    found = getattr(error, "problem", None) or getattr(error, "reason", "")
    return UserError(where, f"not YAML: {found}", "Correct the file.") if where else None


def _names_group(argument: str, group: str) -> bool:
    return argument.partition("=")[0].lstrip("+").partition("@")[0] == group


def explain_override(error: BaseException, arguments: Sequence[str], conf: Path) -> UserError | None:
    """Translate Hydra's error about a wrong argument into a `UserError`.

    Args:
        error: the error that Hydra raised.
        arguments: arguments of the command line.
        conf: the folder `conf/`.

    Returns:
        The error to report; None if Hydra's own message is the best there is.
    """
    text = str(error)
    if found := re.search(r"Could not (?:find|load) '(hydra/[^'/]+|[^'/]+)/([^']+)'", text):
        group, choice = found.groups()
        if group.startswith("hydra/") and choice in _SWEEP_EXTRA:
            return UserError(group, f"{choice} is not installed", "Run: pip install 'omniner[sweep]'")
        listed = re.search(r"Available options in '[^']+':\n((?:\t\w.*\n)+)", text)
        known = [name for name in (listed[1].split() if listed else []) if not name.startswith("_")]
        known = known or _choices(group, conf)
        fix = f"{_near(choice, known) or _own(group, choice)}Known: {', '.join(known)}."
        return UserError(group, f"no choice is called {choice!r}", fix)
    if (found := re.search(r"Could not override '([^']+)'", text)) and not found[1].startswith("hydra."):
        return _unknown_key(found[1], arguments)
    if found := re.search(r"Ambiguous value for argument '(.+)'\n", text):
        key, _, value = found[1].partition("=")
        fixes = [EACH + found[1]]
        wanted = _wanted(key.lstrip("+"))
        if any(one.what is list for one in wanted):
            fixes = [f"If it is a list: {key}=[{value}]"]
        if any(one.what in (str, list) for one in wanted):
            fixes.append(f'If it is one text: "{key}={quote(value)}"')
        return UserError(key, f"several values: {value}", ". ".join(fixes))
    if found := re.search(r"Error merging override (\+*)([\w.]+)=(.*)", text):
        for one in _wanted(found[2]):
            return UserError(found[2], f"{found[3]} is not {one.noun()}", f"Give {one.describe()}.")
    if found := re.search(r"Error parsing override '(.*)'\n", text):
        words = [f"task={found[1]}"] if found[1].isidentifier() else []
        fix = f"Write key=value{', such as ' + words[0] if words else ''}; quote the argument if it has blanks."
        return UserError(found[1], "no key=value", fix)
    return None


def _choices(group: str, conf: Path) -> list[str]:
    return sorted(path.stem for path in (conf / group).glob("[!_]*.yaml"))


def _unknown_key(key: str, arguments: Sequence[str]) -> UserError:
    """Return the error for an unknown key; it says how to add the key if it is in a mapping of free keys."""
    above = key.rpartition(".")[0]
    if not _groups(above) and not _wanted(above):
        return _unknown_key(above, arguments)
    given = next((one for one in arguments if one.startswith(f"{key}=")), f"{key}=...")
    if any(wanted.what is dict for wanted in _wanted(above)):
        return UserError(key, "this key is not there yet", f"To add it: +{given}")
    known = [name for group in _groups(above) for name in field_types(group)]
    if (name := key.rpartition(".")[2]) in known:  # a mapping with keys that are new
        return UserError(key, "some of these keys are not there yet", f"To add them: +{given}")
    same = sorted({one for one in every_key(Config) if one.rpartition(".")[2] == name})
    said = [ours for ours, theirs in ELSEWHERE.items() if key in theirs] or [
        ours for ours, theirs in ELSEWHERE.items() if name.lower() in theirs
    ]
    if same or said:
        return UserError(key, "unknown key", f"Did you mean {' or '.join(said or same[:4])}?")
    return unknown(key, known)


def every_key(group: type, above: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys, with those of every kind of a group."""
    for name, annotation in field_types(group).items():
        below = take_apart(annotation).groups
        for one in below:
            yield from every_key(one, f"{above}{name}.")
        if not below:
            yield f"{above}{name}"


def _own(group: str, choice: str) -> str:
    """Suggest the override for a user's own model, corpus or file if the unknown choice looks like one."""
    path = shlex.quote(choice)
    if group == "model" and ("/" in choice or Path(choice).exists()):
        return f"Weights of your own: model=path (an encoder) or model=causal_path, with model.path={path}. "
    if group == "data" and Path(choice).is_dir():
        return f"A corpus of your own: data=own data.root={path}. "
    if group == "data" and Path(choice).is_file():
        return f"A file of your own: data=own data.files.train=[{path}]; task=split divides it. "
    if choice.endswith((".yaml", ".yml")):
        name = Path(choice).stem
        return f"A file of your own: --config-dir FOLDER, with FOLDER/{group}/{name}.yaml, and {group}={name}. "
    return ""


def _wanted(key: str) -> list[Wanted]:
    """Return the requirements on the value of a dotted key, one for each kind of its group that has the key."""
    above, _, name = key.rpartition(".")
    return [take_apart(field_types(group)[name]) for group in _groups(above) if name in field_types(group)]


def _groups(key: str) -> list[type]:
    """Return the groups that a dotted key may hold; for an empty key, the whole configuration."""
    return [group for wanted in _wanted(key) for group in wanted.groups] if key else [Config]


def _near(word: str, known: Sequence[str] | set[str]) -> str:
    near = get_close_matches(word, sorted(known), n=1)
    return f"Did you mean {near[0]}? " if near else ""
