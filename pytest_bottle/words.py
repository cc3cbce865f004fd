"""The words of a bottle: one parser for ``bottle.yaml``, for the marker and for ``make_bottle``.

A word that is said takes the place of the same word of the specification below it, as a whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict

from pytest_bottle.part_words import (
    argv,
    either,
    env,
    environment,
    image,
    port_or_0,
    status_of,
    user,
)
from pytest_bottle.reading import Report, TooMuchError, Word, refusal
from pytest_bottle.row_words import policy
from pytest_bottle.sidecar_words import sidecar
from pytest_bottle.spec import (
    LONGEST_TIMEOUT,
    SHORTEST_TIMEOUT,
    SPIKE_ALIAS,
    SPIKE_PORT,
    BottleSpec,
    EgressRoute,
    PublishedPort,
    SidecarSpec,
    subnet,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Reader = Callable[[Word], Any]

_MORE = "so more gets through here than from a bottle of bot-bottle's"
_ELSEWHERE = "bot-bottle's own, without a meaning here"
#: bot-bottle's keys of a bottle (its manifests, up to September 2026).
FOREIGN = {
    "extends": f"{_ELSEWHERE}: what it inherits, routes too, is to be written out",
    "agent_provider": f"{_ELSEWHERE}: the agent is image or rootfs, and command",
    "git-gate": f"{_ELSEWHERE}: there is no git gate",
    "git": f"{_ELSEWHERE}: there is no git gate",
    "supervise": f"{_ELSEWHERE}: nobody is asked, what no route allows is denied",
}
FOREIGN_EGRESS = {
    "log": f"{_ELSEWHERE}: every decision is in the sidecar's audit()",
    "allowlist": f"{_ELSEWHERE}, and an earlier one: write routes, nothing else is let through",
    "path_allowlist": f"an earlier word of bot-bottle's; paths are not looked at, {_MORE}",
}
FOREIGN_ROUTE = {
    "auth": f"no credential is put in or taken out, {_MORE}",
    "matches": f"paths, methods and headers are not looked at, {_MORE}",
    "path_allowlist": f"paths are not looked at, {_MORE}",
    "dlp": f"nothing is scanned, {_MORE}",
    "git": f"git over HTTPS is not told from other requests, {_MORE}",
    "role": f"{_ELSEWHERE}: reserved there",
}
_ROOT = 'egress: ["allowed.test"]'


class Words(TypedDict, total=False):
    """What ``@pytest.mark.bottle(...)`` and ``make_bottle(...)`` take."""

    image: str
    rootfs: str | os.PathLike[str]
    command: Sequence[str]
    user: str
    environment: Mapping[str, str]
    env: Mapping[str, str]
    egress: Sequence[str | Mapping[str, object]] | Mapping[str, object]
    ports: Sequence[str]
    publish: str
    machine_port: int
    sidecar: Mapping[str, object]
    networks: Mapping[str, str]


def read(words: Mapping[str, object], over: BottleSpec, folder: str) -> BottleSpec:
    """Lay the words of a marker or of ``make_bottle`` over a specification.

    Args:
        words: by name, see :class:`Words`.
        over: what holds where they say nothing.
        folder: what relative paths are relative to.

    Raises:
        ConfigurationError: with everything that is wrong with them.
    """
    report = Report(folder)
    if isinstance(words, Mapping) and "policy" in words:
        word = Word(words["policy"], ("policy",), report)
        word.refuse("rows are judged by the suite, not in a test", "them in bottle.yaml")
        words = {name: value for name, value in words.items() if name != "policy"}
    spec = lay_over(words, over, report, {k: v for k, v in READERS.items() if k not in _THE_RUNS})
    if report.problems:
        raise refusal(report.problems)
    return spec


def lay_over(
    document: object, over: BottleSpec, report: Report, readers: Mapping[str, Reader] | None = None
) -> BottleSpec:
    """Lay a document over a specification; problems are told to the report and to nobody else."""
    try:
        return _lay_over(Word(document, (), report), over, READERS if readers is None else readers)
    except TooMuchError:
        return over


def _lay_over(root: Word, over: BottleSpec, readers: Mapping[str, Reader]) -> BottleSpec:
    fields = root.fields(readers, FOREIGN, _ROOT)
    for one, other in (("environment", "env"), ("ports", "publish"), ("image", "rootfs")):
        either(fields, one, other)
    values = {name: readers[name](word) for name, word in fields.items()}
    # What depends on several words is looked at where all of these can be read.
    wrong = {one.path[0] for one in root.report.problems if one.path}
    return over if wrong & _TOGETHER else _assemble(fields, values, over)


def _assemble(fields: Mapping[str, Word], values: dict[str, Any], over: BottleSpec) -> BottleSpec:
    changes = {name: values[name] for name in _AS_THEY_ARE if name in values}
    if "env" in values:
        changes["environment"] = values["env"]
    if "image" in values or "rootfs" in values:
        changes |= {"image": "", "rootfs": ""} | changes
    if "networks" in values:
        changes["internal_subnet"] = values["networks"].get("internal", "")
        changes["egress_subnet"] = values["networks"].get("egress", "")
    changes["publish"] = _publish(fields, values, over)
    last = next((fields[name] for name in fields if name in _TOGETHER), None)
    last = last or next(iter(fields.values()), None)
    if last is None:
        return over
    return last.attempt(lambda: replace(over, **changes)) or over


def _publish(
    fields: Mapping[str, Word], values: Mapping[str, Any], over: BottleSpec
) -> PublishedPort | None:
    said = [name for name in ("ports", "publish") if name in fields]
    port: PublishedPort | None = values[said[0]] if said else over.publish
    sidecar: SidecarSpec = values.get("sidecar", over.sidecar)
    if port is not None and not (sidecar.is_reference or port.target):
        if said:
            what = "a sidecar of your own has no status service to publish"
            fields[said[0]].refuse(what, "a port of the sidecar too: address:port:target")
        port = None
    if "machine_port" in fields and port is None:
        fields["machine_port"].refuse("no port is published", "machine_port with ports")
    elif "machine_port" in fields and port is not None:
        port = replace(port, machine_port=values["machine_port"])
    return port


# -- single words --------------------------------------------------------------------------------


def _rootfs(word: Word) -> str:
    if isinstance(word.value, os.PathLike):
        word = Word(os.fspath(word.value), word.path, word.report)
    text = word.text("./rootfs")
    path = os.path.abspath(os.path.join(word.report.folder, text)) if text else ""
    if path and not status_of(path, stat.S_ISDIR):
        word.refuse("there is no such folder", f"a folder, here {path!r}")
    return path


def _egress(word: Word) -> tuple[EgressRoute, ...]:
    if word.is_mapping:
        fields = word.fields(("routes",), FOREIGN_EGRESS, "{routes: [{host: allowed.test}]}")
        if "routes" not in fields:
            return ()
        word = fields["routes"]
    routes = map(_route, word.entries('["allowed.test", "packages.test:8443"]'))
    return tuple(filter(None, routes))


def _route(word: Word) -> EgressRoute | None:
    if isinstance(word.value, str):
        text = word.value
        return word.attempt(lambda: EgressRoute.parse(text))
    fields = word.fields(("host", "ports"), FOREIGN_ROUTE, "{host: allowed.test, ports: [443]}")
    if "host" not in fields:
        if word.is_mapping:
            word.refuse("this route has no host", "host: allowed.test")
        return None
    host = fields["host"].text("allowed.test")
    if "ports" not in fields:
        return fields["host"].attempt(lambda: EgressRoute.parse(host)) if host else None
    ports = tuple(one.integer("port", 1, 65535) for one in fields["ports"].entries("[443]"))
    if not ports and fields["ports"].value == []:
        fields["ports"].refuse("this lets nothing through", "a port, or no ports: 80 and 443")
    return fields["host"].attempt(lambda: EgressRoute(host, ports)) if host else None


def _ports(word: Word) -> PublishedPort | None:
    entries = word.entries('["127.0.0.31:18080"]')
    if len(entries) > 1:
        word.refuse("a bottle publishes one port", "a list of one, or an empty one")
    return [*map(_published, entries), None][0]


def _published(word: Word) -> PublishedPort | None:
    text = word.value
    if isinstance(text, str):
        return word.attempt(lambda: PublishedPort.parse(text))
    what = "a published port cannot be read"
    word.refuse(what, f"address:port, such as {SPIKE_ALIAS}:{SPIKE_PORT}")
    return None


def _networks(word: Word) -> dict[str, str]:
    fields = word.fields(("internal", "egress"), {}, "{internal: 10.89.0.0/24}")
    read = {name: (one, _subnet(one)) for name, one in fields.items()}
    texts = {name: text for name, (_, text) in read.items() if text}
    if len(texts) == 2:
        word.attempt(
            lambda: BottleSpec(internal_subnet=texts["internal"], egress_subnet=texts["egress"])
        )
    return texts


def _subnet(word: Word) -> str:
    text = word.text("10.89.0.0/24")
    return str(word.attempt(lambda: subnet(text, "networks")) or "") if text else ""


def _timeout(word: Word) -> float:
    value = word.value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and SHORTEST_TIMEOUT <= value <= LONGEST_TIMEOUT:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    word.refuse("this is no timeout", f"seconds, {SHORTEST_TIMEOUT}-{LONGEST_TIMEOUT}")
    return LONGEST_TIMEOUT


#: What a bottle can say.
READERS: dict[str, Reader] = {
    "image": image,
    "rootfs": _rootfs,
    "command": argv,
    "user": user,
    "environment": environment,
    "env": env,
    "egress": _egress,
    "ports": _ports,
    "publish": _published,
    "machine_port": port_or_0,
    "sidecar": sidecar,
    "networks": _networks,
    "timeout": _timeout,
    "policy": policy,
}
#: What is said of a whole run, and of no single bottle.
_THE_RUNS = ("timeout", "policy")
_TOGETHER = {"ports", "publish", "machine_port", "sidecar"}
_AS_THEY_ARE = (
    *("image", "rootfs", "command", "user", "environment", "egress", "sidecar", "timeout"),
    "policy",
)
#: What a marker and ``make_bottle`` take.
MARKER_WORDS = tuple(name for name in READERS if name not in _THE_RUNS)
