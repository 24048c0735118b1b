"""A registry of one kind of member: a quantizer, an encoder, a gate.

A package adds a member by an entry point of the registry's group, for example in its pyproject.toml:

    [project.entry-points."sidmill.quantizers"]
    farthest-first = "my_package.quantizer:QUANTIZER"
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Generic, TypeVar, cast

T = TypeVar("T")
OURS = "sidmill"


class UnknownMember(LookupError):
    """No installed package has a member of that name. No ValueError: what names it is sound where it is installed."""


class MemberClash(ValueError):
    """Two packages declare a member of one name."""


@dataclass(frozen=True)
class Member:
    """One entry of a registry: the distribution that declares it, with its version, and where its object is."""

    name: str
    group: str
    distribution: str
    version: str
    target: str

    @property
    def origin(self) -> str:
        """Distribution and version, as in `my-package 1.2`."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def ours(self) -> bool:
        """Whether it comes with sidmill."""
        return self.distribution == OURS


class Registry(Generic[T]):
    """Members by name. Each is imported when it is asked for, so that listing them imports nothing."""

    def __init__(self, group: str, what: str, built_in: Mapping[str, str]) -> None:
        """`group` is the entry point group, `what` the kind in words, `built_in` maps names to `module:attribute`."""
        self.group, self.what, self._built_in = group, what, dict(built_in)

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __contains__(self, name: object) -> bool:
        return name in self.members

    @cached_property
    def members(self) -> dict[str, Member]:
        """All members by name, those of sidmill first. Raises MemberClash where a name is declared twice."""
        found = {
            name: Member(name, self.group, OURS, code_version(), target) for name, target in self._built_in.items()
        }
        for point in sorted(metadata.entry_points(group=self.group), key=lambda point: point.name):
            by = point.dist
            other = Member(point.name, self.group, by.name if by else "?", by.version if by else "", point.value)
            if point.name in found:
                raise MemberClash(
                    f"{self.what} {point.name!r} is declared by {found[point.name].origin} and by {other.origin}: "
                    "uninstall one of them, or rename its entry point"
                )
            found[point.name] = other
        return found

    def require(self, name: str) -> str:
        """Return the name of a member. Raises UnknownMember."""
        if name not in self.members:
            raise UnknownMember(
                f"there is no {self.what} {name!r}: installed are {', '.join(self.members)}; a package declares "
                f"others as entry points of the group {self.group}"
            )
        return name

    def get(self, name: str) -> T:
        """The object of a member. Raises UnknownMember, and what importing it raises."""
        member = self.members[self.require(name)]
        return cast(T, metadata.EntryPoint(name, member.target, self.group).load())


def code_version() -> str:
    """Version of the installed sidmill, or `checkout` where the code runs without being installed."""
    try:
        return metadata.version(OURS)
    except metadata.PackageNotFoundError:
        return "checkout"
