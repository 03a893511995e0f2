"""The sheet of who is here: each console with its user, place and since when; what was done last, and by whom."""

from __future__ import annotations

from console import format as fmt
from console.ink import Line, Span, beside, cut, fit, frame, line, pick
from console.view import View
from server.audience import who
from server.telemetry.snapshot import Audience, Notice, Snapshot, Viewer

WIDE_FROM = 116
HERE_CELLS = 64
ROLES = {"operator": ("acts", "text"), "watcher": ("watches", "label")}


def audience_sheet(view: View, cells: int, rows: int) -> list[Line]:
    """Who is here on the left, what was done on the right; on a narrow screen one below the other."""
    snapshot = view.snapshot or Snapshot(seq=0, at=0.0, wall=0.0)
    audience, inner, body_rows = snapshot.audience, cells - 4, rows - 4
    here = [_viewer(viewer, audience, snapshot.wall) for viewer in audience.viewers]
    here = here or [line(Span("nobody reads the stack's stream", "label"))]
    done = [_notice(notice) for notice in reversed(audience.latest)] or [line(Span("nothing yet", "label"))]
    heads = line(Span("here now", "title")), line(Span("lately, newest first", "title"))
    if inner >= WIDE_FROM:
        left = [heads[0], *_most(here, body_rows - 1)]
        right = [heads[1], *done]
        body = beside([(left, HERE_CELLS), (right, inner - HERE_CELLS)])[:body_rows]
    else:
        shown = _most(here, max(1, (body_rows - 2) // 2))
        body = [heads[0], *shown, heads[1], *done][:body_rows]
    body += [()] * (body_rows - len(body))
    keys = line(Span("esc", "bright"), Span(" leave", "key-label"))
    title = line(Span("who watches, who acts", "title"))
    return frame(title, [*body, (), _allowed(audience, inner, view)], cells, rows, right=keys)


def _most(rows: list[Line], most: int) -> list[Line]:
    """As many as there is room for, and how many more there are."""
    if len(rows) <= most:
        return rows
    return [*rows[: most - 1], line(Span(f"and {len(rows) - most + 1} more", "label"))]


def _viewer(viewer: Viewer, audience: Audience, now: float) -> Line:
    name = who(viewer.user, viewer.where)
    role, style = ROLES[viewer.role]
    last = next((notice for notice in reversed(audience.latest) if notice.acts and notice.who == name), None)
    said = line(
        Span(f"{cut(fmt.sanitize(name), 22):<23}", "bright"),
        Span(f"{role:<9}", style),
        Span(f"for {fmt.span(now - viewer.since)}", "label", f"since {fmt.time_of_day(viewer.since)}"),
    )
    return said + line(Span(f"   acted {fmt.span(now - last.wall)} ago", "mark")) if last is not None else said


def _notice(notice: Notice) -> Line:
    return line(
        Span(fmt.time_of_day(notice.wall), "faint"),
        Span(f"  {cut(fmt.sanitize(notice.who), 22)}", "bright" if notice.acts else "label"),
        Span(f"  {fmt.sanitize(notice.text, 90)}", "text" if notice.acts else "label"),
    )


def _allowed(audience: Audience, cells: int, view: View) -> Line:
    """Who may watch, or how to let somebody."""
    if view.status:
        return line(Span(cut(fmt.sanitize(view.status), cells), view.status_style))
    if not audience.group:
        return pick(
            cells,
            line(
                Span("Nobody else may watch. ", "label"),
                Span("spark-serve watchers GROUP", "text"),
                Span(" lets a group, read-only", "label"),
            ),
            line(Span("spark-serve watchers GROUP", "text"), Span(" lets a group watch", "label")),
        )
    group, path = fmt.sanitize(audience.group, 32), fmt.sanitize(audience.socket, 100)
    return fit(
        pick(
            cells,
            line(Span(f"The group {group} may watch: ", "label"), Span(f"spark-serve console --watch {path}", "text")),
            line(Span(f"The group {group} may watch: ", "label"), Span("spark-serve console --watch", "text")),
        ),
        cells,
    )
