"""Chinese captions of a photo, as `phrases` and `sentences` give English ones."""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from t2ireid_plugin.synthetic.attributes import Person
from t2ireid_plugin.synthetic.phrases import Looks, Phrase, choose
from t2ireid_plugin.synthetic.sentences import Caption, Content, choose_details

PRONOUN = {"man": "他", "woman": "她"}
BODY = ("height", "build")
SUBJECT = (*BODY, "age", "sex")
TRAITS = ("hair", "glasses", "skin")
# Words for the values that `phrases.WORDS` has, separated by spaces; one of them is chosen.
WORDS = {
    "man": "男子 男子 男性 男士", "woman": "女子 女子 女性 女士",
    "young": "年轻 青年", "middle-aged": "中年", "elderly": "老年",
    "slim": "身材偏瘦 体型偏瘦 身形瘦削", "stocky": "身材偏胖 体型壮实 身材敦实",
    "short": "个子较矮 个头较矮 小个子", "tall": "个子较高 个头较高 高个子",
    "light": "皮肤白皙 肤色较白", "tanned": "皮肤呈小麦色 肤色呈小麦色", "dark": "皮肤黝黑 肤色较深",
    "glasses": "眼镜 眼镜 黑框眼镜", "sunglasses": "墨镜 太阳镜",
    "t-shirt": "T恤 T恤 T恤衫", "shirt": "衬衫 衬衫 衬衣", "jacket": "夹克 夹克 夹克衫", "coat": "大衣 长外套",
    "hoodie": "卫衣 连帽卫衣 连帽衫", "sweater": "毛衣 针织衫 套头衫", "dress": "连衣裙",
    "trousers": "长裤 裤子", "jeans": "牛仔裤 牛仔长裤", "shorts": "短裤", "skirt": "裙子 半身裙",
    "sneakers": "运动鞋 球鞋", "boots": "靴子 短靴", "shoes": "鞋子 鞋",
    "backpack": "双肩包 双肩包 背包", "handbag": "手提包 手提包 提包", "shoulder bag": "单肩包 斜挎包 挎包",
    "cap": "棒球帽 鸭舌帽", "beanie": "毛线帽 针织帽",
}  # fmt: skip
COLOURS = {
    "black": "黑色", "white": "白色", "grey": "灰色", "red": "红色", "orange": "橙色 橘色", "yellow": "黄色",
    "green": "绿色", "blue": "蓝色", "light blue": "浅蓝色 天蓝色 淡蓝色", "purple": "紫色", "pink": "粉色 粉红色",
    "brown": "棕色 褐色 咖啡色",
}  # fmt: skip
HAIR_COLOURS = {**COLOURS, "brown": "棕色 褐色", "blonde": "金色 金黄色", "grey": "灰白色 花白"}
HAIR = {
    "short": "短发", "curly": "卷发", "shoulder-length": "齐肩发 中长发", "long": "长发",
    "ponytail": "马尾 马尾辫", "bun": "丸子头 发髻", "bald": "光头",
}  # fmt: skip
PATTERNS = {  # {both} is "红白" or "红色与浅蓝色"
    "horizontal stripes": "{both}相间的横条纹{noun} 带有{second}横条纹的{colour}{noun}",
    "vertical stripes": "{both}相间的竖条纹{noun} 带有{second}竖条纹的{colour}{noun}",
    "checked": "{both}格子{noun} {both}相间的格纹{noun} {colour}和{second}相间的格子{noun}",
    "dotted": "{colour}底{second}圆点{noun} 带有{second}波点的{colour}{noun}",
    "logo": "印有{second}图案的{colour}{noun} 印着{second}标志的{colour}{noun} 带{second}印花的{colour}{noun}",
    "two-tone": "{both}拼色{noun} {both}两色拼接的{noun} {second}袖子的{colour}{noun}",
}
INNER = "{upper}配{inner}内搭 内搭{inner}上衣的{upper} 敞开的{upper}搭配{inner}打底衫"
MEASURES = {"upper": "一件", "lower": "一条", "shoes": "一双", "bag": "一个", "hat": "一顶"}
VERBS = {  # by part, or by style of hair and kind of bag; the phrase of the skin has its own
    "hair": "留着 留着一头 有着", "ponytail": "扎着", "bun": "扎着 梳着", "bald": "留着 剃着",
    "glasses": "戴着 戴着 佩戴", "shoes": "脚穿 脚踩 脚上穿着", "hat": "头戴 戴着",
    "backpack": "背着 身背", "handbag": "拎着 提着 手里拿着", "shoulder bag": "挎着 背着",
}  # fmt: skip


