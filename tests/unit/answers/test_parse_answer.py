from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from omniner.answers import MAX_CHARS, parse_answer
from omniner.scoring.official import OfficialStopError, read_for_errta, read_for_evaluation

PAIRS = [("面膜", "品类_产品"), ("Nanci", "品牌")]
PLAIN = json.dumps(PAIRS, ensure_ascii=False)

REPAIRABLE = {
    "fence": f"```json\n{PLAIN}\n```",
    "text before": f"好的[开心R]，结果如下：\n{PLAIN}",
    "text after": f'{PLAIN} 以上[微笑R]是全部实体，比如["别的", "东西"]。',
    "byte order mark": f"\ufeff{PLAIN}",
    "marks of its turn": f"<|im_start|>assistant\n{PLAIN}<|im_end|>\n<|im_start|>user\n[]",
    "trailing comma": PLAIN[:-1] + ",]",
    "no closing bracket": PLAIN[:-1],
    "breaks off in the next pair": PLAIN[:-1] + ', ["初屿", "品',
    "breaks off after a surface": PLAIN[:-1] + ', ["初屿"',
    "single quotes": str([list(pair) for pair in PAIRS]),
    "python tuples": str(PAIRS),
    "full-width punctuation": "[[“面膜”，“品类_产品”]，[“Nanci“，“品牌“]]",
    "escaped quotes": PLAIN.replace('"', '\\"'),
    "missing opening quote": '[[面膜", "品类_产品"], ["Nanci", "品牌"]]',
    "missing closing quote": '[["面膜", "品类_产品], ["Nanci", "品牌"]]',
    "no quotes": "[[面膜, 品类_产品], [Nanci, 品牌]]",
    "no outer brackets": '["面膜", "品类_产品"], ["Nanci", "品牌"]',
    "no inner brackets": '["面膜", "品类_产品", "Nanci", "品牌"]',
    "triples": '[["面膜", "品类_产品", "高"], ["Nanci", "品牌", 0.9]]',
    "objects": '[{"text": "面膜", "category": "品类_产品"}, {"实体": "Nanci", "类别": "品牌"}]',
    "objects with labels": '[{"text": "面膜", "labels": ["品类_产品"], "at": 3}, {"text": "Nanci", "label": "品牌"}]',
    "wrapped": json.dumps({"entities": [{"entity": text, "type": category} for text, category in PAIRS]}),
    "surface to category": json.dumps(dict(PAIRS), ensure_ascii=False),
    "category to surfaces": json.dumps({category: [text] for text, category in PAIRS}, ensure_ascii=False),
    "strings": '["面膜, 品类_产品", "Nanci，品牌"]',
    "tuples as strings": "[\"('面膜', '品类_产品')\", \"('Nanci', '品牌')\"]",
    "two lists": '[["面膜", "品类_产品"]]\n[["Nanci", "品牌"]]',
    "a repeat that breaks off": f"{PLAIN}\n{PLAIN[:-8]}",
    "one item is none": '[["面膜", "品类_产品"], null, ["Nanci", "品牌"], ["x", null], 7]',
}


@pytest.mark.parametrize("text", [PLAIN, f"\n {PLAIN} ", json.dumps(PAIRS), json.dumps(PAIRS, indent=1)])
def test_what_was_asked_for_is_ok(text: str) -> None:
    assert parse_answer(text) == (PAIRS, "ok", "")


def test_no_entities_is_an_answer() -> None:
    assert parse_answer("[]") == ([], "ok", "")
    assert parse_answer("没有实体：[]")[:2] == ([], "repaired")


@pytest.mark.parametrize("name", REPAIRABLE)
def test_repairs(name: str) -> None:
    pairs, status, reason = parse_answer(REPAIRABLE[name])
    assert (pairs, status) == (PAIRS, "repaired")
    assert reason


def test_quotes_inside_a_surface() -> None:
    assert parse_answer('[["所谓"神器"", "产品特性"]]').pairs == [('所谓"神器"', "产品特性")]
    assert parse_answer("[['L'Amour', '品牌']]").pairs == [("L'Amour", "品牌")]
    assert parse_answer('[["a\\"b\\u9762\\ud83d\\ude00", "x"],]').pairs == [('a"b面😀', "x")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("文本中没有可识别的命名实体。", "not JSON"),
        ("[", "not JSON"),
        ('[["面膜', "not JSON"),
        ("null", "not a list"),
        ("5", "not a list"),
        ('"面膜"', "not a list"),
        ("[null, 5]", "not a list"),
        ("[笑哭R]", "not JSON"),
        ('["面膜"]', "not a list"),
        ("x" * (MAX_CHARS + 1), "longer"),
        ("[" * 5000, "nested"),
        ("结果" + '[["a", ' * 5000, "nested"),
    ],
)
def test_failures_are_empty_and_say_why(text: str, reason: str) -> None:
    pairs, status, why = parse_answer(text)
    assert (pairs, status) == ([], "failed")
    assert reason in why


