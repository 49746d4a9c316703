"""Pictures to train on, from wherever ``--data`` says: ``load`` and ``report``.

Folders and zips may be flat or nested. Nothing is unpacked, no link to a folder is followed, and no
pipe or device is opened. Hidden files, the litter of desktops and the cache's own files are passed
over, so it may lie in between; every other file that is not used, and the folder of every run, is
listed with its reason.
"""

from __future__ import annotations

import difflib
import io
import itertools
import os
import re
import stat
import zipfile
from dataclasses import replace
from pathlib import Path

from training.data.avatars import load_avatars
from training.data.batches import first_equal
from training.data.cache import KEPT, decode_all, state_of, to_grey
from training.data.decode import (
    DataError,
    Decoded,
    Pictures,
    PictureSpec,
    Skipped,
    UnusablePictureError,
    decode,
    reasons,
)
from training.data.named import NAMES, load_named
from training.files import LOCK

SOURCES = ("avatars", *NAMES)
MAX_GROUPS = 8  # lines of a report: one a reason
MAX_EXAMPLES = 3
NAME_LENGTH = 60
MAX_SIBLINGS = 1000  # names compared with a misspelt one
# In lower case; .DS_Store and the like are hidden anyway. @eaDir and $RECYCLE.BIN hold other sizes
# of the pictures beside them, and deleted ones; a run locks its folder before it has any file.
LITTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", LOCK}
A_RUN = "folder of a run: what it drew is nothing to train on"
OF_A_RUN = ("config.json", "pictures.json", "stats.jsonl")  # by these together it is known
MAX_MEMBER_BYTES = 256 * 1024 * 1024
ENCRYPTED = 0x1  # bit of a member's flags, APPNOTE.TXT 4.4.4
AES = 99  # instead of a method of packing, APPNOTE.TXT 4.4.5
UNPACKED = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd"}


