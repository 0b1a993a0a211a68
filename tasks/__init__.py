"""What kind of work a request is."""

from tta.tasks.infer import TaskInferer
from tta.tasks.profile import Profiles
from tta.tasks.regroup import Regroup
from tta.tasks.rewrite import Joined, Placed

__all__ = ["Joined", "Placed", "Profiles", "Regroup", "TaskInferer"]
