"""Gradient-free test-time adaptation: the weights stay frozen, the behaviour learns.

    chat = tta.wrap(model, tokenizer)
    reply = chat("Where is my parcel?")
    reply.correct("Ask for the tracking number first.")     # the next step already knows

Importing this package loads nothing heavy: every name below is fetched when it is first used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

# In a source checkout the parts lie beside this folder; installed, inside it.
# No `.resolve()`: it would follow the links of an editable install back out.
if not (Path(__file__).parent / "memory").is_dir():
    __path__.append(str(Path(__file__).parent.parent))

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tta.adapted import Adapted as Adapted
    from tta.adapted import wrap as wrap
    from tta.errors import TTAError as TTAError
    from tta.micro import bundled as bundled
    from tta.response import Response as Response
    from tta.stream import Stream as Stream
    from tta.types import EVERYONE as EVERYONE
    from tta.types import Choices as Choices
    from tta.types import Correction as Correction
    from tta.types import Edit as Edit
    from tta.types import Grammar as Grammar
    from tta.types import Health as Health
    from tta.types import Learned as Learned
    from tta.types import Meaning as Meaning
    from tta.types import Message as Message
    from tta.types import Note as Note
    from tta.types import Preference as Preference
    from tta.types import Rating as Rating
    from tta.types import Regex as Regex
    from tta.types import Rule as Rule
    from tta.types import Steps as Steps
    from tta.types import Text as Text
    from tta.types import UpTo as UpTo

_HOME = {
    "Adapted": "tta.adapted",
    "Choices": "tta.types",
    "EVERYONE": "tta.types",
    "Correction": "tta.types",
    "Edit": "tta.types",
    "Grammar": "tta.types",
    "Health": "tta.types",
    "Learned": "tta.types",
    "Meaning": "tta.types",
    "Message": "tta.types",
    "Note": "tta.types",
    "Preference": "tta.types",
    "Rating": "tta.types",
    "Regex": "tta.types",
    "Response": "tta.response",
    "Rule": "tta.types",
    "Steps": "tta.types",
    "Stream": "tta.stream",
    "TTAError": "tta.errors",
    "Text": "tta.types",
    "UpTo": "tta.types",
    "bundled": "tta.micro",
    "wrap": "tta.adapted",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'tta' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