@pytest.mark.parametrize("depth", [17, 300, 480, 900, 1500])
@pytest.mark.parametrize(("opened", "middle", "closed"), [("[", "", "]"), ("[", "1", "]"), ('{"a":', "1", "}")])
def test_whatever_is_nested_too_deeply_has_failed(opened: str, middle: str, closed: str, depth: int) -> None:
    text = opened * depth + middle + closed * depth
    assert parse_answer(text, ["a"], "ab") == ([], "failed", "nested more than 16 deep")
    assert parse_answer(f"<think>?</think>{text}").status == "failed"


def test_unread_items_are_named() -> None:
    assert parse_answer('[["面膜", "品类_产品"], ["x"], null]').reason.endswith("2 items unread")
    assert parse_answer('[{"text": "面膜", "type": "品牌"}, {"remark": "x"}]').reason.endswith("1 item unread")


pieces = st.sampled_from(
    [
        *"[]{}()\"'\\,:，“”`n0a面 \n|<>-=",
        '["',
        '"]',
        '", "',
        '": "',
        '{"text": "',
        "null",
        "\\u12",
        '\\"',
        "<think>",
        "```",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(pieces, max_size=60).map("".join))
@example('[[2024, "时间"]]')
@example('{"数量": [["3", 1], 5]}')
def test_never_raises_and_gives_strings(text: str) -> None:
    pairs, status, reason = parse_answer(text)
    assert all(type(part) is str for pair in pairs for part in pair)
    assert status in {"ok", "repaired", "failed"}
    assert (reason == "") == (status == "ok")
    assert not pairs or status != "failed"


pair_lists = st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6)), max_size=5)


@settings(max_examples=150, deadline=None)
@given(pair_lists)
def test_proper_json_comes_back_unchanged(pairs: list[tuple[str, str]]) -> None:
    assert parse_answer(json.dumps(pairs)) == (pairs, "ok", "")
    assert parse_answer(json.dumps(pairs, ensure_ascii=False)) == (pairs, "ok", "")


@pytest.mark.parametrize(
    "text",
    [
        "[]" * 400_000,
        '["' * 400_000,
        '"' * 800_000,
        '[["a", "b"' * 90_000,
        "[ " + '" ' * 400_000,
        '[["' + "a" * 900_000,
        "[" + "面" * 900_000,
        '[["a","b"],' * 90_000,
        "{" * 900_000,
        '[["x", "' + "] , " * 200_000,
        '[["a' + " " * 900_000 + '"',
    ],
)
def test_hostile_text_takes_time_in_proportion(text: str) -> None:
    start = time.process_time()
    parse_answer(text)
    assert time.process_time() - start < 10


def test_official_readings_differ_where_the_scripts_do() -> None:
    quoted = '[["所谓\\"神器\\"", "产品特性"]]'
    assert read_for_evaluation(quoted) == ([('所谓"神器"', "产品特性")], False)
    assert read_for_errta(quoted.replace("\\", "")) is None
    single = "[['面膜', '品牌']]"
    assert read_for_evaluation(single) == ([("面膜", "品牌")], True)
    assert read_for_errta(single) is None
    assert read_for_evaluation('[["a", "b", "c"]]') == ([], False)
    assert read_for_errta('[["a", "b", "c"], "xy"]') == [("a", "b", "c"), ("x", "y")]
    assert read_for_evaluation("null") is None


@pytest.mark.parametrize("text", ["5", "true", "NaN", '[[["a"], "b"]]', "[" * 100_000])
def test_official_evaluation_stops(text: str) -> None:
    with pytest.raises(OfficialStopError):
        read_for_evaluation(text)


@pytest.mark.parametrize("text", ["5", "null", "[5]", "[null]", '[[["a", "b"]]]', "[" * 100_000])
def test_official_reader_stops(text: str) -> None:
    with pytest.raises(OfficialStopError):
        read_for_errta(text)


