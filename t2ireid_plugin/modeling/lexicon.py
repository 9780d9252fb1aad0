"""English and Chinese word lists that separate person from clothing in captions, for `instructions`.

Written by hand for captions of pedestrians. A word in none of the lists counts as an attribute of its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from functools import lru_cache

# Kinds of words. Those of the first line decide the side of their phrase (TOP is a garment, but not in "on top of").
# Those of the second line decide it where none of the first is in the phrase. The others structure phrases and are
# named after an example (OF is 的), except PLAIN for all other words.
Kind = Enum(
    "Kind",
    "PERSON OWNER ACT GARMENT TOP "
    "WEAR BODY THING TRAIT MAKE COLOUR "
    "JOIN WHICH BE HE IT NOT THE HAVE WITH IN AT OF PLAIN",
)


ENGLISH = {
    Kind.PERSON: """man men woman women guy girl boy lady ladies male female gentleman person people pedestrian
        individual adult teenager teen youth youngster kid child children baby toddler infant student elder senior
        granny grandma grandmother grandpa grandfather mother father mom dad friend companion fellow dude someone
        somebody subject figure physique build stature posture gait pace step stride hair hairstyle haircut
        hairline bang fringe ponytail pigtail braid plait bun bob dreadlock afro mohawk crewcut buzzcut strand curl
        beard mustache moustache goatee stubble sideburn whisker wrinkle glasses spectacles eyeglasses eyewear
        sunglasses goggles skin complexion tattoo makeup lipstick smile expression belly age height weight twenties
        thirties forties fifties sixties seventies eighties teens dog worker guard officer cyclist runner tourist
        traveler passerby passersby shopper customer employee hiker nurse doctor waiter waitress chef""",
    Kind.ACT: """walk walking stroll strolling stride striding jog jogging run running stand standing stands sit sitting
        sits lean leaning bend bending crouch crouching squat squatting kneel kneeling look looking looks gaze
        gazing stare staring glance glancing facing faces turn turning turned talk talking chat chatting speak
        speaking call calling text texting read reading smoke smoking eat eating drink drinking ride riding rides
        push pushing pushes crossing crosses wait waiting move moving stepping heading going goes come coming pose
        posing use using play playing listen listening check checking point pointing smiling laughing making wave
        waving hop hopping jump jumping dance dancing climb climbing hurry hurrying rush rushing march marching
        pass passing passes squint squinting chase chasing follow following watching photographing typing rest
        resting skateboarding cycling biking descending ascending approaching leaving""",
    Kind.TOP: "top",
    Kind.GARMENT: """t-shirt tshirt tee shirt blouse sweater pullover jumper hoodie hoody sweatshirt jersey polo vest
        waistcoat jacket coat overcoat parka blazer cardigan windbreaker anorak poncho cape cloak robe gown dress
        dresses frock skirt miniskirt kilt sari saree qipao cheongsam kimono hijab burqa suit tuxedo uniform outfit
        attire costume apparel garb clothes clothing garment jumpsuit romper overalls dungarees tracksuit
        sportswear trousers trouser pants pant jeans jean slacks shorts leggings legging tights stockings stocking
        pantyhose capris capri joggers jogger sweatpants chinos khakis corduroys culottes cargos bottoms camisole
        undershirt singlet tank bra underwear turtleneck crewneck shoe sneaker trainers boot bootie sandal slipper
        flip-flop flop flip-flops loafer heel stiletto pump moccasin clog flats oxfords cleat wedges footwear sock
        shoelace lace hat cap beanie beret helmet hood visor fedora turban bonnet headscarf headband band hairband
        hairclip hairpin barrette clip scarf shawl stole tie necktie bowtie belt sash glove mitten mask earmuff
        earphone headphone earbud headset earring necklace chain pendant jewelry jewellery bracelet bangle watch
        wristwatch smartwatch wristband armband ring brooch badge lanyard ribbon bow bag handbag backpack back-pack
        pack rucksack knapsack purse satchel tote clutch pouch wallet briefcase suitcase luggage schoolbag bookbag
        duffel duffle basket bucket pail box package parcel umbrella parasol bottle cup mug thermos tray sleeve
        collar cuff zipper button neckline hem lapel stripe check dot pattern print logo lettering letters emblem
        symbol graphic embroidery trim edge lining sole strap patch panel fabric material accessories accessory""",
    Kind.WEAR: """wear wearing wears wore dressed dressing clad clothed attired sporting dons donning carry carrying
        carries hold holding holds grip gripping clutching grasp grasping grabbing pull pulling drag dragging drags
        toting lugging put puts putting swinging""",
    Kind.BODY: """hand finger arm forearm elbow shoulder wrist head face neck chest torso waist hip back leg knee thigh
        ankle foot feet toe ear eye eyebrow nose mouth lip cheek cheekbone chin jaw forehead lap body side profile""",
    Kind.THING: """phone cellphone smartphone telephone mobile cell book magazine newspaper notebook paper document
        camera tablet laptop cigarette food toy ball flower cane crutch stick key card pocket""",
    Kind.TRAIT: """young old elderly middle-aged aged tall bald balding slim skinny slender chubby plump overweight fat
        obese stocky stout heavy-set heavyset muscular burly lean petite lanky strong athletic haired short-haired
        long-haired dark-haired bearded skinned asian caucasian african black-haired blonde blond brunette curly
        bespectacled shaven barefoot pregnant tattooed bike bicycle motorcycle motorbike scooter stroller pram
        pushchair wheelchair cart year years built year-old years-old""",
    Kind.MAKE: """striped checked checkered chequered sleeved sleeveless long-sleeve short-sleeve hooded denim
        leather cotton woolen woollen wool knitted knit floral patterned printed dotted polka camouflage camo
        padded quilted zipped unzipped buttoned unbuttoned tucked untucked slung draped hanging hangs strapped
        ripped pleated v-neck laced heeled""",
    Kind.COLOUR: """black white grey gray red blue green yellow orange purple pink brown beige tan khaki navy maroon
        cream teal turquoise violet olive gold golden silver dark bright colorful colourful pale multicolored""",
    Kind.JOIN: "and or but plus then so also too",
    Kind.WHICH: "who whose whom which that while when where as",
    Kind.BE: """is are was were be been being am does do did can could seems seem appears appear there will would may
        might""",
    Kind.HE: "he she he's she's he’s she’s",
    Kind.IT: "it they it's they're we i",
    Kind.NOT: "not never neither nor cannot",
    Kind.THE: """a an the his her their its this these those my your our another each both no any some one two three
        several""",
    Kind.HAVE: "has have having had",
    Kind.WITH: "with without",
    Kind.IN: "in",
    Kind.AT: """on at over around across under underneath beneath behind beside from against by near along through into
        onto between above below covering hiding shading atop""",
    Kind.PLAIN: "shoulders chair",  # exceptions to the rules of `english_kind`
}

CHINESE = {
    Kind.PERSON: """男子 女子 男人 女人 男性 女性 男士 女士 男生 女生 男孩 女孩 小男孩 小女孩 男青年 女青年 少年 少女
        老人 老年人 老奶奶 老爷爷 老太太 老头 奶奶 爷爷 大叔 大妈 大爷 大婶 阿姨 叔叔 小伙子 小伙 姑娘 美女 帅哥
        孩子 小孩 儿童 婴儿 宝宝 学生 路人 行人 人物 人 妈妈 爸爸 母亲 父亲 同伴 朋友 男 女 工人 保安 警察 员工
        人员 员 护工 司机 厨师 护士 医生 老师 肚子 啤酒肚 头发 短发 长发 卷发 黑发 白发 金发 直发 中发 中长发
        披肩发 马尾 马尾辫 辫子 麻花辫 双马尾 刘海 齐刘海 光头 秃顶 秃头 寸头 平头 板寸 丸子头 发髻 发型 发色 发
        胡子 胡须 胡茬 眼镜 墨镜 太阳镜 老花镜 镜框 眼睛 皮肤 肤色 脸 脸型 脸庞 面部 面容 圆脸 五官 表情 身材 体型
        体格 身高 身形 个子 个头 年龄 年纪 岁 皱纹 姿势 步伐 步态 目光 视线 狗""",
    Kind.ACT: """走 走着 走路 走在 走向 行走 步行 散步 前行 站 站着 站在 站立 坐 坐着 坐在 跑 跑步 奔跑 骑 骑着 骑车 推
        推着 看 看着 看向 看手机 低头 低着头 抬头 回头 转头 侧头 侧身 弯腰 蹲 蹲着 面向 面对 面朝 背对 背对着 朝着
        打电话 接电话 玩手机 说话 交谈 聊天 抽烟 吸烟 喝水 吃东西 拄 拄着 插兜 插着 插在 插 过马路 微笑 笑 望 望向
        注视 牵 牵着 等 等待 看不清 挽着手 转身 前进 迈步 逛街 驼背 正对 正对着 对着 朝向""",
    Kind.GARMENT: """衣服 上衣 外套 夹克 大衣 风衣 羽绒服 棉服 棉衣 棉袄 卫衣 毛衣 针织衫 开衫 衬衫 衬衣 短袖 长袖 背心
        马甲 西装 西服 西裤 校服 制服 工作服 工装 运动服 运动衣 冲锋衣 防晒衣 皮衣 连衣裙 长裙 短裙 半身裙 裙子 裙
        旗袍 吊带 打底衫 内衬 内搭 裤子 长裤 短裤 牛仔裤 运动裤 休闲裤 阔腿裤 紧身裤 打底裤 裤 裤腿 裤脚 鞋 鞋子
        运动鞋 帆布鞋 皮鞋 高跟鞋 凉鞋 拖鞋 布鞋 板鞋 靴 靴子 短靴 长靴 袜 袜子 长袜 丝袜 帽 帽子 鸭舌帽 棒球帽
        草帽 头盔 头巾 口罩 围巾 丝巾 手套 领带 领结 皮带 腰带 项链 耳环 耳机 手表 手链 手镯 发卡 发带 发箍 胸牌
        工牌 包 背包 书包 双肩包 单肩包 斜挎包 挎包 手提包 手提袋 提包 公文包 女包 男包 钱包 腰包 袋 袋子 塑料袋
        购物袋 行李箱 拉杆箱 箱子 箱 盒子 雨伞 遮阳伞 伞 水杯 杯子 水壶 瓶子 瓶 饮料 条纹 格子 碎花 印花 花纹 图案
        字样 字母 标志 图标 袖 袖子 袖口 领 领口 衣领 毛领 圆领 翻领 拉链 纽扣 扣子 鞋底 鞋带 肩带 花边 镶边 衣 衫
        恤 服 袍 带子 丝带 蝴蝶结 发饰 头饰 围裙 雨衣 徽章 吊牌 装饰 女装 男装 女鞋 男鞋 男士背包 女士背包 穿搭
        服装 着装 女裤 男裤 套装 套头衫 球鞋 球衣 人字拖 发圈 发绳 头绳 背带裤 背带""",
    Kind.WEAR: """穿 穿着 穿了 身穿 身着 上穿 下穿 外穿 内穿 脚穿 脚踩 踩着 头戴 戴 戴着 戴了 佩戴 背着 背了 身背 肩背
        斜挎 斜挎着 挎 挎着 拿 拿着 拿了 手拿 手持 手提 手拎 提 提着 拎 拎着 系 系着 围 围着 披 披着 披了 套 套着
        外搭 撑 撑着 打着 打伞 抱 抱着 拖 拖着 拉着 举着 捧着 携带 夹着 扛着 挂着 带着 搭着 挽着 脚蹬 握着 印有
        印着 绣着""",
    Kind.BODY: """手 手里 手中 手上 左手 右手 双手 一手 手臂 左臂 右臂 胳膊 肩 肩上 肩膀 左肩 右肩 肩头 头 头上 头部 脚
        脚上 脚下 双脚 腿 腿上 双腿 腰 腰间 腰上 脖子 颈 颈部 脖子上 胸前 胸口 背 背上 背部 背后 身后 身上 耳朵
        手腕 怀里 怀中 臂弯 口袋 嘴""",
    Kind.THING: "手机 电话 书 本子 报纸 水 文件 相机 香烟 拐杖 手杖 玩具 球 花",
    Kind.TRAIT: """一名 一位 这位 这名 该名 年轻 青年 中年 老年 年老 苗条 偏瘦 偏胖 微胖 瘦 胖 高大 高挑 瘦高 瘦小 矮小
        魁梧 强壮 中等 自行车 电动车 摩托车 电瓶车 婴儿车 轮椅 滑板 花白 看起来 白皙 披肩""",
    Kind.MAKE: """上身 下身 上半身 下半身 里面 外面 内里 牛仔 皮质 针织 连帽 无袖 露出 宽松 修身 敞开 女式 男式
        女款 男款""",
    Kind.COLOUR: "黑色 白色 灰色 红色 蓝色 绿色 黄色 橙色 紫色 粉色 棕色 米色 深色 浅色 卡其色",
    Kind.JOIN: "和 与 及 以及 并 并且 而且 且 同时 还 也",
    Kind.BE: "是 为 了 着 正 正在 地",
    Kind.HE: "他 她",
    Kind.IT: "它 它们",
    Kind.NOT: "没 没有 未 并未 不",
    Kind.THE: "这个 那个 一个 一件 一条 一双 一顶 一副 一只 一把 一款 一辆 一块 一张 两条 两个 他的 她的",
    Kind.HAVE: "有 有着 留 留着 扎着 梳着 扎 梳",
    Kind.WITH: "搭配 配 配上 搭 配有 带有",
    Kind.AT: "在",
    Kind.OF: "的",
    # Words that contain a listed one by chance, as 镜头 (camera lens) contains 头 (head).
    Kind.PLAIN: "镜头 摄像头 正面 街头 石头 木头 尖头 圆头 背景 其他 其它 人行道 扶手 手推车 及膝 不同 发白 发光 发现",
}


def _by_word(lists: Mapping[Kind, str]) -> dict[str, Kind]:
    return {word: kind for kind, words in lists.items() for word in words.split()}


_ENGLISH = _by_word(ENGLISH)
_CHINESE = _by_word(CHINESE)
_MAX_LENGTH = {word[0]: len(word) for word in sorted(_CHINESE, key=len)}  # by first character
_SUFFIXES = {
    Kind.GARMENT: ("shirt", "coat", "pants", "jacket", "shoes", "boots", "bag", "dress", "suit", "wear", "jeans"),
    Kind.PERSON: ("woman", "man", "girl", "boy", "hair", "glasses"),
    Kind.TRAIT: ("haired", "skinned", "bearded"),
    Kind.MAKE: ("sleeved", "sleeve", "striped", "colored", "coloured"),
}


@lru_cache(maxsize=8192)
def english_kind(word: str) -> Kind:
    """The kind of a lower-case word: its own, that of its singular, or that of its last part."""
    kind = _ENGLISH.get(word) or _kind_of_singular(word)
    if kind:
        return kind
    if word.endswith(("'s", "’s")):
        return Kind.OWNER if english_kind(word[:-2]) == Kind.PERSON else Kind.PLAIN
    if word.endswith(("n't", "n’t")):
        return Kind.NOT
    if "-" in word:
        last = english_kind(word.rpartition("-")[2])
        return last if last in (Kind.PERSON, Kind.GARMENT, Kind.TRAIT, Kind.MAKE, Kind.COLOUR) else Kind.PLAIN
    return next((kind for kind, suffixes in _SUFFIXES.items() if word.endswith(suffixes)), Kind.PLAIN)


def _kind_of_singular(word: str) -> Kind | None:
    for ending in ("s", "es"):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            kind = _ENGLISH.get(word[: -len(ending)])
            if kind in (Kind.PERSON, Kind.ACT, Kind.GARMENT, Kind.TOP, Kind.WEAR, Kind.BODY, Kind.THING):
                return kind
    return None


def chinese_kinds(text: str) -> Iterator[tuple[Kind, int]]:
    """(kind, length) of each word in a run of Chinese characters, by longest match from the left."""
    start = 0
    while start < len(text):
        for length in range(min(_MAX_LENGTH.get(text[start], 1), len(text) - start), 0, -1):
            kind = _CHINESE.get(text[start : start + length])
            if kind or length == 1:
                yield kind or Kind.PLAIN, length
                start += length
                break