def describe(person: Person, visible: Set[str], rng: np.random.Generator) -> Caption:
    """A random Chinese caption of a photo of ``person`` that shows the ``visible`` attributes."""
    looks = person.attributes()
    content = Content(looks, _phrases(looks, choose_details(looks, visible, rng), rng))
    clothing = choose(rng, _clothes, _clothes, _garment_list)
    texts = [style(content, rng) + "。" for style in (choose(rng, *STYLES), _person, clothing)]
    return content.caption(*texts)


def _word(words: str, rng: np.random.Generator) -> str:
    return choose(rng, *words.split())


def _phrases(looks: Looks, details: Set[str], rng: np.random.Generator) -> dict[str, Phrase]:
    """The phrases of a caption that mentions ``details``, by part."""
    parts = {"subject": _subject(looks, details, rng)}
    if "hair_style" in details:
        parts["hair"] = _hair(looks, rng)
    for name in ("glasses", "skin"):
        if name in details:
            parts[name] = Phrase(_word(WORDS[looks[name]], rng), frozenset({name}))
    if "upper_kind" in details:
        parts["upper"] = _upper(looks, details, rng)
    for name in ("lower", "shoes", "bag", "hat"):
        if f"{name}_kind" in details:
            text = _item(looks[f"{name}_colour"], _word(WORDS[looks[f"{name}_kind"]], rng), rng)
            parts[name] = _counted(name, text, {f"{name}_kind", f"{name}_colour"}, rng)
    return parts


def _subject(looks: Looks, details: Set[str], rng: np.random.Generator) -> Phrase:
    """The person: "个子较高、身材偏瘦的年轻男子"."""
    words = {name: _word(WORDS[looks[name]], rng) for name in SUBJECT if name in details or name == "sex"}
    body = "、".join(words[name] for name in BODY if name in words)
    return Phrase((body and body + "的") + words.get("age", "") + words["sex"], frozenset(words))


def _hair(looks: Looks, rng: np.random.Generator) -> Phrase:
    """The hair: "黑色短发", "光头"."""
    noun = _word(HAIR[looks["hair_style"]], rng)
    if looks["hair_style"] == "bald":
        return Phrase(noun, frozenset({"hair_style"}))
    text = _word(HAIR_COLOURS[looks["hair_colour"]], rng) + choose(rng, "", "", "的") + noun
    return Phrase(text, frozenset({"hair_style", "hair_colour"}))


def _upper(looks: Looks, details: Set[str], rng: np.random.Generator) -> Phrase:
    """The upper garment: "红白相间的格纹衬衫", "一件红色夹克"."""
    colour, noun = looks["upper_colour"], _word(WORDS[looks["upper_kind"]], rng)
    if "sleeve" in details:
        noun = {"short": "短袖", "long": "长袖"}[looks["sleeve"]] + noun
    text = _item(colour, noun, rng)
    if "pattern" in details:
        first, second = (_word(COLOURS[name], rng) for name in (colour, looks["pattern_colour"]))
        both = first[0] + second[0] if len(first + second) == 4 else f"{first}与{second}"
        text = _word(PATTERNS[looks["pattern"]], rng).format(colour=first, second=second, both=both, noun=noun)
    if "inner_colour" in details:
        text = _word(INNER, rng).format(upper=text, inner=_word(COLOURS[looks["inner_colour"]], rng))
    attributes = {"upper_kind", "upper_colour"} | (details & {"sleeve", "pattern", "inner_colour"})
    return _counted("upper", text, attributes | ({"pattern_colour"} if "pattern" in details else set()), rng)


def _item(colour: str, noun: str, rng: np.random.Generator) -> str:
    return _word(COLOURS[colour], rng) + choose(rng, "", "", "", "的") + noun


def _counted(part: str, text: str, attributes: Set[str], rng: np.random.Generator) -> Phrase:
    """The phrase, in a third of cases with a measure word: "一条蓝色牛仔裤"."""
    return Phrase(choose(rng, "", "", MEASURES[part]) + text, frozenset(attributes))


