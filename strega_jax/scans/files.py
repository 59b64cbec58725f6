"""Files that appear whole or not at all, on a disk or in a bucket (gs://…)."""

import contextlib
import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strega_jax.errors import ConfigError

if TYPE_CHECKING:  # an exported model runs where etils is not installed
    from etils import epath

PathLike = str | os.PathLike[str]
UNFINISHED = ".writing-"  # begins the name of a folder whose files are not complete yet


def in_bucket(path: PathLike) -> bool:
    """Whether `path` is an address, such as gs://BUCKET/run, and no path on a disk."""
    return "://" in os.fspath(path)


def absolute(path: PathLike) -> "epath.Path":
    """A path on a disk made absolute, an address as it is.

    Raises:
        ConfigError: an address other than gs://, or what reads those is not installed.
    """
    from etils import epath

    if not in_bucket(path):
        return epath.Path(path).resolve()
    if not os.fspath(path).startswith("gs://"):
        raise ConfigError(f"{os.fspath(path)}: of all addresses only gs://BUCKET/… can be read and written")
    if importlib.util.find_spec("gcsfs") is None:
        raise ConfigError(f'{os.fspath(path)}: reading gs:// needs gcsfs: python -m pip install "strega-jax[gcs]"')
    from fsspec.config import conf

    # What another process wrote, or Orbax past gcsfs, must be seen at once.
    conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return epath.Path(path)


def find_beside(checkpoint: PathLike, name: str) -> "epath.Path | None":
    """The file `name` of a workdir, given that, its checkpoints folder or one of its steps; None without one."""
    place = absolute(checkpoint)
    return next((f / name for f in (place, *list(place.parents)[:2]) if (f / name).exists()), None)


def copy_files(folder: Path, target: "epath.Path") -> None:
    """Copy all files below `folder` to the same places below `target`."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        copy = target / path.relative_to(folder).as_posix()
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def walk_files(root: Path) -> list[Path]:
    """Every file below `root`, sorted; links are followed, each folder is entered once; hidden ones are left out."""
    files, entered = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in entered:
            subfolders.clear()
            continue
        entered.add(place)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(path for path in files if path.is_file())


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Give a temporary path of the same name; what was written there becomes `path` when the block ends well."""
    path = Path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=UNFINISHED) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


@contextlib.contextmanager
def appearing_in(
    folder: PathLike, *, last: str | None = None, before: Callable[[], None] | None = None
) -> Iterator[Path]:
    """Give a temporary folder; the files written there move to `folder` together when the block ends well.

    Args:
        folder: made if need be.
        last: name of the file that moves last.
        before: is called when all is written, before the first file moves.

    Raises:
        OSError: a file cannot be moved; those moved before it are removed again.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as name:
        temporary = Path(name)
        yield temporary
        if before is not None:
            before()
        moved: list[Path] = []
        try:
            for path in sorted(temporary.iterdir(), key=lambda path: (path.name == last, path.name)):
                os.replace(path, folder / path.name)
                moved.append(folder / path.name)
        except BaseException:
            for path in moved:
                path.unlink(missing_ok=True)
            raise


def write_json(path: PathLike, content: Any) -> None:
    """Write `content` as indented JSON, to a disk or a bucket."""
    text = json.dumps(content, indent=2) + "\n"
    if in_bucket(path):
        absolute(path).write_text(text)  # an object appears whole or not at all
        return
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tsv(path: PathLike, rows: list[dict[str, str]]) -> None:
    """Write rows, all with the same columns, as a tab-separated table with a header."""
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
