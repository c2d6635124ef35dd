"""Compute CRISP's critical path in plain Python, as the reference for the SQL.

The last-returning child is on the path; so is, before each child on it, the sibling that returned
last before it began. Siblings that overlap by less than 1 % of their parent, with no other sibling
starting or ending meanwhile, count as one after the other.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALLOWED_OVERLAP = 0.01


@dataclass
class Node:
    """A span; times in any one unit."""

    span: str
    parent: str | None
    start: int
    end: int
    tie: int = 0


def critical_self(nodes: Sequence[Node]) -> dict[str, int]:
    """Return the critical self time of every span on the critical path of one trace."""
    known = {node.span: node for node in nodes}
    children: defaultdict[str, list[Node]] = defaultdict(list)
    roots = []
    for node in known.values():
        if node.parent in known:
            children[str(node.parent)].append(node)
        else:
            roots.append(node)
    found: dict[str, int] = {}
    for root in roots:
        _visit(root, root.start, root.end, children, found)
    return found


def _visit(
    node: Node,
    start: int,
    end: int,
    children: Mapping[str, Sequence[Node]],
    found: dict[str, int],
) -> None:
    inner = [
        Node(child.span, None, max(child.start, start), min(child.end, end), child.tie)
        for child in children.get(node.span, ())
    ]
    inner = [child for child in inner if child.end > child.start]
    inner.sort(key=lambda child: (child.end, child.start, child.tie), reverse=True)
    own = end - start
    last: Node | None = None
    for child in inner:
        if last is None or _before(child, last, end - start, inner):
            own -= child.end - child.start
            _visit(child, child.start, child.end, children, found)
            last = child
    found[node.span] = own


def _before(one: Node, later: Node, length: int, siblings: Sequence[Node]) -> bool:
    if one.end <= later.start:
        return True
    if one.end >= later.end or one.start >= later.start:
        return False
    if one.end - later.start >= ALLOWED_OVERLAP * length:
        return False
    meanwhile = sum(
        (later.start <= moment <= one.end) for node in siblings for moment in (node.start, node.end)
    )
    return meanwhile == 2
