"""The four ways in which a build or a run can fail, told apart because they end differently.

``InputError`` is the user's to mend and ends the command with exit code 2. The others belong to
one cell: they become that cell's row, with the status named here, and the run goes on.
"""

from __future__ import annotations


class InputError(ValueError):
    """Something the user wrote is wrong. The message names the file, the key and the way out."""


class Unsupported(RuntimeError):
    """This machine or a library cannot do it: row status ``unsupported``, with the reason."""


class Incorrect(RuntimeError):
    """An output is outside its declared tolerance. Row status ``incorrect``, never timed."""


class Corrupted(RuntimeError):
    """A stored file is not what its manifest says. The store removes it and builds it again."""