KNOWN = {"人名", "地点", "机构"}
SENTENCE = "王芳和李雷去了北京"


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ('<think>候选 [["北京","人名"]]？不对。</think>\n\n[["北京","地点"]]', [("北京", "地点")]),
        ('<think>先看 [["北京","地点"]]，不算。</think>\n\n[]', []),
        ('好的，候选 [["海","地点"]]。\n</think>\n\n[["北京","地点"]]', [("北京", "地点")]),
        ('<think>一</think>[["王芳","人名"]]<think>二</think>\n[["北京","地点"]]', [("北京", "地点")]),
        ('analysis用户要[["王芳","地点"]]assistantfinal[["北京","地点"]]', [("北京", "地点")]),
        ('<|channel|>commentary to=f.x <|constrain|>json<|message|>[["北京","地点"]]<|call|>', [("北京", "地点")]),
        ('候选：[["北京","人名"]]？不对，最终答案：[["北京","地点"]]', [("北京", "地点")]),
        ('先看 [["北京","地点"]]，不算。\n最终：[]。', []),
        ('[["北京","地点"]]\n解释：见 [1]，["王芳", "李雷"] 是人名，[] 表示没有。', [("北京", "地点")]),
        ('```json\n[["北京","地点"]]\n```\n草稿是 [["北京","人名"]]', [("北京", "地点")]),
        ('[["北京","地点"]]\n[["北京","地点"]]\n[["北京","地', [("北京", "地点")]),
        ('[["北京","地点"]]\n输入：李雷来了\n输出：[["李雷","人名"]]', [("北京", "地点")]),
        ('{"choices":[{"message":{"role":"assistant","content":"[[\\"北京\\",\\"地点\\"]]"}}]}', [("北京", "地点")]),
        ('{"type":"tool_use","name":"extract","input":{"entities":[["北京","地点"]]}}', [("北京", "地点")]),
        ('{"name":"王芳","type":"人名","mentions":[{"text":"她","type":"代词"}]}', [("王芳", "人名")]),
        ('{"人名": "王芳、李雷", "地点": "无", "机构": null}', [("王芳", "人名"), ("李雷", "人名")]),
        ('{"人名": [], "地点": []}', []),
        ('{"北京": {"type": "地点"}}', [("北京", "地点")]),
        ("**人名**\n- 王芳\n- 李雷\n\n**地点**\n- 北京", [("王芳", "人名"), ("李雷", "人名"), ("北京", "地点")]),
        ("人名：王芳、李雷\n地点：无", [("王芳", "人名"), ("李雷", "人名")]),
        ("北京（地点）、王芳（人名）", [("北京", "地点"), ("王芳", "人名")]),
        ('<answer>[["北京","地点"]]</answer> 备注：[["王芳","机构"]]', [("北京", "地点")]),
        ('\\boxed{\\{"地点": ["北京"]\\}}', [("北京", "地点")]),
        ('<|channel|>final<|message|>[["北京","地点"]]<|return|>[["王芳","机构"]]', [("北京", "地点")]),
        ('[["北京","地点"]]<|im_end|>\n<|im_start|>user\n[["王芳","机构"]]', [("北京", "地点")]),
        ('```json\n[["北京","地点"]]\n```\n```python\nprint(1)\n```', [("北京", "地点")]),
        ("```json\n[]\n```\n北京（地点）", []),
        ("[]\n北京（地点）", []),
        ('[["北京","地点"]]\n[]', []),
        ('[] [["北京","地点"]]', [("北京", "地点")]),
        ('结果 [["北京","地点"]]，见 ["王芳", "李雷"]', [("北京", "地点")]),
        ('结果 ["北京","地点"]。', [("北京", "地点")]),
    ],
)  # fmt: skip
def test_only_the_final_answer_counts(text: str, pairs: list[tuple[str, str]]) -> None:
    assert parse_answer(text, KNOWN, SENTENCE)[:2] == (pairs, "repaired")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('<think>候选 [["北京","地点"]]，还要', "while the model thinks"),
        ('<|channel|>analysis<|message|>[["北京","地点"]]', "while the model thinks"),
        ('analysis用户要[["王芳","地点"]]', "while the model thinks"),
        ('<think>[["北京","地点"]]</think>', "nothing stands behind its thinking"),
        ('候选 [["北京","人名"]] 更正：[["北', "breaks off before its first pair"),
        ('["王芳", "李雷"]', "no pair"),
        ('{"entities": ["王芳", "李雷"]}', "no pair"),
        ('[{"foo": "北京", "bar": "首都"}]', "no pair"),
        ('[{"text": "北京", "type": ', "breaks off before its first pair"),
        ("地点：这句话中没有", "no pair"),
        ("人名指的是人的名字。\n- 注意：没有", "no pair"),
        ('{["a"]: "b", {"text"}: "c"', "no pair"),
    ],
)
def test_what_was_not_said_is_not_read(text: str, reason: str) -> None:
    assert parse_answer(text, KNOWN, SENTENCE)[:2] == ([], "failed")
    assert reason in parse_answer(text, KNOWN, SENTENCE).reason


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ('["北京（首都）"]', [("北京", "首都")]),  # told by the sentence, whatever the categories
        ('["上海（首都）"]', []),
        ('["北京", ["地点"]]', [("北京", "地点")]),
        ('[["北京", ["地点", "机构"]], ["王芳", ["人名"]]]', [("北京", "地点"), ("北京", "机构"), ("王芳", "人名")]),
        ('[["地点", ["北京"]], ["人名", ["王芳", "李雷"]]]', [("北京", "地点"), ("王芳", "人名"), ("李雷", "人名")]),
        ('["北京", ["地点"]', []),
        ('{"地点": ["北京", ["上海", "广州"]]}', [("北京", "地点"), ("上海", "地点"), ("广州", "地点")]),
        ('{"地点": [["北京", 7, 9]]}', [("北京", "地点")]),
        ('{"地点": {"北京": [[7, 9]]}}', [("北京", "地点")]),
        ('{"北京": ["地点", "机构"]}', [("北京", "地点"), ("北京", "机构")]),
        ('[[2024, "时间"]]', [("2024", "时间")]),
        ('[["地点", "北京", 0.9]]', [("北京", "地点")]),
        ('[["实体", "北京", "地点"]]', [("北京", "地点")]),
        ('["北京", "地点", "王芳", "人名", "x"]', []),
        ('["北京", "地点", "上海", "东西"]', []),
        ('{"人名": "None", "地点": "北京"}', [("北京", "地点")]),
        ('{"人名": "王芳, 李雷", "机构": "上海, 北京"}', [("王芳", "人名"), ("李雷", "人名"), ("上海, 北京", "机构")]),
        ('[{"entity": "地点", "text": "北京"}]', [("北京", "地点")]),
        ('[{"entity": "北京", "text": "地点"}]', []),
        ('[{"text": "北京", "type": "x", "label": "地点"}]', [("北京", "地点")]),
        ('[{"text": ["王芳", "李雷"], "type": "人名"}]', [("王芳", "人名"), ("李雷", "人名")]),
        ('[{"a": "地点", "b": "北京"}, {"a": "人名", "b": "王芳"}]', [("北京", "地点"), ("王芳", "人名")]),
        ('{"foo": 1}\n{"bar": 2}', []),
        ('["北京", "地点"]', [("北京", "地点")]),
        ('["北京", "首都"]', []),
        ('["北京", "地点"', []),
        ('[["x", "y", "z"]]', [("x", "y")]),
        ('["x", "y", "z"]', []),
        ('{"地点": [["北京", 7, 9', []),
        ('[{"text": "北京", "label": "x", "type": "地点"}]', [("北京", "地点")]),
        ('[{"text": "北京", "label": ["x"], "type": ["地点", "机构"]}]', [("北京", "地点"), ("北京", "机构")]),
        ('{"text": "北京", "type": ["地点", "机', []),
        ('{"北京": {"text": "王芳", "type": "人名"}}', [("王芳", "人名")]),
        ('{"北京": "地点", "王芳": "人名"}', [("北京", "地点"), ("王芳", "人名")]),
        ('{"北京": "地点", "上海": "地点"}', []),
        ('{"地点": ["北京"], "首都": "王芳"}', [("北京", "地点"), ("王芳", "首都")]),
        ('{"人名": "王芳", "foo": "bar"}', [("王芳", "人名")]),
        ('{"人名": ["王芳"], "地点": ["", null]}', [("王芳", "人名")]),
        # a category under its key: the surface is the text under the only key that nobody knows
        ('[{"foo": "北京", "type": "地点"}]', [("北京", "地点")]),
        ('[{"foo": "北京", "type": "城市", "explanation": "首都"}]', [("北京", "城市")]),
        ('[{"foo": "上海", "type": ["地点", "机构"], "bar": 7}]', [("上海", "地点"), ("上海", "机构")]),
        ('[{"foo": ["王芳", "李雷"], "type": "人名"}]', [("王芳", "人名"), ("李雷", "人名")]),
        ('[{"foo": "北京", "bar": "王芳", "type": "地点"}]', []),
        ('[{"foo": "北京", "type": "x"}]', [("北京", "foo")]),
        ('[{"foo": "北京"}]', [("北京", "foo")]),
        ('[{"foo": "北京", "type": "地点", "bar": []}]', [("北京", "地点")]),
        ('[{"foo": "上海", "type": "城市"}]', []),
        ('{"type": "NER", "景点名": "北京", "姓氏": ["王芳"]}', [("王芳", "姓氏"), ("北京", "景点名")]),
        ('[{"foo": "北京", "type": "地点"', []),
        ('{"人名": "王芳", "type": "地点"}', [("王芳", "人名")]),
        ('{"城市": "北京", "type": "x"}', [("北京", "城市")]),
        ('{"城市": "北京", "foo": "王芳", "type": "地点"}', [("北京", "城市"), ("王芳", "foo")]),
        ('{"北京": "地点", "type": "x"}', [("北京", "地点")]),
        ('{"地点": [{"foo": "北京", "type": "机构"}]}', [("北京", "机构")]),
        ('{"北京": "首都", "type": "地点"}', [("北京", "首都")]),
        ('{"上海": {"foo": "首都", "type": "地点"}}', []),
    ],
)  # fmt: skip
def test_what_tells_a_surface_from_its_category(text: str, pairs: list[tuple[str, str]]) -> None:
    assert parse_answer(text, KNOWN, SENTENCE)[:2] == (pairs, "repaired" if pairs else "failed")


