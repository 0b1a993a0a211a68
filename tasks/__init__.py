"""What kind of work a request is."""

from tta.tasks.infer import TaskInferer
from tta.tasks.profile import Profiles
from tta.tasks.regroup import Regroup

__all__ = ["Profiles", "Regroup", "TaskInferer"]
