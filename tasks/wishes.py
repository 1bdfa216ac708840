"""What a person asks of a run besides its inputs, and the settings that this comes to."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from tasks.cards import Compute, Model
from tasks.categories import Category, CategoryId, from_file, ids_of, mapped, renumber
from tasks.environment import SettingError, whole_number
from tasks.records import Choices, Index, Settings

ShardSize = Annotated[int, msgspec.Meta(ge=1, le=100_000)]


class Wishes(Choices, frozen=True, kw_only=True):
    """What was typed, besides the inputs and how they are selected."""

    model: str
    output: str
    classes: Annotated[tuple[str, ...], "Only these: names or ids, separated by commas."] = ()
    category_ids: Annotated[str, "coco91, contiguous or a JSON file of ids by name."] = ""
    category_map: Annotated[str, "A JSON file of names or ids by class; others drop out."] = ""
    allow_unmatched: Annotated[bool, "--category-map may name classes not in the model."] = False
    runtime: Annotated[str, "onnx, openvino or tflite; else what usually runs the build."] = ""
    precision: Annotated[Compute, "In what openvino computes a float model."] = "f32"
    mixed: bool = False
    shard_size: Annotated[ShardSize | None, "Images a shard; else 64, or 16 for boards."] = None
    max_failures: Annotated[Index, "Exit 3 with more failures (of submit: with --wait)."] = 0
    overwrite: Annotated[bool, "Start anew where the output holds a job."] = False
    replace_edited: bool = False
    upload: bool = False  # local inputs are copied to where workers on other machines see them …
    shared_paths: bool = False  # … or these see them, and the output, at the same paths


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
        raise SettingError("--allow-unmatched is about --category-map, which is not given")
    if wishes.category_map:
        mapping = from_file(wishes.category_map, "category-map", dict[str, CategoryId | str])
        categories, places = mapped(categories, mapping, allow_unmatched=wishes.allow_unmatched)
    if wishes.category_ids:
        categories = renumber(categories, wishes.category_ids)
    return categories, tuple(None if n is None else categories[n].id for n in places)
