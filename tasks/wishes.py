"""What a person asks of a run besides its inputs, and the settings that this comes to."""

from collections.abc import Sequence

from tasks.cards import Compute, Model, Positive
from tasks.categories import Category, CategoryId, UnknownClass, from_file, ids_of, mapped, renumber
from tasks.environment import whole_number
from tasks.opening import Sources, ask, usual_shard_size
from tasks.records import Asked, Choices, Settings


class Wishes(Choices, frozen=True, kw_only=True):
    """What was typed, besides the inputs and how they are selected."""

    model: str
    output: str
    classes: Sequence[str] = ()
    category_ids: str = ""
    category_map: str = ""
    allow_unmatched: bool = False
    runtime: str = ""
    precision: Compute = "f32"
    mixed: bool = False
    shard_size: Positive | None = None
    max_failures: int = 0
    overwrite: bool = False
    replace_edited: bool = False


def asked_for(
    given: Sources, models: Sequence[Model], wishes: Wishes, target: str = "any"
) -> Asked:
    """All of it, as a job has it."""
    size = wishes.shard_size or usual_shard_size(models, target)
    return ask(given, models, settings_of(models[0], wishes), size)


def settings_of(model: Model, wishes: Wishes) -> Settings:
    categories, class_ids = _categories(model, wishes)
    return Settings(
        **{name: getattr(wishes, name) for name in Choices.__struct_fields__},
        categories=categories,
        class_ids=class_ids,
        keep=ids_of(categories, wishes.classes),
        max_bytes=whole_number("MASKMILL_MAX_BYTES", 256 << 20, 1),
        max_pixels=whole_number("MASKMILL_MAX_PIXELS", 100_000_000, 1),
        max_video_bytes=whole_number("MASKMILL_MAX_VIDEO_BYTES", 2 << 30, 1),
    )


def _categories(
    model: Model, wishes: Wishes
) -> tuple[tuple[Category, ...], tuple[int | None, ...]]:
    """The dataset's categories, and the id that each class of the network gets."""
    categories = model.card.category_list()
    places: Sequence[int | None] = range(len(categories))
    if wishes.allow_unmatched and not wishes.category_map:
        raise UnknownClass("--allow-unmatched is about --category-map, which is not given")
    if wishes.category_map:
        mapping = from_file(wishes.category_map, "category-map", dict[str, CategoryId | str])
        categories, places = mapped(categories, mapping, allow_unmatched=wishes.allow_unmatched)
    if wishes.category_ids:
        categories = renumber(categories, wishes.category_ids)
    return categories, tuple(None if n is None else categories[n].id for n in places)
