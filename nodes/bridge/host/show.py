"""Words on a node that is running, or that can return nothing because it was stopped.

A node's result goes to the front end as its `ui` output. What is here goes past that: a line of progress while it works
(the host's own, which a front end takes away when the run ends), and words that stay on one of our nodes
(web/nodes.js). Outside the host's server, and for clients that do not listen, nothing happens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from comfy_execution.utils import get_executing_context

SPEAKER = "Mix-of-Show: "  # whose words these are, on a node that is not ours
SAID = "mixofshow_said"  # event of the host's websocket: {"node": id, "text": words, "add": keep what is there}


def running_node() -> tuple | None:
    """Which node of which prompt runs now (and which piece of its list); None outside of the host's executor."""
    found = get_executing_context()
    return None if found is None else tuple(found)


def node_here() -> str | None:
    """Id of the node that runs now, "5", or "12:3" inside a subgraph; None outside of the host's executor."""
    found = get_executing_context()
    return None if found is None else found.node_id


WARNING = "WARNING"  # how a line begins that tells of something else than what was meant


def warnings_first(lines: Iterable[str]) -> str:
    """The lines as one text, those that need attention on top."""
    return "\n".join(sorted(lines, key=lambda line: not line.startswith(WARNING)))


def show_progress(text: str, node: str | None = None) -> None:
    """One line on a node while it works; `node` is the one that runs now unless it is named."""
    server, node = host_server(), node or node_here()
    if node and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node, sid=server.client_id)


def show_on_node(lines: Sequence[str]) -> None:
    """Words on the node that runs now, ours or not, in place of earlier ones, for as long as the host shows them."""
    show_progress(SPEAKER + "\n".join(lines))


def leave_words(text: str, node: str | None = None, add: bool = False) -> None:
    """Words that stay on one of our nodes after the run; `add`: below what it shows, else in its place."""
    server, node = host_server(), node or node_here()
    if node and server is not None:
        server.send_sync(SAID, {"node": node, "text": text, "add": add}, server.client_id)


def host_server():
    """The host's server, if this process is one; its module is not imported for it."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
