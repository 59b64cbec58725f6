"""JAX's threads do not survive a fork: a child that uses it again would wait for them for ever."""

import os

from strega_jax.errors import ConfigError

_user: list[int] = []  # the process that used JAX first


def require_own_process() -> None:
    """Note that this process uses JAX. Raises ConfigError in a process forked from one that did."""
    if not _user:
        _user.append(os.getpid())
    elif _user[0] != os.getpid():
        raise ConfigError(
            "this process was forked from one that has used JAX, whose threads do not survive that. Start workers with "
            "multiprocessing.get_context('spawn'), or let one process do many scans (strega_jax.predict overlaps them)"
        )
