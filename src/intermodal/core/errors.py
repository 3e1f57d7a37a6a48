"""Errors that a person can act on.

Each message says what was expected, what was found and what to do, in one or two sentences. The command line prints
the message alone and exits with ``exit_code``; a traceback is for defects of the library, not for a person's input.
"""


class IntermodalError(Exception):
    """Base of every error that the library raises about its input."""

    exit_code = 2


class ConfigError(IntermodalError):
    """A configuration that names an unknown key, holds a wrong value or cannot be read back."""


class DataError(IntermodalError):
    """Data that is missing, unreadable or lacks what the method needs; the message names the file."""


class CheckpointError(IntermodalError):
    """A checkpoint that is incomplete, altered, of another format or for another model."""


class MissingExtraError(IntermodalError):
    """An optional part is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f'This needs the package {package!r}, which is not installed: run `pip install "intermodal[{extra}]"`.'
        )


class TrainingError(IntermodalError):
    """Training that cannot go on (a loss that is not a number, a disk that is full)."""

    exit_code = 3
