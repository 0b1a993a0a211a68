"""What kind of work a request is."""

from tta.tasks.infer import TaskInferer
from tta.tasks.profile import Profiles

__all__ = ["Profiles", "TaskInferer"]
