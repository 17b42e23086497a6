"""The table of a running sweep in a notebook: one output that is redrawn. Needs IPython, which a notebook has."""

from __future__ import annotations

import io
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 100
FORM = '<pre style="white-space:pre;overflow-x:auto;font-family:monospace;line-height:1.25">{code}</pre>'


def as_html(renderable: RenderableType) -> str:
    """Return what rich would draw as HTML, colours and all."""
    from rich.console import Console

    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_jupyter=False, highlight=False)
    console.print(renderable)
    return console.export_html(inline_styles=True, code_format=FORM)


class NotebookDisplay:
    """Used as `rich.live.Live` is, which would ask for ipywidgets here."""

    def __init__(self) -> None:
        self._handle: Any = None

    def update(self, renderable: RenderableType, *, refresh: bool = True) -> None:
        """Draw it in place of what was drawn before."""
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(as_html(renderable)), display_id=True)
        else:
            self._handle.update(HTML(as_html(renderable)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture where it is."""
