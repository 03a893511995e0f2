"""Flow: the picture of the course, alive. While there is no engine, its start or its end stands in the middle."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import Container

from console.panels.batch import batch
from console.panels.breakdown import breakdown
from console.panels.feel import feel
from console.panels.foot import limit
from console.panels.gpu import gpu
from console.panels.queue import queue_row
from console.panels.stages import leads_to, stages
from console.panels.start import NOT_READY, start_panel
from console.screens.base import CockpitScreen
from console.view import View
from console.widgets.canvas import Canvas


class FlowScreen(CockpitScreen):
    """Key 1."""

    def compose_middle(self) -> ComposeResult:
        """The strip, who waits and for what, the breakdown, the panels or the start, the limit."""
        yield Canvas(stages, id="stages")
        yield Canvas(queue_row, id="queue-row")
        yield Canvas(breakdown, id="breakdown")
        with Container(id="panels"):
            yield Canvas(feel, id="feel")
            with Container(id="side"):
                yield Canvas(batch, id="batch")
                yield Canvas(gpu, id="gpu")
        yield Canvas(start_panel, id="start")
        yield Canvas(limit, id="limit")

    async def on_click(self, event: events.Click) -> None:
        """A stage leads to where more can be seen of it, or done about it."""
        strip = event.widget
        if isinstance(strip, Canvas) and strip.id == "stages":
            await self.app.run_action(leads_to(event.screen_x - strip.region.x, strip.size.width))

    def show(self, view: View) -> None:
        """Choose between picture and start, then draw."""
        ready = view.snapshot is None or view.snapshot.engine.phase not in NOT_READY
        self.set_class(not ready, "-not-ready")
        super().show(view)
