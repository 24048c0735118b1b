"""A registry of the members of one kind, such as quantizers or encoders.

A package adds a member with an entry point of the registry's group, for example in its pyproject.toml:

    [project.entry-points."sidmill.quantizers"]
    farthest-first = "my_package.quantizer:QUANTIZER"
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Generic, TypeVar, cast

T = TypeVar("T")
# Distribution that declares the built-in members.
OURS = "sidmill"


class UnknownMember(LookupError):
    """Raised for an unknown name. Not a ValueError, because the recipe is valid where the package is installed."""


class MemberClash(ValueError):
    """Raised when two packages declare the same name."""


@dataclass(frozen=True)
class Member:
    """One entry of a registry: the distribution that declares it, its version, and its object (`module:attribute`)."""

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
        """True if sidmill itself declares it."""
        return self.distribution == OURS


class Registry(Generic[T]):
    """Members of one kind, by name. `get` imports a member; listing the members imports nothing."""

    def __init__(self, group: str, what: str, built_in: Mapping[str, str]) -> None:
        """Set the entry point `group`, the kind in words (`what`), and `built_in`: names to `module:attribute`."""
        self.group, self.what, self._built_in = group, what, dict(built_in)

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __contains__(self, name: object) -> bool:
        return name in self.members

    @cached_property
    def members(self) -> dict[str, Member]:
        """All members by name, those of sidmill first. Raise MemberClash if a name is declared twice."""
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
                f"there is no {self.what} {name!r}; choose one of {', '.join(self.members)}, or install a package that "
                f"declares {name!r} as an entry point of the group {self.group}"
            )
        return name

    def get(self, name: str) -> T:
        """Import and return the object of a member. Raise UnknownMember, or any error of the import."""
        member = self.members[self.require(name)]
        return cast(T, metadata.EntryPoint(name, member.target, self.group).load())


def code_version() -> str:
    """Return the version of the installed sidmill, or `checkout` if it is not installed."""
    try:
        return metadata.version(OURS)
    except metadata.PackageNotFoundError:
        return "checkout"
