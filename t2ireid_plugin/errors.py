"""Errors a user can mend.

The command line prints them as one line and leaves with status 2; anything else is a defect of ours and
keeps its traceback. Each class is also the built-in that fits, so library users can catch either.
"""


class T2IReIDError(Exception):
    """Base of every error whose message says what to change."""


class ConfigError(T2IReIDError, ValueError):
    """A configuration key or value that does not exist or cannot work."""


class DataError(T2IReIDError, ValueError):
    """A dataset, annotation, image or text that is missing, unreadable or contradictory."""


class CheckpointError(T2IReIDError, RuntimeError):
    """A weights file that is damaged, foreign, unsafe or matches nothing."""


class EncoderError(T2IReIDError, OSError):
    """A pretrained encoder or tokenizer that cannot be found or does not fit."""


class InputError(T2IReIDError, ValueError):
    """Images or texts of a shape or type that the model does not take."""


class DependencyError(T2IReIDError, ImportError):
    """A package that is needed for what was asked, and cannot be imported."""
