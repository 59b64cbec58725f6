"""The errors a user may see. Entry points print their text without a traceback and exit with 1."""


class StregaError(Exception):
    """Something the user can mend. The text names the file or field, the problem and the way out."""


class ScanError(StregaError):
    """A scan that cannot be read or that cannot be what it claims to be."""


class ConfigError(StregaError):
    """A setting outside its range, an unknown field, or settings that contradict each other."""


class StoreError(StregaError):
    """A slice store that is missing, incomplete, corrupted or made with other settings."""


class CheckpointError(StregaError):
    """A checkpoint that is missing, incomplete, or of another model."""
