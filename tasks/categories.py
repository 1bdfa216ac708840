"""Category ids: COCO's eighty on their sparse 1…90, and what `--category-ids` asks for."""

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace

from storage import StorageError, get, shown
from tasks.environment import SettingError

CategoryId = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


class Category(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: CategoryId
    name: Name
    supercategory: str = ""


@cache
def coco80() -> tuple[Category, ...]:
    """COCO's of 2017 in the order of the networks' class index, on the ids that COCO left them."""
    listed = Path(__file__).parent / "zoo" / "coco80.json"
    return msgspec.json.decode(listed.read_bytes(), type=tuple[Category, ...])


def from_file(path: str, option: str, kind: Any) -> Any:
    """What the JSON file of an option holds."""
    try:
        return msgspec.json.decode(get(path), type=kind)
    except (StorageError, msgspec.DecodeError) as exc:
        raise SettingError(f"--{option} {shown(path)} cannot be read: {exc}") from exc


def renumber(categories: Sequence[Category], scheme: str) -> tuple[Category, ...]:
    """`coco91` gives COCO's sparse ids by name, `contiguous` 1…N in the model's order, else a JSON
    file's ids by name.
    """
    if scheme == "contiguous":
        return tuple(replace(each, id=number) for number, each in enumerate(categories, 1))
    if scheme == "coco91":
        id_by_name = {each.name: each.id for each in coco80()}
    else:
        id_by_name = from_file(scheme, "category-ids", dict[str, CategoryId])
    missing = next((each.name for each in categories if each.name not in id_by_name), None)
    if missing is not None:
        where = "COCO's 80 names" if scheme == "coco91" else shown(scheme)
        raise SettingError(f"the model's class {missing!r} is not among {where}")
    return tuple(replace(each, id=id_by_name[each.name]) for each in categories)


def mapped(
    categories: Sequence[Category], mapping: Mapping[str, int | str], *, allow_unmatched: bool
) -> tuple[tuple[Category, ...], tuple[int | None, ...]]:
    """The categories that a mapping leads to, and which of them each class becomes; None: dropped.

    Keys are names or ids of the model's classes, values names or ids of categories. Names that the
    model has keep its ids, new names are numbered after its highest; new ids take the class's name.
    """
    ids = _by_word(categories)
    wanted: dict[int, int | str] = {}
    for word, target in mapping.items():
        if allow_unmatched and word.strip().lower() not in ids:
            continue
        (number,) = ids_of(categories, [word])
        if number in wanted or target == "":
            raise SettingError(f"the category map names {word!r} twice, or gives it no name")
        wanted[number] = target
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
        raise SettingError("the category map gives one name to two ids")
    if not made:
        raise SettingError("the category map names no class of the model: nothing would be left")
    return tuple(made.values()), tuple(places)


def _by_word(categories: Sequence[Category]) -> dict[str, int]:
    """Ids by name in small letters, and by themselves in digits."""
    by_name = {each.name.lower(): each.id for each in categories}
    return by_name | {str(each.id): each.id for each in categories}


def ids_of(categories: Sequence[Category], wanted: Sequence[str]) -> tuple[int, ...]:
    """Category ids of names or ids, sorted, each once."""
    by_word = _by_word(categories)
    found = set()
    for word in wanted:
        key = word.strip().lower()
        if key not in by_word:
            near = difflib.get_close_matches(key, by_word, n=3)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise SettingError(f"the model has no class {word!r}{hint}")
        found.add(by_word[key])
    return tuple(sorted(found))
