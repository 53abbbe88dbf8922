"""What a prompt says of one of several people: the parts of it that name nobody else.

"mara on the left and finn in a red hat, at a lake" says of finn: "finn in a red hat, at a lake".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable

BETWEEN = re.compile(r"[,;\n\uff0c\u3001\uff1b\u3002]|\.(?=\s|$)|\s(?:and|&)\s", re.IGNORECASE)
OPENING, CLOSING = "([{", ")]}"


def clauses(prompt: str) -> list[str]:
    """The parts of a prompt between commas, semicolons, full stops, line ends and "and", none of them empty.

    What stands in brackets, which weigh it, is never parted. Brackets that do not match end with the prompt.
    """
    parts, start, depth, at = [], 0, 0, 0
    while at < len(prompt):
        if prompt[at] in OPENING and prompt[at - 1 : at] != "\\":
            depth += 1
        elif prompt[at] in CLOSING and prompt[at - 1 : at] != "\\":
            depth = max(0, depth - 1)
        elif depth == 0 and (found := BETWEEN.match(prompt, at)):
            parts.append(prompt[start:at])
            start = at = found.end()
            continue
        at += 1
    return [part.strip() for part in (*parts, prompt[start:]) if part.strip()]


def said_of(prompt: str, who: Hashable, named: Callable[[str], Collection[Hashable]]) -> str:
    """The clauses that name ``who`` or nobody, joined by commas; ``named``: everybody whom a text names.

    Where nobody else is named, or ``who`` by words that lie in several clauses, it is the prompt as it is.
    """
    parts = [(part, named(part)) for part in clauses(prompt)]
    others = any(people and who not in people for _, people in parts)
    hidden = who in named(prompt) and not any(who in people for _, people in parts)
    if not others or hidden:
        return prompt
    return ", ".join(part for part, people in parts if not people or who in people)