@pytest.mark.parametrize("layers", range(1, 8))
def test_json_within_strings_is_read_three_layers_deep(layers: int) -> None:
    text = '[["北京", "地点"]]'
    for _ in range(layers):
        text = json.dumps(text, ensure_ascii=False)
    expected = ([("北京", "地点")], "repaired") if layers <= 3 else ([], "failed")
    assert parse_answer(text, KNOWN, SENTENCE)[:2] == expected


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("{}", "repaired"),
        ('"无"', "repaired"),
        ('{"人名": "无", "地点": null}', "repaired"),
        ('{"explanation": "x", "entities": []}', "repaired"),
        ('{"name": "extract", "arguments": {"entities": []}}', "repaired"),
        ('{"explanation": "x"}', "failed"),
        ('{"人名": [], "foo": "bar"}', "failed"),
    ],
)
def test_no_entities_is_said_in_many_ways(text: str, status: str) -> None:
    assert parse_answer(text, KNOWN, SENTENCE)[:2] == ([], status)


def test_without_hints_the_preferred_keys_count() -> None:
    assert parse_answer('[{"foo": "北京", "type": "地点"}]').pairs == [("北京", "地点")]
    assert parse_answer('[{"foo": "北京", "type": "甲"}]', {"甲"}).pairs == [("北京", "甲")]
    assert parse_answer('{"上海": "地点", "type": "机构"}', KNOWN).pairs == [("上海", "地点")]
    assert parse_answer('[{"name": "y", "text": "北京", "type": "y", "label": "x"}]').pairs == [("北京", "x")]
    assert parse_answer('{"人名": "王芳、李雷、"}', KNOWN).pairs == [("王芳", "人名"), ("李雷", "人名")]


def test_only_the_sentence_tells_two_words_apart() -> None:
    two = '["王芳", "李雷"]'
    assert parse_answer(two).pairs == [("王芳", "李雷")]
    assert parse_answer(two, sentence=SENTENCE)[:2] == ([], "failed")


def test_known_categories_or_the_sentence_tell_the_sides() -> None:
    turned = '[["地点", "北京"], ["人名", "王芳"]]'
    assert parse_answer(turned).pairs == [("地点", "北京"), ("人名", "王芳")]
    for hints in ({"categories": KNOWN}, {"sentence": SENTENCE}):
        assert parse_answer(turned, **hints)[:2] == ([("北京", "地点"), ("王芳", "人名")], "repaired")
    assert parse_answer('[["地点", "地点"]]', KNOWN).status == "ok"


def test_an_answer_that_is_far_too_long_is_refused_at_once() -> None:
    assert parse_answer("[" * 100_000_000).reason.startswith("longer than")
    assert parse_answer("[]".ljust(MAX_CHARS)).status == "ok", "it is just short enough"


def test_blanks_without_end_take_no_time() -> None:
    begin = time.process_time()
    assert parse_answer(f"人名：{' ' * 100_000}x", ["人名"]).status == "failed"
    assert time.process_time() - begin < 5