def load(spec: PictureSpec, least: int = 1) -> Pictures:
    """Load the pictures that ``spec.data`` names.

    Args:
        spec: of its ``data`` a folder that has the name of a data set is given as ``./mnist``.
        least: the least number of usable pictures.

    Returns:
        uint8 (N, image_size, image_size, 1 or 3), N >= ``least``; the same ones in the same order
        each time. It is known which of them are equal.

    Raises:
        DataError: nothing of that name, or too few usable pictures.
    """
    data, path = spec.data, Path(spec.data).expanduser()
    if data == "avatars":
        pictures = load_avatars(spec.image_size, spec.background, spec.seed)
        if spec.channels == "1":
            pictures = replace(pictures, images=to_grey(pictures.images))
    elif data in NAMES:
        pictures = load_named(spec)
    elif data and (mode := _mode(path)):
        is_zip = path.suffix.lower() == ".zip" and stat.S_ISREG(mode)
        if not is_zip and not stat.S_ISDIR(mode):
            raise DataError(
                f"{show_name(data)} is neither a folder nor a .zip; give one of those with pictures"
            )
        pictures = (load_zip if is_zip else load_folder)(path, spec)
    else:
        raise DataError(_unknown(data, path))
    if len(pictures.images) < least:
        raise DataError(_too_few(pictures, least))
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
    if pictures.enlarged:
        lines.append(
            f"warning: {pictures.enlarged:,} of them are smaller than that, the smallest "
            f"{pictures.smallest_px} px, and were enlarged: what is learned from them is a blur. "
            "Give larger pictures or a smaller --image-size"
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


def load_folder(path: Path, spec: PictureSpec) -> Pictures:
    """All usable pictures below ``path``, in the order of their names.

    Returns:
        uint8 (N, image_size, image_size, C), N possibly 0.

    Raises:
        DataError: the pictures do not fit on the disk.
    """
    files, left_out, hidden = _find(path)

    def decode_one(name: str) -> Decoded:
        with reasons(), (path / name).open("rb") as file:
            return decode(file, spec)

    pictures = decode_all(list(files), decode_one, show_name, spec, path, files.values())
    return replace(pictures, skipped=left_out + pictures.skipped, hidden=hidden)


def load_zip(path: Path, spec: PictureSpec) -> Pictures:
    """All usable pictures in the zip ``path``, in the order of their names.

    Returns and errors are those of ``load_folder``.

    Raises:
        DataError: also when the zip itself cannot be read.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # noqa: BLE001 - zipfile raises struct.error and more on damage
        raise DataError(
            f"{path} cannot be read as a zip ({str(error) or type(error).__name__}); "
            "download or pack it again, or give the unpacked folder"
        ) from None
    with archive:
        files = [m for m in archive.infolist() if not _slashed(m).endswith("/")]
        members = [m for m in files if not _is_litter(*_slashed(m).split("/"))]
        members.sort(key=_slashed)  # as the unpacked folder is
        hidden = len(files) - len(members)
        runs = _runs_among({_slashed(member) for member in members})
        members = [member for member in members if not _slashed(member).startswith(runs)]
        left_out = [Skipped(show_name(run.rstrip("/") or "."), A_RUN) for run in runs]
        locked = {_locked(member) for member in members}
        if len(locked) == 1 and (reason := locked.pop()):
            raise DataError(f"{path}: all {len(members):,} files in it are {reason}")

        def decode_one(member: zipfile.ZipInfo) -> Decoded:
            if reason := _locked(member):
                raise UnusablePictureError(reason)
            if member.file_size > MAX_MEMBER_BYTES:
                raise UnusablePictureError(
                    f"more than {MAX_MEMBER_BYTES // 2**20} MiB when unpacked"
                )
            with reasons():
                data = archive.read(member)  # never more than file_size
            return decode(io.BytesIO(data), spec)

        pictures = decode_all(
            members,
            decode_one,
            lambda member: show_name(member.filename),
            spec,
            path,
            [state_of(path.stat())],
        )
    return replace(pictures, skipped=left_out + pictures.skipped, hidden=hidden)


def _slashed(member: zipfile.ZipInfo) -> str:
    """Its name; Windows separates folders by backslashes, which zips should not hold."""
    return member.filename.replace("\\", "/")


def _locked(member: zipfile.ZipInfo) -> str:
    """Why it cannot be unpacked here, and what to do; empty if it can."""
    if member.flag_bits & ENCRYPTED or member.compress_type == AES:
        return "encrypted; pack it without a password"
    if member.compress_type in UNPACKED:
        return ""
    method = METHODS.get(member.compress_type, f"method {member.compress_type}")
    return f"packed by {method}, which is not read here; pack it by Deflate or give the folder"


def show_name(name: str) -> str:
    """A file name in one printable line; bytes that are not UTF-8 become ``\\xNN``."""
    return "".join(
        # A lone byte is read as a character from U+DC80 on.
        c if c.isprintable() else c.encode("unicode_escape").decode().replace(r"\udc", r"\x")
        for c in name
    )


def _find(root: Path) -> tuple[dict[str, str], list[Skipped], int]:
    """Regular files, the rest, and how many were passed over.

    Returns:
        name relative to ``root`` -> name and state, sorted by the bytes of the name.
    """
    hidden = 0
    files_found: dict[str, str] = {}
    left_out: list[Skipped] = []

    def leave_out(full: Path, reason: str) -> None:
        left_out.append(Skipped(show_name(str(full.relative_to(root))), reason))

    def refused(error: OSError) -> None:
        leave_out(Path(error.filename), f"folder not readable: {error.strerror}")

    # Plain strings: with hundreds of thousands of files, paths would take most of the time.
    start = len(os.path.join(root, ""))  # noqa: PTH118
    for folder, folders, files in os.walk(root, onerror=refused):
        if set(OF_A_RUN) <= {*files}:
            leave_out(Path(folder), A_RUN)
            folders.clear()
            continue
        hidden += sum(map(_is_litter, [*folders, *files]))
        folders[:] = sorted(name for name in folders if not _is_litter(name))
        for name in folders:
            full = Path(folder, name)
            if full.is_symlink():
                leave_out(full, "link to a folder, not followed; give that folder itself")
        for name in sorted(files):
            if _is_litter(name):
                continue
            full_name = os.path.join(folder, name)  # noqa: PTH118
            found = _look_at(full_name)
            if isinstance(found, str):
                leave_out(Path(full_name), found)
            else:
                relative = full_name[start:]
                files_found[relative] = f"{relative} {state_of(found)}"
    by_name = dict(sorted(files_found.items(), key=lambda item: os.fsencode(item[0])))
    return by_name, left_out, hidden


def _look_at(full_name: str) -> os.stat_result | str:
    """A regular file (or a link to one), or the reason not to open it."""
    try:
        status = os.stat(full_name)  # noqa: PTH116
    except OSError as error:
        is_link = Path(full_name).is_symlink()
        return f"broken link ({error.strerror})" if is_link else str(error.strerror)
    return status if stat.S_ISREG(status.st_mode) else "a pipe, a socket or a device, no picture"


def _runs_among(names: set[str]) -> tuple[str, ...]:
    """The folders of runs in a zip, as the beginnings of the names in it."""
    folders = {name.removesuffix(OF_A_RUN[0]) for name in names if name.endswith(OF_A_RUN[0])}
    return tuple(sorted(f for f in folders if {f + name for name in OF_A_RUN} <= names))


def _is_litter(*parts: str) -> bool:
    """Of the parts of a path."""
    return any(
        part.lower() in LITTER
        or (part[:1] == "." and part not in (".", ".."))
        or KEPT.fullmatch(part)
        for part in parts
    )
