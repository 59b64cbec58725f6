"""Text between markers of a page."""

import re
from collections.abc import Mapping, Sequence

from absl import flags

from strega_jax.errors import ConfigError

PAGE = flags.DEFINE_string("page", "", "Put what is printed in its places in this page.")


def put(page: str, tables: Mapping[str, Sequence[str]]) -> str:
    """The page with each table between `<!-- NAME -->` and `<!-- /NAME -->`. Raises ConfigError without a place."""
    for name, lines in tables.items():
        block = f"<!-- {name} -->\n" + "\n".join(lines) + f"\n<!-- /{name} -->"
        page, count = re.subn(f"<!-- {name} -->.*?<!-- /{name} -->", lambda _, b=block: b, page, flags=re.DOTALL)
        if count != 1:
            raise ConfigError(f"--page: {count} places <!-- {name} --> … <!-- /{name} -->, one is wanted")
    return page
