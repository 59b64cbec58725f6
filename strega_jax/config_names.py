"""Configs by name: `--config=strega` is the file of that name that comes with the package."""

from pathlib import Path

from strega_jax.errors import ConfigError

# In the wheel they lie in the package, in the source tree beside it.
FOLDERS = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")


def config_names() -> list[str]:
    """The names of the configs that come with the package."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), None)
    return sorted(path.stem for path in folder.glob("*.py")) if folder else []


def config_file(text: str) -> str:
    """`NAME`, `NAME:ARGUMENT` or a path of a config → a path, with the argument as it was.

    Raises:
        ConfigError: neither a config of the package nor a file.
    """
    name, colon, argument = text.partition(":")
    if Path(name).is_file():
        return text
    for folder in FOLDERS:
        path = folder / f"{Path(name).stem}.py"
        # `configs/NAME.py` as well: what the documentation of a source tree says works with a wheel too.
        if path.is_file() and name in (path.stem, f"configs/{path.name}"):
            return f"{path}{colon}{argument}"
    raise ConfigError(f"--config={text}: no such file, nor one of the package's: {', '.join(config_names())}")
