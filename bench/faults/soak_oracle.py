"""The account of a lake that `bench soak` keeps: plain Python, told of each delivery, compared with what is there."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Event = tuple[str, str, int, str]
"""User, item, time in microseconds since 1970, type."""
ROLLBACK = "rollback"


@dataclass
class Oracle:
    """Items by their newest title (None: deleted), events, ids that were erased, and the SIDs that were published.

    `promised` are the items that production has to serve, None while a rollback holds it. `owner` keeps the SIDs of
    erased items under no name: nobody else may get them.
    """

    items: dict[str, str | None] = field(default_factory=dict)
    events: set[Event] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    promised: set[str] | None = None
    sids: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    owner: dict[tuple[str, tuple[int, ...]], str] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: int = 0

    def deliver(self, items: dict[str, str | None], events: list[Event]) -> None:
        """Note a delivery. An event that came before is the same event."""
        self.items |= items
        self.events |= set(events)

    def live(self) -> set[str]:
        """Return the items that are delivered and neither deleted nor erased."""
        return {item for item, title in self.items.items() if title is not None}

    def stored(self) -> set[Event]:
        """Return the events of items that were ever delivered; others wait for their items."""
        return {event for event in self.events if event[1] in self.items}

    def erase(self, user: str, item: str) -> None:
        """Forget a user and an item."""
        self.erased |= {user, item}
        self.items.pop(item, None)
        self.events = {event for event in self.events if event[0] != user and event[1] != item}
        if self.promised is not None:
            self.promised.discard(item)

    def after_kill(self, before: "Oracle", seen: dict[str, Any], verb: str) -> list[str]:
        """Return what is wrong after a kill: this oracle is told of what the killed run was to bring, `before` is not.

        An erasure that did not end leaves versions that can be read, and says so (`lake verify`).
        """
        wrong = self._sids(seen) + self._moves(seen)
        now = Counter(map(_event, seen["events"]))
        wrong += _rows("events lost by a kill", before.stored() & self.stored(), now.keys(), only_lacking=True)
        wrong += _rows("events that nobody delivered", now.keys(), before.stored() | self.stored(), only_lacking=True)
        wrong += [f"doubled event {event}" for event, count in now.items() if count > 1][:3]
        if verb != "erase":
            wrong += [f"lake verify: {each}" for each in seen["faults"]]
            wrong += [f"production does not read: {seen['unread']}"] if seen["unread"] else []
        self.checks += 6
        return wrong

    def after_step(self, seen: dict[str, Any]) -> list[str]:
        """Return what differs between this account and the lake after a step."""
        wrong = self._sids(seen) + self._moves(seen)
        now = Counter(map(_event, seen["events"]))
        wrong += _rows("events", self.stored(), now.keys())
        wrong += [f"doubled event {event}" for event, count in now.items() if count > 1][:3]
        wrong += _rows("items of the catalogue", set(self.items.items()), set(seen["items"].items()))
        if self.promised is not None:
            release = seen["pair"][0]
            wrong += _rows(f"items of production ({release})", self.promised, seen["releases"][release]["sids"].keys())
        wrong += [f"lake verify: {each}" for each in seen["faults"]]
        wrong += [f"production does not read: {seen['unread']}"] if seen["unread"] else []
        wrong += [f"{name} holds what was erased" for name in seen["holding"]]
        self.checks += 9
        return wrong

    def _sids(self, seen: dict[str, Any]) -> list[str]:
        """Return the published SIDs that moved or went to another item."""
        wrong = []
        self.manifests |= seen["releases"]
        for release in dict.fromkeys(move["release"] for move in seen["moves"]):
            book = self.manifests[release]["codebook"]
            for item, codes in seen["releases"].get(release, {"sids": {}})["sids"].items():
                sid = tuple(codes)
                first = self.sids.setdefault((book, item), sid)
                if first != sid:
                    wrong.append(f"the SID of {item} under {book[:8]} was {first} and is {sid} in {release}")
                owner = self.owner.setdefault((book, sid), item)
                if owner != item:
                    wrong.append(f"the SID {sid} under {book[:8]} was of {owner} and is of {item} in {release}")
        return wrong

    def _moves(self, seen: dict[str, Any]) -> list[str]:
        """Return the moves of production that went back in time though they are no rollbacks."""
        wrong = []
        for before, move in zip(seen["moves"], seen["moves"][1:], strict=False):
            old, new = self.manifests[before["release"]], self.manifests[move["release"]]
            back = new["as_of"] < old["as_of"] or any(
                new["versions"][each] < old["versions"][each] for each in VERSIONS
            )
            if back and move["note"] != ROLLBACK:
                wrong.append(f"production went back from {before['release']} to {move['release']} by {move['note']}")
        return wrong


VERSIONS = ("items", "interactions")


def _event(row: list[Any]) -> Event:
    user, item, time, kind = row
    return user, item, time, kind


def _rows(what: str, wanted: Any, there: Any, only_lacking: bool = False) -> list[str]:
    lacking, more = set(wanted) - set(there), set() if only_lacking else set(there) - set(wanted)
    if not lacking and not more:
        return []
    examples = sorted(map(str, lacking))[:2], sorted(map(str, more))[:2]
    return [f"{what}: {len(lacking)} lacking {examples[0]}, {len(more)} too many {examples[1]}"]
