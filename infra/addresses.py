"""Addresses that may hold secrets: they are refused from operators, and secrets are never shown.

The user, the password and the query of an address may be secret; the query of a signed address has its signature.
"""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qsl

HIDDEN = "***"
SETTINGS = frozenset({"region", "scheme", "endpoint_override"})
"""Parameters of a source's address that locate its store."""
_WITH_CONTAINER = frozenset({"abfs", "abfss", "wasb", "wasbs", "gs", "gcs", "hdfs", "viewfs"})
"""Schemes whose addresses may have a container or user name before the `@`, which is no secret without a password."""
_WITHOUT_PORT = frozenset({"s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "wasb", "wasbs"})
"""Schemes whose addresses have no port."""
_STORES = (
    "credentials of a store come from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_KEY, ...) or from the role of the machine"
)
_VARIABLES = {
    "RAY_ADDRESS": "set the token of the cluster in RAY_AUTH_TOKEN",
    "PREFECT_API_URL": "set the login of the server in PREFECT_API_AUTH_STRING",
    **dict.fromkeys(("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"), _STORES),
}
"""Environment variables that are addresses, and the place of their credentials."""

_SCHEME = r"[a-zA-Z][a-zA-Z0-9+.\-]{0,20}:(?:\\*/){2}"  # JSON may escape the slashes
_START = re.compile(f"({_SCHEME}|//)")
_WITHOUT_SCHEME = re.compile(r"\s*//[^\s/]+/")
# An address in a text is quoted, or ends with a space. Its query may have spaces, where `=` or `&` follow.
_QUOTED = rf"""(?P<quote>["'])(?:{_SCHEME}|//)[^\n]*?(?P=quote)"""
_BARE = rf"""{_SCHEME}(?:[^/?#\s]*@)?[^\s"'<>]*(?:\s+[^\s"'<>]*[=&][^\s"'<>]*)*"""
_IN_TEXT = re.compile(f"{_QUOTED}|{_BARE}")
# Of a damaged text, what may be an address, and what may part its secrets from the rest.
_LIKE_ADDRESS = re.compile(r"[\w+.\-]{0,20}:[\\/]|//\S|\\/")
_LIKE_SECRETS = re.compile("[?#@=&]")
_HOST = re.compile(r"\[[^\]]*\]|[^:]*")
# Of brokers there may be several, with commas between them.
_HOST_AND_PORT = re.compile(rf"(?:{_HOST.pattern})(?::\d+)?(?:,[^:,@]+(?::\d+)?)*")


class SecretInAddress(ValueError):
    """Raised when an operator gives an address that holds, or may hold, credentials."""


def printable_address(address: str) -> str:
    """Return an address, or a path, without the parts that may be secret."""
    found = _START.match(address)
    if found is None:
        place, marked, _ = address.partition("?")
        return place + (f"?{HIDDEN}" if marked else "")
    user, rest = _split_user(found[0], address[found.end() :])
    place = re.split("[?#]", rest, maxsplit=1)[0]
    if user:
        place = f"{HIDDEN if _is_secret(found[0], user) else user}@{place}"
    return found[0] + place + (f"?{HIDDEN}" if re.search("[?#]", rest) else "")


def without_secrets(text: str) -> str:
    """Return a text, such as a library's message, with every address as `printable_address` returns it."""
    if _WITHOUT_SCHEME.match(text):
        return printable_address(text.lstrip())
    return _IN_TEXT.sub(_printable, text) if "/" in text else text


def excerpt(text: str, start: int, stop: int) -> str:
    """Return `text[start:stop]` of a damaged text, up to where something like an address begins that may hold secrets.

    It may begin before `start`. Where a text is damaged, nobody knows where an address begins and ends.
    """
    begins = _LIKE_ADDRESS.search(text)
    if begins is None or begins.start() >= stop:
        return text[start:stop]
    rest = text[begins.start() :]
    if _LIKE_SECRETS.search(rest) is None and without_secrets(rest) == rest:
        return text[start:stop]
    return text[start : begins.start()] + HIDDEN


def _printable(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    address = found[0].strip(quote) if quote else found[0]
    bare = address.rstrip(".,:;)]}")
    return quote + printable_address(bare) + address[len(bare) :] + quote


def _split_user(scheme: str, rest: str) -> tuple[str, str]:
    """Split an address, without its scheme, into the part before its `@`, empty if there is none, and the rest.

    A secret key may have slashes, which end the host name for every parser. A colon that no port follows therefore
    starts a password, which extends to the last `@`.
    """
    host = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    name, at, _ = host.partition("@")
    if at and ":" not in name:
        return host.rpartition("@")[0], rest[host.rindex("@") + 1 :]
    has_port = "@" not in rest or _scheme_name(scheme) not in _WITHOUT_PORT
    if not at and (_HOST_AND_PORT if has_port else _HOST).fullmatch(host if "@" in rest else host.removesuffix(":")):
        return "", rest
    user = rest.rpartition("@")[0] or rest
    return user, rest[len(user) + 1 :]


def _is_secret(scheme: str, user: str) -> bool:
    return ":" in user or _scheme_name(scheme) not in _WITH_CONTAINER


def _scheme_name(scheme: str) -> str:
    return scheme.partition(":")[0].lower()


def refuse_secrets(text: str, where: str, remedy: str = _STORES) -> None:
    """Raise SecretInAddress if an address in an operator's input has a user or a password; `where` names the input."""
    for found in _IN_TEXT.finditer(text):
        address = found[0].strip("\"'")
        start = _START.match(address)
        user = _split_user(start[0], address[start.end() :])[0] if start else ""
        if start and start[0] != "//" and "@" in address and user and _is_secret(start[0], user):
            raise SecretInAddress(
                f"{where}: {printable_address(address)} contains credentials, which records and logs would show. "
                f"Remove them from the address; {remedy}."
            )


def refuse_parameters(address: str, where: str, accepted: frozenset[str] = frozenset()) -> None:
    """Raise SecretInAddress if an address has parameters that are not `accepted`: each may be a signature or a key."""
    start = _START.match(address)
    if start is None or start[0] == "//":
        return
    refuse_secrets(address, where)
    query = re.split("[?#]", address, maxsplit=1)[1:]
    names = {name for name, _ in parse_qsl("".join(query), keep_blank_values=True)}
    if query and not (names and names <= accepted):
        known = f" other than {', '.join(sorted(accepted))}" if accepted else ""
        raise SecretInAddress(
            f"{where}: {printable_address(address)} has parameters{known}. They may be secrets, and records and logs "
            f"would show them. Remove them from the address; {_STORES}."
        )


def refuse_secrets_within(settings: Any, prose: frozenset[str]) -> None:
    """Refuse secrets, and parameters of addresses, in every text of nested tables and lists.

    Errors name a text by its place, such as `text.model`. Parameters are accepted at the places in `prose`.
    """
    for place, text in _texts(settings, ""):
        refuse_secrets(text, place)
        if place not in prose:
            refuse_parameters(text, place)


def hidden(value: Any) -> Any:
    """Return nested tables and lists with every text as `without_secrets` returns it."""
    if isinstance(value, dict):
        return {name: hidden(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [hidden(inner) for inner in value]
    return without_secrets(value) if isinstance(value, str) else value


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every string in nested tables and lists."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, place)


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse credentials in the arguments of a command."""
    option = ""
    for number, argument in enumerate(arguments, 1):
        option = argument.partition("=")[0] if argument.startswith("--") else option
        refuse_secrets(argument, option or f"argument {number}")
        option = option if argument == option else ""


def check_environment() -> None:
    """Refuse credentials in the addresses of the environment."""
    for name, remedy in _VARIABLES.items():
        given = os.environ.get(name, "")
        refuse_secrets(given if "://" in given else f"tcp://{given}", name, remedy)


def hide_secrets(error: BaseException) -> None:
    """Remove what may be secret from the messages of an error and its causes, before it is recorded."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        each.args = tuple(without_secrets(part) if isinstance(part, str) else part for part in each.args)
        # An OSError holds file names beside `args`, and an error of Ray the worker's message in one of its fields.
        files = ("filename", "filename2") if isinstance(each, OSError) else ()
        for name in (*files, *vars(each)):
            value = getattr(each, name)
            if isinstance(value, str) or name == "__notes__":
                setattr(each, name, hidden(value))
        linked = [each.__cause__, each.__context__, *vars(each).values()]
        linked += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
        waiting += [value for value in linked if isinstance(value, BaseException)]
