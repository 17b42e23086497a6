"""One whole training in a folder."""

from typing import TYPE_CHECKING

from meanflow_core.faces import lazy_face

if TYPE_CHECKING:
    from meanflow_core.run.folder import RunFolder as RunFolder
    from meanflow_core.run.runner import train_in_folder as train_in_folder

__getattr__, __all__ = lazy_face(__name__, __file__)
