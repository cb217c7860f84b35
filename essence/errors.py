"""Errors that are a person's to mend: one readable sentence each, shown as they are by the page and
the command line.
"""

from __future__ import annotations


class UserError(ValueError):
    """Something a person asked for cannot be done; the message says what was wrong and what to
    do.
    """


class UnreadableImage(UserError):
    """The file is no picture, or a broken one."""


class OversizedImage(UserError):
    """The picture has more pixels than is safe to decode."""


class NoFaceFound(UserError):
    """The detector saw no face."""


class EssenceMismatch(UserError):
    """An essence, or latents, made with one generator was given to another."""


class BadFile(UserError):
    """A model, essence or latents file that cannot be read as what it should be."""
