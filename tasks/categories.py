"""Category ids: COCO's eighty on their sparse 1…90, and what `--category-ids` asks for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import msgspec


class Category(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: int
    name: str
    supercategory: str = ""


class UnknownClass(ValueError):
    """A class or category that the model does not have; the message names the first offender."""


# COCO 2017 in the order of the networks' class index. The ids left out by COCO are
# 12, 26, 29, 30, 45, 66, 68, 69, 71 and 83.
_COCO = {
    "person": "1 person",
    "vehicle": ("2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat"),
    "outdoor": "10 traffic light, 11 fire hydrant, 13 stop sign, 14 parking meter, 15 bench",
    "animal": (
        "16 bird, 17 cat, 18 dog, 19 horse, 20 sheep, 21 cow, 22 elephant, 23 bear, 24 zebra,"
        " 25 giraffe"
    ),
    "accessory": "27 backpack, 28 umbrella, 31 handbag, 32 tie, 33 suitcase",
    "sports": (
        "34 frisbee, 35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat,"
        " 40 baseball glove, 41 skateboard, 42 surfboard, 43 tennis racket"
    ),
    "kitchen": "44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl",
    "food": (
        "52 banana, 53 apple, 54 sandwich, 55 orange, 56 broccoli, 57 carrot, 58 hot dog,"
        " 59 pizza, 60 donut, 61 cake"
    ),
    "furniture": "62 chair, 63 couch, 64 potted plant, 65 bed, 67 dining table, 70 toilet",
    "electronic": "72 tv, 73 laptop, 74 mouse, 75 remote, 76 keyboard, 77 cell phone",
    "appliance": "78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator",
    "indoor": (
        "84 book, 85 clock, 86 vase, 87 scissors, 88 teddy bear, 89 hair drier, 90 toothbrush"
    ),
}


def coco80() -> tuple[Category, ...]:
    return tuple(
        Category(int(number), name, group)
        for group, row in _COCO.items()
        for number, _, name in (entry.strip().partition(" ") for entry in row.split(","))
    )


def renumber(categories: Sequence[Category], scheme: str) -> tuple[Category, ...]:
    """`coco91` gives COCO's sparse ids by name, `contiguous` 1…N in the model's order."""
    if scheme == "contiguous":
        return tuple(
            Category(number, each.name, each.supercategory)
            for number, each in enumerate(categories, 1)
        )
    return with_ids(categories, {each.name: each.id for each in coco80()}, "COCO's 80 names")


def with_ids(
    categories: Sequence[Category], id_by_name: dict[str, int], where: str
) -> tuple[Category, ...]:
    missing = next((each.name for each in categories if each.name not in id_by_name), None)
    if missing is not None:
        raise UnknownClass(f"the model's class {missing!r} is not among {where}")
    return tuple(
        Category(id_by_name[each.name], each.name, each.supercategory) for each in categories
    )


def mapped(
    categories: Sequence[Category], mapping: Mapping[str, int | str], *, allow_unmatched: bool
) -> tuple[tuple[Category, ...], tuple[int | None, ...]]:
    """The categories that a mapping leads to, and which of them each class becomes; None: dropped.

    Keys are names or ids of the model's classes, values names or ids of categories. Names that the
    model has keep its ids, new names are numbered after its highest; new ids take the class's name.
    """
    wanted: dict[int, int | str] = {}
    for word, target in mapping.items():
        try:
            (number,) = ids_of(categories, [word])
        except UnknownClass:
            if not allow_unmatched:
                raise
            continue
        if number in wanted or target == "":
            raise UnknownClass(f"the category map names {word!r} twice, or gives it no name")
        wanted[number] = target
    ids = {each.name.lower(): each.id for each in categories}
    ids |= {str(each.id): each.id for each in categories}
    names = {each.id: each for each in categories}
    highest = max([*names, *(each for each in wanted.values() if isinstance(each, int))])
    made: dict[int, Category] = {}
    places: list[int | None] = []
    for each in categories:
        if each.id not in wanted:
            places.append(None)
            continue
        target = wanted[each.id]
        if isinstance(target, str):
            number = ids.setdefault(target.lower(), max(highest, *ids.values()) + 1)
        else:
            number, target = target, each.name
        made.setdefault(number, names.get(number, Category(number, target)))
        places.append(list(made).index(number))
    if len({each.name for each in made.values()}) < len(made):
        raise UnknownClass("the category map gives one name to two ids")
    if not made:
        raise UnknownClass("the category map names no class of the model: nothing would be left")
    return tuple(made.values()), tuple(places)


def ids_of(categories: Sequence[Category], wanted: Sequence[str]) -> tuple[int, ...]:
    """Category ids of names or ids, sorted, each once."""
    by_word = {each.name.lower(): each.id for each in categories}
    by_word |= {str(each.id): each.id for each in categories}
    found = set()
    for word in wanted:
        key = word.strip().lower()
        if key not in by_word:
            near = difflib.get_close_matches(key, by_word, n=3)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise UnknownClass(f"the model has no class {word!r}{hint}")
        found.add(by_word[key])
    return tuple(sorted(found))
