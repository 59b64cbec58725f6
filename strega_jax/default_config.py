"""The config used where none is named: every field at its default."""

from ml_collections import ConfigDict

from strega_jax.config import Run
from strega_jax.run_config import as_config


def get_config() -> ConfigDict:
    """See the module's docstring."""
    return as_config(Run())
