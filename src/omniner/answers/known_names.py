"""List the names that models give to parts of an answer: keys of surfaces and categories, wrappers, remarks, calls."""

from __future__ import annotations

import re
from functools import lru_cache


def _names(text: str) -> dict[str, int]:
    """Return names with their rank; if an object has several of them, the first counts."""
    return {name: rank for rank, name in enumerate(text.split())}


# All without spaces, `_` and `-`, in lower case.
SURFACE_KEYS = _names(
    "surface surfaceform surfacetext entitytext entityname entitymention entityvalue entityspan entitycontent entitystr"
    " entityword extractiontext mentiontext spantext textspan namedentity 实体文本 实体名称 实体名 实体内容 实体提及"
    " 实体词 实体值 实体片段 实体原文 命名实体 entity 实体 mention span word phrase term token tokens 提及 词语 词汇 词"
    " 片段 文本片段 原词 text 文本 name 名称 名字 value 值 content 内容 string keyword e entities mentions spans words"
    " values names texts 实体列表 原文"
)
CATEGORY_KEYS = _names(
    "entitytype entitycategory entitylabel entityclass entitytag entitygroup entitykind entitytypename nertag nerlabel"
    " nertype extractionclass typename labelname categoryname classname 实体类型 实体类别 实体标签 实体种类 实体分类"
    " 实体类 类型名称 类别名称 标签名称 category label labels type class tag 类别 标签 类型 分类 种类 类 标注"
    " categories types classes tags classification kind cls ner t"
)
EITHER_KEYS = ("entity", "name", "实体", "名称")  # keys of the category, if another key has the surface
CALL_KEYS = frozenset(
    _names("arguments parameters args kwargs toolinput actioninput functionarguments 参数")  # of a tool
)
WRAPPERS = frozenset(
    _names(
        "entities entitylist namedentities result results output outputs answer answers finalanswer data ner nerresult"
        " predictions prediction predict annotations extractions extracted items list spans labels label function"
        " functioncall toolcalls tool calls message response records choices candidates parts content 实体列表 实体"
        " 命名实体 答案 最终答案 结果 抽取结果 识别结果 输出 实体识别结果 数据 列表"
    )
)
REMARKS = frozenset(
    _names(
        "id index no number text sentence input 句子 原文 文本 输入 说明 备注 解释 理由 分析 思路 explanation reason"
        " reasoning rationale thought thoughts analysis note notes comment language lang status success code error"
        " count total score scores confidence probability start end offset offsets begin position positions model"
        " description context source 序号 编号 起始 结束 开始 位置 置信度 数量"
    )
)
NOTHING = frozenset({"", "无", "没有", "none", "null", "nil", "n/a", "na", "-"})
_COMMON_CATEGORIES = frozenset(
    _names(
        "person people per name location loc place address city country organization organisation org company brand"
        " product date time event gpe facility money quantity title position book movie game government scene misc"
        " 人名 人物 姓名 人 地名 地点 地址 位置 城市 国家 机构 机构名 组织 组织机构 公司 企业 品牌 产品 产品名 商品"
        " 时间 日期 事件 金额 数量 职位 职务 景点 场景 书名 电影 游戏 政府 作品 疾病 药物 症状 品类"
    )
)
_TAG = re.compile(r"(?:[BIESMLU]-)?[A-Z]{3,12}(?:[-_][A-Z]{3,12})?|[^\W_]+_[^\W_]+")  # PER, B-ORG, 品类_产品
_KEY_NOISE = re.compile(r"[\s_\-*]+")


@lru_cache(maxsize=1024)
def normal_key(key: object) -> str:
    """Normalise a key to the spelling of these tables."""
    return _KEY_NOISE.sub("", key).casefold() if isinstance(key, str) else ""


@lru_cache(maxsize=1024)
def is_special(key: str) -> bool:
    """Whether a key is a known name of a part of an answer, so that it is not a category."""
    name = normal_key(key)
    return name in SURFACE_KEYS or name in CATEGORY_KEYS or name in WRAPPERS or name in REMARKS


def looks_like_category(name: str) -> bool:
    """Whether a name looks like a category, without knowledge of the categories."""
    return bool(_TAG.fullmatch(name)) or name.casefold() in _COMMON_CATEGORIES
