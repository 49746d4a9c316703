"""Pictures to train on, from wherever ``--data`` says: ``load`` and ``report``."""

from __future__ import annotations

import difflib
import itertools
import re
import stat
from dataclasses import replace
from pathlib import Path

from training.data.avatars import load_avatars
from training.data.folders import load_folder, load_zip, show_name
from training.data.identity import first_equal
from training.data.named import NAMES, load_named
from training.data.pictures import DataError, Pictures, Skipped
from training.data.store import Channels, to_grey

__all__ = ["DataError", "Pictures", "Skipped", "load", "report"]

SOURCES = ("avatars", *NAMES)
MAX_GROUPS = 8  # lines of a report: one a reason
MAX_EXAMPLES = 3
NAME_LENGTH = 60
MAX_SIBLINGS = 1000  # names compared with a misspelt one


def load(
    data: str,
    *,
    data_root: Path,
    image_size: int,
    channels: Channels,
    background: str,
    seed: int,
    workers: int,
    batch_size: int,
    cache: Path | None = None,
) -> Pictures:
    """Load the pictures that ``data`` names.

    Args:
        data: ``avatars``, a name that torchvision knows, a folder, or a zip. A folder that
            has such a name is given as ``./mnist``.
        data_root: where the named data sets lie.
        image_size: height and width, px.
        channels: ``auto`` is 1 when every usable picture is grey, else 3.
        background: ``"#rrggbb"`` behind transparent pictures.
        seed: chooses the avatars.
        workers: threads that decode.
        batch_size: the least number of usable pictures.
        cache: folder where decoded pictures are kept for the next run; None keeps none.

    Returns:
        uint8 (N, image_size, image_size, 1 or 3), N >= ``batch_size``; the same ones in the
        same order each time. It is known which of them are equal.

    Raises:
        DataError: nothing of that name, or too few usable pictures.
        ValueError: the colour is malformed.
    """
    path = Path(data).expanduser()
    if data == "avatars":
        pictures = load_avatars(image_size, background, seed)
        if channels == "1":
            pictures = Pictures(to_grey(pictures.images), pictures.source, pictures.labels)
    elif data in NAMES:
        pictures = load_named(
            data, data_root, image_size=image_size, channels=channels, background=background,
            workers=workers, cache=cache,
        )  # fmt: skip
    elif data and (mode := _mode(path)):
        is_zip = path.suffix.lower() == ".zip" and stat.S_ISREG(mode)
        if not is_zip and not stat.S_ISDIR(mode):
            raise DataError(
                f"{show_name(data)} is neither a folder nor a .zip; give one of those with pictures"
            )
        load_path = load_zip if is_zip else load_folder
        pictures = load_path(
            path, image_size=image_size, channels=channels, background=background,
            workers=workers, cache=cache,
        )  # fmt: skip
    else:
        raise DataError(_unknown(data, path))
    if len(pictures.images) < batch_size:
        raise DataError(_too_few(pictures, batch_size))
    return replace(pictures, equal=first_equal(pictures.images))


def report(pictures: Pictures) -> str:
    """What was loaded and what was left out, grouped by reason, in at most 12 lines."""
    count, height, width, channels = pictures.images.shape
    kind = "grey" if channels == 1 else "RGB"
    different = f" ({pictures.different:,} different)" if pictures.different < count else ""
    lines = [
        f"{count:,} pictures{different}, {height} x {width} px, {kind}, from "
        f"{show_name(pictures.source)}"
    ]
    remarks = pictures.remarks
    if remarks.enlarged:
        lines.append(
            f"warning: {remarks.enlarged:,} of them are smaller than that, the smallest "
            f"{remarks.smallest_px} px, and were enlarged: what is learned from them is a blur. "
            "Give larger pictures or a smaller --image-size"
        )
    if remarks.bare:
        lines.append(
            f"of {remarks.bare:,} only the pixels could be read, not what stands beside them, "
            "such as which way is up"
        )
    lines += _reasons(pictures.skipped)
    return "\n".join(lines)


def _reasons(skipped: list[Skipped]) -> list[str]:
    """``files left out``, then a line a reason, the commonest first."""
    if not skipped:
        return []
    groups: dict[str, list[Skipped]] = {}
    for item in skipped:  # "5 bytes not processed" and "7 bytes not processed" are one reason
        groups.setdefault(re.sub(r"\d+", "#", item.reason), []).append(item)
    ranked = sorted(groups.values(), key=len, reverse=True)
    shown = ranked if len(ranked) <= MAX_GROUPS else ranked[: MAX_GROUPS - 1]
    lines = [f"{len(skipped):,} left out:"]
    for group in shown:
        names = ", ".join(_shorten(item.name) for item in group[:MAX_EXAMPLES])
        more = ", ..." if len(group) > MAX_EXAMPLES else ""
        lines.append(f"  {len(group):,} x {group[0].reason} ({names}{more})")
    if len(shown) < len(ranked):
        rest = sum(map(len, ranked[len(shown) :]))
        lines.append(f"  {rest:,} x {len(ranked) - len(shown)} other reasons")
    return lines


def _shorten(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"...{name[3 - NAME_LENGTH :]}"


def _too_few(pictures: Pictures, batch_size: int) -> str:
    usable = len(pictures.images)
    found = usable + len(pictures.skipped)
    if usable >= 2:
        advice = f"Give more pictures, or lower --batch-size to {usable} or less"
    else:
        advice = (
            "All subfolders were searched for any kind of picture, known by its content and "
            "not by its name; give another folder or zip"
        )
    if pictures.hidden:
        hidden = (
            f"{pictures.hidden:,} files or folders were passed over as hidden: their names begin "
            "with a dot or are a system's, such as __MACOSX; rename those that are wanted"
        )
        advice = f"{advice}. {hidden}" if found else f"All {hidden}"
    lines = [
        f"{show_name(pictures.source)}: {found:,} files found, {usable:,} of them usable pictures; "
        f"one batch needs {batch_size:,}. {advice}"
    ]
    return "\n".join(lines + _reasons(pictures.skipped))


def _mode(path: Path) -> int:
    """What kind of file it is, 0 if there is none, also for names that cannot exist."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _unknown(data: str, path: Path) -> str:
    """Name what exists, the nearest first."""
    known = ", ".join(SOURCES)
    try:
        entries = [str(e) for e in itertools.islice(path.parent.iterdir(), MAX_SIBLINGS)]
        where = f"{path.parent.absolute()} has no {show_name(path.name)!r}"
    except OSError:
        entries = []
        last = next(p for p in path.absolute().parents if _mode(p))
        where = f"of that path only {last} exists"
    likely = {name.lower(): name for name in [*entries, *SOURCES]}
    near = [likely[key] for key in difflib.get_close_matches(data.lower(), likely, n=1)]
    hint = f" Did you mean {show_name(near[0])}?" if near else ""
    return (
        f"no data {show_name(data)!r}: not a folder, not a zip, not a known name ({known}); "
        f"{where}.{hint}"
    )
