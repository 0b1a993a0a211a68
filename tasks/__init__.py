"""What kind of work a request is."""

from tta.tasks.infer import TaskInferer

__all__ = ["TaskInferer"]
