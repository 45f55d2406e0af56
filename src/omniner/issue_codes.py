"""Define the codes of issues; each entry says what a code means and what to do, in English and Chinese.

Report pages and `docs/reference/issues.md` show these texts. A new code is one more `ISSUE_CODES.add(IssueCode(...))`;
an `Issue` of a code that is not here is kept and counted, but nothing says what it means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from omniner import registry
from omniner.registry import Registry
from omniner.wording import Wording

STAGES = {
    "reading": "Reading a corpus",
    "splits": "Splits, ids and posts of a corpus",
    "writing": "Writing a corpus",
    "encoding": "Encoding sentences for a model",
    "predictions": "Reading and scoring predictions",
    "annotators": "Comparing and merging annotators",
}
"""Where issues arise, in the order of the reference, with the titles of its sections."""


@dataclass(frozen=True, slots=True)
class IssueCode:
    """A code of issues.

    Attributes:
        name: the code, as `issues.jsonl` has it.
        stage: one of `STAGES`.
        meaning, advice: what was met and what became of it; what to do.
        chinese_meaning, chinese_advice: the same in Chinese.

    Raises:
        ValueError: a text is empty, or the stage is unknown.
    """

    name: str
    stage: str
    meaning: str
    advice: str
    chinese_meaning: str
    chinese_advice: str

    def __post_init__(self) -> None:
        texts = self.name, self.meaning, self.advice, self.chinese_meaning, self.chinese_advice
        if self.stage not in STAGES or not all(text.strip() for text in texts):
            raise ValueError(f"an issue code needs a known stage, and its texts in both languages: {self}")


ISSUE_CODES: Registry[IssueCode] = registry.ISSUE_CODES


def explained(code: str) -> tuple[Wording, Wording]:
    """Return meaning and advice of a code for pages; both are empty for a code that is not here."""
    if code not in ISSUE_CODES:
        return Wording.both("", ""), Wording.both("", "")
    entry = ISSUE_CODES[code]
    return Wording.both(entry.meaning, entry.chinese_meaning), Wording.both(entry.advice, entry.chinese_advice)


_Texts: TypeAlias = dict[str, tuple[tuple[str, str], tuple[str, str]]]  # code -> meaning and advice, twice

_READING: _Texts = {
    "bad-answer": (
        ("The answer of a training sample is no JSON list of [surface, category] pairs; the sample is left out.",
         "Repair the answer."),
        ("训练样本的答案不是 [文字, 类别] 的 JSON 列表；该样本被略去。", "修正该答案。"),
    ),
    "bad-csv": (
        ("Lines of a table break the rules of CSV, as an unfinished quotation does; they are left out.",
         "Repair the quotes at the line named: a quotation mark within quotes is written twice."),
        ("表格中有些行不符合 CSV 规则，例如引号没有结束；这些行被略去。",
         "修正消息所指行的引号：引号内的引号要写两遍。"),
    ),
    "bad-entity": (
        ("An entity has no usable category, surface or place; it is left out.",
         "Look at the line: is a field missing, or called differently?"),
        ("实体没有可用的类别、文字或位置；该实体被略去。", "查看该行：是否缺少字段，或字段名不同？"),
    ),
    "bad-json": (
        ("A line, an item or a cell is not valid JSON; it is left out, or all of the file behind it (the message "
         "says how much).", "Repair the line named."),
        ("某一行、某一项或某个单元格不是有效的 JSON；该部分被略去，或此后的文件内容均未读取（消息里写明多少）。",
         "修正消息所指的行。"),
    ),
    "bad-offsets": (
        ("The offsets of an entity are no valid numbers: its surface is looked for or kept without a place, or "
         "it is left out, as the message says.", "Repair the offsets: whole numbers, the start before the end."),
        ("实体的位置不是有效的数字：按文字查找，或保留但没有位置，或被略去，见消息。",
         "修正位置：整数，起点在终点之前。"),
    ),
    "bad-record": (
        ("A record, or a field of it, has another form than its format says. As the message says, the record or the "
         "field is left out, the field counts as empty, or the sentence gets a number for its id.",
         "Compare the line with the format; set data.format if another one was recognised."),
        ("记录或其中的字段与格式不符。该记录或该字段被略去，或该字段视为空，或改用序号作编号，见消息。",
         "把该行与格式对照；如果格式识别错了，请设置 data.format。"),
    ),
    "bad-tag": (
        ("A tag cannot be read; it counts as O.", "Correct the tag, or set data.scheme."),
        ("无法读出的标签，按 O 计。", "修正标签，或设置 data.scheme。"),
    ),
    "discontinuous": (
        ("The parts of an entity are not one stretch of text; it is left out.",
         "Nothing, unless the parts belong together: then label the whole stretch."),
        ("实体的各部分在文中不连续；该实体被略去。", "无需处理；若各部分应连在一起，请标注整段。"),
    ),
    "duplicate-entity": (
        ("An entity is listed twice, or more often than it stands in the text; it is kept once, or as often as "
         "it stands there.", "Nothing, unless another entity was meant."),
        ("实体重复列出，或列出次数多于文中出现次数；只保留一次，或保留文中的次数。",
         "无需处理，除非本意是另一个实体。"),
    ),
    "empty-entity": (
        ("An entity holds no character, because it ends where it starts or before; it is left out.",
         "Correct its offsets."),
        ("实体不含字符（终点不在起点之后）；该实体被略去。", "修正位置。"),
    ),
    "empty-text": (
        ("A sentence or document has no text; it is left out, or has no entities if it is predicted.",
         "Nothing, unless the text got lost."),
        ("句子或文档没有文字；被略去，预测时则没有实体。", "无需处理，除非文字丢失了。"),
    ),
    "empty-token": (
        ("A row has a tag without a token and is left out; or, on writing, a text gives an empty token and its "
         "sentence is left out.", "Correct the row; on writing, choose another joiner."),
        ("某行只有标签没有词，该行被略去；或写出时文本切出空词，该句被略去。", "修正该行；写出时请换一个连接符。"),
    ),
    "entity-too-long": (
        ("An entity without a surface is longer than any surface may be; it is left out.", "Correct its offsets."),
        ("没有文字的实体超过允许的最大长度；该实体被略去。", "修正位置。"),
    ),
    "foreign-tag": (
        ("The tag scheme of the file has no tags of this letter; it is read all the same: B, S, U and W start an "
         "entity, the others continue one of the same category.", "Correct the tag, or set data.scheme."),
        ("文件的标签体系没有这个字母；仍按字母读取：B、S、U、W 开始一个实体，其他字母接续同类别的实体。",
         "修正标签，或设置 data.scheme。"),
    ),
    "kept-opening": (
        ("Nearly all texts of a file of conversations begin with the same words, which may be an instruction; they are "
         "kept as a part of the sentences.",
         "If it is an instruction, put the sentences under input, or on a line of their own behind it."),
        ("对话文件的几乎所有文本以相同的词句开头，可能是指令；作为句子的一部分保留。",
         "如果是指令，请把句子放在 input 下，或单独放在指令之后的一行。"),
    ),
    "line-too-long": (
        ("A line or a text is longer than a reader takes; it is left out.", "Divide it into sentences."),
        ("行或文本超过可读取的长度；被略去。", "把它拆分成句子。"),
    ),
    "lost-emoji": (
        ("A character of which both halves were lost; one U+FFFD stands for it.", "Nothing: the file has lost it."),
        ("某个字符（代理对）的两半都已丢失；以 U+FFFD 代替。", "无法处理：文件里已丢失。"),
    ),
    "merged-answers": (
        ("Prodigy's file has several answers to one input; they are one sentence with the entities of all.",
         "Nothing, if the answers are about different labels."),
        ("Prodigy 文件里同一输入有多个答案；合为一句，含全部实体。", "如果各答案针对不同标签，则无需处理。"),
    ),
    "no-position": (
        ("A token has no word position behind it, as other tokens of the file have; it is kept as it is.",
         "Set data.glued_positions=false if digits belong to the tokens."),
        ("该词后面没有位置数字，而文件中其他词有；原样保留。",
         "如果数字属于词本身，请设置 data.glued_positions=false。"),
    ),
    "no-tag": (
        ("A row has no tag; it counts as O.", "Add the tag, if one is missing."),
        ("某行没有标签，按 O 计。", "如果漏了标签，请补上。"),
    ),
    "no-text": (
        ("Annotations of brat without a text file beside them; they are left out.",
         "Put the .txt file of the same name beside them."),
        ("brat 标注文件旁边没有文本文件；被略去。", "把同名的 .txt 文件放在旁边。"),
    ),
    "not-read": (
        ("Parts of a file, a kind or a field that a corpus of entities does not use, are not read.",
         "Nothing, unless they hold entities."),
        ("文件中的某些部分、某类条目或字段不属于实体语料，未读取。", "无需处理，除非其中含有实体。"),
    ),
    "not-utf8": (
        ("A line is not UTF-8; what cannot be read in it becomes U+FFFD.",
         "Convert the line to UTF-8, for example with iconv."),
        ("该行不是 UTF-8；其中无法读取的部分变为 U+FFFD。", "把该行转为 UTF-8，例如用 iconv。"),
    ),
    "offset-mismatch": (
        ("The text at the offsets of an entity is not its surface: the surface is kept without a place or looked "
         "for, as the message says.", "Correct the offsets; if many are wrong, set data.offsets."),
        ("位置上的文字与实体的文字不同：保留文字而没有位置，或按文字查找，见消息。",
         "修正位置；如果很多都错，请设置 data.offsets。"),
    ),
    "offset-range": (
        ("The offsets of an entity lie outside the text or its tokens: its surface is kept without a place or "
         "looked for; without a surface it is left out.",
         "Correct the offsets; if many are wrong, set data.offsets."),
        ("实体的位置超出文本或词的范围：保留文字而没有位置，或按文字查找；没有文字则被略去。",
         "修正位置；如果很多都错，请设置 data.offsets。"),
    ),
    "offset-units": (
        ("Offsets are read in another way than the usual one, because they fit so or data.offsets says so.",
         "Check one of the entities; if it is wrong, set data.offsets or add the surfaces."),
        ("位置按另一种方式读取，因为这样才与文字相符，或因为 data.offsets 如此设置。",
         "检查其中一个实体；如果不对，请设置 data.offsets 或补上文字。"),
    ),
    "offset-units-open": (
        ("Offsets behind an emoji fit as code points and as UTF-16 units alike; they are taken as code points.",
         "Set data.offsets=utf16 if an emoji counts as two there."),
        ("表情符号（emoji）之后的位置按码位和按 UTF-16 都说得通；按码位读取。",
         "如果一个表情符号算两个单位，请设置 data.offsets=utf16。"),
    ),
    "only-predictions": (
        ("A task of Label Studio has no annotation, only what a model predicted; this is read as its labels.",
         "Annotate the task, unless the predictions are wanted."),
        ("Label Studio 的任务没有人工标注，只有模型的预测；把预测当作标注读取。", "请标注该任务，除非要的就是预测。"),
    ),
    "orphan-inside": (
        ("An inside or end tag continues no entity; it starts one.",
         "Correct the tag, if the entity starts elsewhere."),
        ("内部或结尾标签前面没有可接续的实体；视为新实体的开头。", "如果实体从别处开始，请修正标签。"),
    ),
    "placed-by-words": (
        ("The file gives the words of entities without places; these are looked for from left to right.",
         "Add offsets to the file, if it matters which of several equal words is meant."),
        ("文件只给出实体的文字而没有位置；按从左到右的顺序查找。",
         "如果需要区分指的是哪一处相同文字，请在文件中加上位置。"),
    ),
    "positions-glued": (
        ("Every token ends in a digit, as if its position were glued to it.",
         "Set data.glued_positions=true if these digits are positions."),
        ("每个词都以数字结尾，看起来像是词的位置粘在了后面。",
         "如果这些数字是位置，请设置 data.glued_positions=true。"),
    ),
    "row-ids": (
        ("The ids of a table number its rows, while texts repeat: rows of one text are read as one sentence.",
         "Nothing, unless equal texts are different sentences: then give sentences ids."),
        ("表格的编号是行号，而文本重复：文本相同的行合为一句。", "无需处理；若相同文本是不同句子，请给句子编号。"),
    ),
    "several-annotations": (
        ("A task has several annotations; the one marked ground_truth is read, else the first.",
         "Set data.annotator to choose whose is read, or mark one as ground_truth."),
        ("一个任务有多份标注；读取标为 ground_truth 的一份，没有则读第一份。",
         "用 data.annotator 选择读谁的标注，或把其中一份标为 ground_truth。"),
    ),
    "several-labels": (
        ("An item has several labels; each becomes an entity, where the published conversion keeps the first.",
         "Nothing, unless one label was meant."),
        ("一项有多个标签；每个标签成为一个实体，而官方转换只保留第一个。", "无需处理，除非本意是一个标签。"),
    ),
    "shared-opening": (
        ("All texts of a file of conversations begin with the same words, the instruction; these are left out.",
         "Nothing, unless the words belong to the sentences: then put the sentences under input."),
        ("对话文件的所有文本以相同的词句（指令）开头；已略去。", "无需处理，除非它们属于句子：请把句子放在 input 下。"),
    ),
    "split-emoji": (
        ("The halves of a character stood on two lines; they are joined.", "Nothing."),
        ("某个字符（代理对）的两半被拆到两行；已合并。", "无需处理。"),
    ),
    "surrogate": (
        ("A text holds halves of characters: pairs are joined, lone halves become U+FFFD.",
         "Nothing, unless U+FFFD stands for a character that you know."),
        ("文本含半个字符（代理项）：成对的合并，不成对的变为 U+FFFD。", "无需处理，除非知道 U+FFFD 原来是什么字符。"),
    ),
    "turned-pairs": (
        ("The pairs of the file have the category first and the surface second; all are taken so.",
         "Look at one of the pairs; if it is the other way round, correct the file."),
        ("文件中的二元组是类别在前、文字在后；全部按此读取。", "查看其中一个；如果顺序相反，请修正文件。"),
    ),
    "unaligned": (
        ("The surface of an entity does not stand in its text; it is kept without a place.",
         "Correct the surface or the text."),
        ("实体的文字不在句中；保留，但没有位置。", "修正实体的文字或句子。"),
    ),
    "unfinished-entity": (
        ("An entity has no end tag, in a scheme that has such tags; it ends where its tags end.",
         "Correct the last tag."),
        ("标签体系有结尾标签，而该实体没有；实体到其最后一个标签为止。", "修正最后一个标签。"),
    ),
    "unknown-key": (
        ("A key or column is not read.", "Rename it if it matters: post_id names the post of a sentence."),
        ("某个键或列未读取。", "如果需要读取，请改名：post_id 表示句子所属的帖子。"),
    ),
    "unknown-offsets": (
        ("A field may hold offsets under a name that is unknown; the entity is kept without them.",
         "Call the fields start and end."),
        ("某个字段可能是位置，但字段名无法识别；保留实体，不读位置。", "把字段改名为 start 和 end。"),
    ),
}  # fmt: skip

_SPLITS: _Texts = {
    "absent-category": (
        ("A category is absent from some part of a division, because its sentences belong to too few groups.",
         "Choose another seed or fewer parts, if the category must be in each."),
        ("划分的某一份缺少某个类别，因为含该类别的组太少。", "如果每一份都要有，请换随机种子或减少份数。"),
    ),
    "duplicate-id": (
        ("An id stands twice: in a corpus the second sentence is renamed, of an annotator the first one counts.",
         "Give every sentence its own id."),
        ("编号重复：语料中的第二句改用新编号；标注者的文件以第一句为准。", "给每句分配不同的编号。"),
    ),
    "in-test": (
        ("The text of a sentence stands in the reported split, too; the notes do not learn from it.",
         "Nothing, unless the corpus should not repeat it."),
        ("句子的文本也出现在报告划分里；生成错误说明时不使用该句。", "无需处理，除非语料不应重复。"),
    ),
    "in-train": (
        ("The text of a dev sentence stands in train, too; it compares no prompts.",
         "Nothing, unless the corpus should not repeat it."),
        ("dev 句子的文本也出现在 train 里；比较提示词时不使用该句。", "无需处理，除非语料不应重复。"),
    ),
    "no-opinion": (
        ("Some of the models that judge a sentence give no readable answer; the sentence is kept.",
         "Nothing, unless there are many: then look at the answers of the models."),
        ("参与判断的模型中，有的对该句没有可读的答案；保留该句。", "无需处理；如果很多，请查看模型的答案。"),
    ),
    "no-split": (
        ("A file of a folder is not called after train, dev or test; it is not read.",
         "Rename it if it belongs to a split."),
        ("文件夹里某个文件的名称不含 train、dev 或 test；该文件未读取。", "如果它属于某个划分，请改名。"),
    ),
    "repeated-text": (
        ("Equal texts are in several parts of a division.", "Set split.together or filter.together to texts."),
        ("相同的文本出现在划分的不同部分里。", "把 split.together 或 filter.together 设为 texts。"),
    ),
    "shown": (
        ("A variant of the prompt shows this dev sentence as an example; it compares none of the variants.",
         "Nothing."),
        ("某个提示词把该 dev 句子当作示例；比较提示词时不使用该句。", "无需处理。"),
    ),
    "size-of-dev": (
        ("Dev is much larger or smaller than data.dev_from_train says, because posts are not parted.",
         "Choose another share or seed."),
        ("dev 的大小与 data.dev_from_train 的设定相差较大，因为帖子不拆开。", "换一个比例或随机种子。"),
    ),
    "unlabeled": (
        ("A sentence has no labels; it is left out, because nobody said that it has no entity.",
         "Label the sentence; an empty list says that there is no entity."),
        ("句子没有标注；被略去，因为无法确定它不含实体。", "标注该句；空列表表示没有实体。"),
    ),
    "unused-split": (
        ("A split that the corpus brings is not used, for the reason that the message gives.",
         "Nothing, if this is wanted; else set data.dev_from_train=0 to use a published dev, label the split, or call "
         "it train, dev or test."),
        ("语料自带的某个划分没有使用，原因见消息。",
         "如果本意如此则无需处理；否则设 data.dev_from_train=0 以使用自带的 dev，"
         "或标注该划分，或把它命名为 train、dev 或 test。"),
    ),
}  # fmt: skip

_WRITING: _Texts = {
    "category-renamed": (
        ("brat's categories have no white space; it is written as an underscore.",
         "Nothing, or rename the category."),
        ("brat 的类别不能含空白；空白写成下划线。", "无需处理，或给类别改名。"),
    ),
    "inside-token": (
        ("An entity begins or ends within a token, which tags cannot say; it is left out.",
         "Choose another joiner or format."),
        ("实体的边界落在词的内部，标签无法表示；该实体被略去。", "换一个连接符或格式。"),
    ),
    "line-break": (
        ("An entity begins or ends with a line break, at which brat's sentences end; it is left out.",
         "Correct the entity."),
        ("实体以换行开头或结尾，而 brat 的句子在换行处结束；该实体被略去。", "修正该实体。"),
    ),
    "lost-id": (
        ("The format holds no ids of sentences; they are not written.", "Choose a format with ids if they matter."),
        ("该格式不含句子编号；编号未写出。", "如果编号重要，请选有编号的格式。"),
    ),
    "lost-meta": (
        ("The format holds no additional values (`meta`) of sentences; they are not written.",
         "Write jsonl if they matter."),
        ("该格式不含句子的附加数据（`meta`）；未写出。", "如果重要，请写成 jsonl。"),
    ),
    "lost-post-id": (
        ("The format does not hold the posts of sentences; they are not written.",
         "Choose a format with posts: splits keep the sentences of a post together."),
        ("该格式不含句子所属的帖子；未写出。", "请选含帖子的格式：划分时同一帖子的句子不拆开。"),
    ),
    "lost-score": (
        ("The format holds no confidences of these entities (Label Studio: none of gold); they are not written.",
         "Write jsonl if they matter."),
        ("该格式不能存放这些实体的置信度（Label Studio 的标注没有置信度）；未写出。", "如果重要，请写成 jsonl。"),
    ),
    "no-offsets": (
        ("An entity has no place in its text, which a format, a tagger or a comparison needs: it is left out, or "
         "written for its reader to look for, as the message says.",
         "Correct its surface, so that it stands in the text."),
        ("实体在句中没有位置，而格式、标注模型或比较需要位置：被略去，或照常写出、由读取方查找，见消息。",
         "修正实体的文字，使它在句中出现。"),
    ),
    "overlap": (
        ("An entity overlaps another one, which tags cannot say; it is left out.", "Write a format with offsets."),
        ("实体与另一个实体重叠，标签无法表示；该实体被略去。", "请导出为带位置的格式。"),
    ),
    "place-lost": (
        ("The answer does not say which of several equal words an entity is; its reader will find another one.",
         "Write a format with offsets."),
        ("答案没有说明实体是相同文字中的哪一处；读取时会定位到另一处。", "请导出为带位置的格式。"),
    ),
    "renamed": (
        ("An id or post is no file name or is taken; its document is written under a number.",
         "Nothing, or shorten the id."),
        ("编号或帖子名不能作文件名，或已被占用；该文档以序号命名。", "无需处理，或缩短编号。"),
    ),
    "repeated-sentence": (
        ("Two sentences have the same id, post and text; a reader of the table takes them for one.",
         "Give them different ids."),
        ("两句的编号、帖子和文本都相同；读取该表格时会合为一句。", "给它们不同的编号。"),
    ),
    "split-lines": (
        ("A sentence has line breaks, at which a reader of brat's files ends a sentence.",
         "Replace the line breaks by spaces, or write another format."),
        ("句子里有换行，读取 brat 文件时句子在换行处结束。", "把换行改成空格，或写成其他格式。"),
    ),
    "unwritable-category": (
        ("A category holds the separator of the columns or a line end; its entity is left out.",
         "Choose another separator, or rename the category."),
        ("类别含列分隔符或换行；其实体被略去。", "换一个分隔符，或给类别改名。"),
    ),
    "unwritable-character": (
        ("The file cannot hold a character: U+FFFD stands for it; a category with such a character is left out "
         "of Label Studio's configuration.", "Correct the text or the category."),
        ("文件不能容纳某个字符：以 U+FFFD 代替；含这种字符的类别不写入 Label Studio 的配置。", "修正文本或类别。"),
    ),
}  # fmt: skip

_ENCODING: _Texts = {
    "bad-span": (
        ("An entity lies outside its sentence, holds no character, or has a category that the model does not "
         "know; it is not learnt.", "Correct its offsets or category."),
        ("实体超出句子范围、不含字符，或模型没有该类别；不参与训练。", "修正位置或类别。"),
    ),
    "gold-truncated": (
        ("The sentence is cut before the end of this entity; it is not learnt.", "Raise encoding.max_length."),
        ("句子在该实体结束之前被截断；该实体不参与训练。", "调大 encoding.max_length。"),
    ),
    "half-surrogate": (
        ("A text holds half a character; the model sees U+FFFD for it.", "Correct the text."),
        ("文本含半个字符（代理项）；模型看到的是 U+FFFD。", "修正文本。"),
    ),
    "inactive-category": (
        ("No sentence of train has the category of this entity; it is not learnt, but scored.",
         "Nothing, or divide the corpus so that train has the category."),
        ("train 中没有该实体的类别；不参与训练，但参与评分。", "无需处理，或重新划分，使 train 含该类别。"),
    ),
    "long-entity": (
        ("An entity is longer than the spans that this head scores; it is not learnt.", "Raise head.max_span."),
        ("实体超过该 head 所能评分的最大跨度；不参与训练。", "调大 head.max_span。"),
    ),
    "nested-entity": (
        ("An entity lies inside another one, which this head cannot say; the outer one is learnt.",
         "Choose head=span."),
        ("实体在另一个实体之内，该 head 无法表示；训练时只用外层实体。", "改用 head=span。"),
    ),
    "overlapping-entity": (
        ("An entity crosses another one, which this head cannot say; the longer one is learnt.",
         "Correct the entities, or choose a head that scores spans."),
        ("实体与另一个实体交叉，该 head 无法表示；训练时只用较长的实体。", "修正实体，或改用对跨度评分的 head。"),
    ),
    "same-place-entity": (
        ("Two entities of different categories have the same place; the first category is learnt.",
         "Keep one of the categories."),
        ("同一位置有两个不同类别的实体；训练时只用第一个类别。", "只保留一个类别。"),
    ),
    "too-long-skipped": (
        ("A sentence is longer than encoding.max_length or than the model takes; it is skipped.",
         "Raise encoding.max_length, or set encoding.on_too_long=truncate."),
        ("句子长于 encoding.max_length 或模型的上限；被跳过。",
         "调大 encoding.max_length，或设 encoding.on_too_long=truncate。"),
    ),
    "too-long-truncated": (
        ("A sentence is longer than encoding.max_length or than the model takes; it is cut.",
         "Raise encoding.max_length, or divide the sentence."),
        ("句子长于 encoding.max_length 或模型的上限；被截断。", "调大 encoding.max_length，或把句子拆开。"),
    ),
    "unclear-boundary": (
        ("An entity begins or ends within one token of the model, where it cannot tell the characters apart.",
         "Nothing, or choose a model whose tokens are characters."),
        ("实体的边界落在模型的一个词元内部，模型分不清其中的字符。", "无需处理，或选择以字为词元的模型。"),
    ),
}  # fmt: skip

_PREDICTIONS: _Texts = {
    "bad-entities": (
        ("The entities of a prediction are no list; it counts as an empty answer.", "Correct the line."),
        ("预测的 entities 不是列表；按空答案计。", "修正该行。"),
    ),
    "bad-line": (
        ("A line of a predictions file lacks a usable id, label or answer, or is not JSON: it is left out, or "
         "its sentence has no prediction.", "Correct the line."),
        ("预测文件的某行没有可用的编号、标签或答案，或不是 JSON：被略去，或该句没有预测。", "修正该行。"),
    ),
    "bad-parse": (
        ("The field parse of a prediction is none of ok, repaired and failed; taken as ok.", "Correct the field."),
        ("预测的 parse 不是 ok、repaired、failed 之一；按 ok 计。", "修正该字段。"),
    ),
    "byte-order-mark": (
        ("The file begins with a byte order mark; the official scripts lose its first line, OmniNER does not.",
         "Nothing, or save the file without it."),
        ("文件以字节顺序标记开头；官方脚本会丢失第一行，OmniNER 读取时不会。", "无需处理，或另存为没有该标记的文件。"),
    ),
    "dropped": (
        ("An answer cannot be read; its sentence is not scored, because metrics.on_parse_failure=drop.",
         "Set metrics.on_parse_failure=empty to count its entities as missed."),
        ("答案无法读取；因 metrics.on_parse_failure=drop，该句不计分。",
         "设 metrics.on_parse_failure=empty，则其实体算作漏报。"),
    ),
    "duplicate-prediction": (
        ("A sentence has two predictions; the first one counts.", "Remove one of them."),
        ("同一句有两个预测；以第一个为准。", "删除其中一个。"),
    ),
    "label-failed": (
        ("The label of a sample cannot be read at all; it is not scored.", "Correct the label, or name the gold."),
        ("样本的标签完全无法读取；不计分。", "修正标签，或指定 gold。"),
    ),
    "label-repaired": (
        ("The label of a sample is not in the form required; its entities were found all the same.",
         "Look whether they are complete, or name the gold."),
        ("样本的标签不符合要求的形式；但仍读出了其中的实体。", "检查是否完整，或指定 gold。"),
    ),
    "matched-by-text": (
        ("Ids do not fit, or the numbers of sentences differ; sentences are matched by their texts.",
         "Nothing, if the files are of the same sentences."),
        ("编号对不上，或句子数不同；改为按文本匹配。", "如果两个文件是同一批句子，则无需处理。"),
    ),
    "missing-prediction": (
        ("A sentence has no prediction; an empty answer is written for it.", "Predict it, or take it out of gold."),
        ("句子没有预测；为它写入空答案。", "预测该句，或从 gold 中去掉。"),
    ),
    "no-gold": (
        ("The label of a sentence cannot be read; it is not scored.", "Correct the label, or name the gold."),
        ("句子的标签无法读取；不计分。", "修正标签，或指定 gold。"),
    ),
    "no-prediction": (
        ("A sentence of gold has no prediction; it counts as an empty answer.",
         "Predict it: all of its entities count as missed."),
        ("gold 中的句子没有预测；按空答案计。", "预测该句：它的实体全部算作漏报。"),
    ),
    "official-row": (
        ("A category is called like a row of the summary; the official table loses its row.", "Rename the category."),
        ("类别与汇总行同名；官方表格会丢失该行。", "给类别改名。"),
    ),
    "official-stop": (
        ("The official scripts stop at this sample, or have no table to show; here the others are scored.",
         "Nothing: the message says what stops them."),
        ("官方脚本在此样本处中止，或没有表格可显示；此处其余样本照常计分。", "无需处理：消息里写明中止的原因。"),
    ),
    "offsets-do-not-fit": (
        ("The text at the offsets of a prediction is not its surface; this is looked for by its words.",
         "Correct the offsets of the predictions."),
        ("预测所给位置上的文字与实体的文字不同；按文字查找。", "修正预测的位置。"),
    ),
    "other-order": (
        ("Gold has the sentences in another order than the predictions; they are matched by their texts.",
         "Nothing."),
        ("gold 与预测的句子顺序不同；按文本匹配。", "无需处理。"),
    ),
    "test-json": (
        ("The test.json beside the predictions has another number of sentences; it is not used.",
         "Name the gold, or remove that file."),
        ("预测文件旁的 test.json 句子数不同；未使用。", "指定 gold，或移走该文件。"),
    ),
    "unknown-id": (
        ("An answer is about a sentence that is not known here; it is not used.",
         "Check that both files are of the same sentences."),
        ("找不到答案所属的句子；该答案未使用。", "检查两个文件是否是同一批句子。"),
    ),
}  # fmt: skip

_ANNOTATORS: _Texts = {
    "expert-overrules": (
        ("The annotators had decided a sentence; the expert's answer counts.", "Nothing."),
        ("标注者已对该句作出决定；以专家的答案为准。", "无需处理。"),
    ),
    "not-annotated": (
        ("An annotator does not have a sentence, or has it without labels.", "Nothing, unless it was assigned."),
        ("某标注者没有该句，或该句没有标注。", "无需处理，除非已分配给此人。"),
    ),
    "practice-unused": (
        ("No annotator has this practice sentence.", "Check that all files are of the same sentences."),
        ("没有标注者有这个练习句。", "检查各文件是否是同一批句子。"),
    ),
    "text-mismatch": (
        ("The same id has another text; these labels are not used.", "Restore the text of the sentence."),
        ("同一编号的文本不同；这些标注未使用。", "恢复句子的原文。"),
    ),
    "unqualified": (
        ("An annotator does not pass the practice sentences and is left out.",
         "Nothing, or lower adjudicate.qualify."),
        ("标注者未通过练习句；其标注被略去。", "无需处理，或调低 adjudicate.qualify。"),
    ),
}  # fmt: skip

for _stage, _texts in zip(STAGES, (_READING, _SPLITS, _WRITING, _ENCODING, _PREDICTIONS, _ANNOTATORS), strict=True):
    for _name, (_english, _chinese) in _texts.items():
        ISSUE_CODES.add(IssueCode(_name, _stage, *_english, *_chinese))
