"""Sites of a run on real nodes: how the SuperLink saw them last, and when each gave its last sign of life."""

from __future__ import annotations

import json
from typing import ClassVar

from fedwarm.record.reading import Run
from fedwarm.record.signs import FILE
from fedwarm.report.sections import Section


class Sites(Section):
    """A row for each site that was let in."""

    title, anchor, order = "Sites", "sites", 15
    files = (FILE,)
    template: ClassVar[str] = (
        '<p class="soft">As whoever follows the run saw them last, at {{ shown.at }}.</p>'
        "<table><thead><tr><th>site</th><th>state</th><th>last sign of life</th></tr></thead><tbody>"
        "{% for site, told in shown.sites.items() %}<tr><td>{{ site }}</td><td>{{ told.state }}</td><td>{{ told.seen }}</td></tr>"
        "{% endfor %}</tbody></table>"
    )

    def shown(self, run: Run) -> dict[str, object] | None:
        try:
            told = json.loads((run.folder / FILE).read_text(encoding="utf-8"))
            sites = {str(site): {"state": str(each["state"]), "seen": str(each["seen"])} for site, each in told["sites"].items()}
            return {"at": str(told["at"]), "sites": sites} if sites else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


COMPONENT = Sites()
