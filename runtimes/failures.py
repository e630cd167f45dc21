"""How a worker can fail its parent."""

from __future__ import annotations


class WorkerError(RuntimeError):
    """The runtime raised something of its own, or its process failed. One line says what."""


class WorkerCrashed(WorkerError):
    """The process is gone. The message names the signal or the exit code and its last words."""


class WorkerTimeout(WorkerError):
    """No answer in time. The worker and whatever it started have been killed."""


class WorkerOutOfMemory(WorkerError):
    """Memory ran out: an allocation was refused, or the kernel killed the worker for its size."""