def _clauses(content: Content, rng: np.random.Generator, *parts: str) -> list[str]:
    """A clause with a verb for each of the parts that are mentioned: "扎着黑色马尾", "背着一个红色背包"."""
    kinds = {"hair": content.looks["hair_style"], "bag": content.looks["bag_kind"]}
    mentioned = [part for part in parts if part in content.phrases]
    verbs = [VERBS.get(kinds.get(part, part)) or VERBS.get(part) for part in mentioned]
    return [(_word(words, rng) if words else "") + content.text(part) for part, words in zip(mentioned, verbs)]


def _worn(content: Content, rng: np.random.Generator) -> str:
    """The main garments: "身穿红色夹克和蓝色牛仔裤", "上身穿红色夹克，下身穿蓝色牛仔裤"."""
    garments = content.texts("upper", "lower")
    if len(garments) == 2 and rng.random() < 0.5:
        verbs = choose(rng, ("上身穿", "下身穿"), ("上身穿着", "下身穿着"), ("上穿", "下穿"))
        return "，".join(verb + garment for verb, garment in zip(verbs, garments))
    return _word("身穿 穿着 身着", rng) + "和".join(garments)


def _carried(content: Content, rng: np.random.Generator) -> list[str]:
    return _clauses(
        content, rng, *choose(rng, ("shoes", "hat", "bag"), ("hat", "shoes", "bag"), ("bag", "shoes", "hat"))
    )


def _clothes(content: Content, rng: np.random.Generator) -> str:
    return "，".join([_worn(content, rng), *_carried(content, rng)])


def _garment_list(content: Content, rng: np.random.Generator) -> str:
    return "，".join(content.texts("upper", "lower", "shoes", "hat", "bag"))


def _person(content: Content, rng: np.random.Generator) -> str:
    """The person: "一名年轻男子，留着黑色短发，戴着眼镜", "一名留着黑色短发、戴着眼镜的年轻男子"."""
    someone, subject, traits = _word("一名 一名 一位", rng), content.text("subject"), _clauses(content, rng, *TRAITS)
    if not traits or rng.random() < 0.5:
        return "，".join([someone + subject, *traits])
    joint = "的" if content.phrases["subject"].attributes.isdisjoint(BODY) else "、"
    return someone + "、".join(traits) + joint + subject


def _one_sentence(content: Content, rng: np.random.Generator) -> str:
    """Caption of the form "一名男子，留着…，身穿…，背着…"."""
    return choose(rng, "", "", "图中是", "照片中有") + f"{_person(content, rng)}，{_clothes(content, rng)}"


def _person_then_garments(content: Content, rng: np.random.Generator) -> str:
    """Caption of the form "这是一名男子，留着…。他身穿…，背着…"."""
    return _word("这是 图中是", rng) + f"{_person(content, rng)}。{PRONOUN[content.sex]}{_clothes(content, rng)}"


def _garments_then_rest(content: Content, rng: np.random.Generator) -> str:
    """Caption of the form "这名男子身穿…，脚穿…。他留着…，背着…"."""
    first = _word("这名 该名 这位", rng) + content.text("subject") + _worn(content, rng)
    rest = "，".join(_clauses(content, rng, *TRAITS, "hat", "bag"))
    return "，".join([first, *_clauses(content, rng, "shoes")]) + (rest and f"。{PRONOUN[content.sex]}{rest}")


def _garments_before_subject(content: Content, rng: np.random.Generator) -> str:
    """Caption of the form "一名身穿…和…的男子走在路上，留着…，背着…"."""
    worn = _word("一名 一位", rng) + _word("身穿 穿着 身着", rng) + "和".join(content.texts("upper", "lower"))
    acts = _word("正在行走 走在路上 正向前走 站在路边 站着", rng)
    rest = [*_clauses(content, rng, *TRAITS), *_carried(content, rng)]
    return "，".join([f"{worn}的{content.text('subject')}{acts}", *rest])


def _list(content: Content, rng: np.random.Generator) -> str:
    """Caption of nouns alone: "年轻男子，黑色短发，红色夹克，蓝色牛仔裤"."""
    return "，".join([*content.texts("subject", *TRAITS), _garment_list(content, rng)])


# The first form is twice as frequent as each other.
STYLES = (
    _one_sentence,
    _one_sentence,
    _person_then_garments,
    _garments_then_rest,
    _garments_before_subject,
    _list,
)
