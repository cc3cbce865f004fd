"""The emulator's images: a name and a configuration, read from an OCI archive.

No file of an image is ever used: guests have the machine's own programs.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from typing import TYPE_CHECKING, Any, Final

from pytest_bottle.emulator.values import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import IO

_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
#: Where an archive says what an image is called.
_NAMES: Final = ("io.containerd.image.name", "com.apple.containerization.image.name")
_SHORT_NAME: Final = "org.opencontainers.image.ref.name"
_EPOCH: Final = "1970-01-01T00:00:00Z"


def complete(reference: str) -> str:
    """Add the tag that a reference without one has."""
    last = reference.rpartition("/")[2]
    return reference if ":" in last or "@" in last else f"{reference}:latest"


class Images:
    """All images, by their references."""

    def __init__(self, kept: Mapping[str, dict[str, Any]] | None = None) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, Any]] = dict(kept or {})

    def all(self) -> list[dict[str, Any]]:
        """What JSON shows of each, sorted by reference."""
        with self._lock:
            return [self._known[name] for name in sorted(self._known)]

    def kept(self) -> dict[str, dict[str, Any]]:
        """All of them, for a later daemon."""
        with self._lock:
            return dict(self._known)

    def find(self, reference: str) -> dict[str, Any] | None:
        """Find an image."""
        return self._known.get(complete(reference))

    def get(self, reference: str) -> dict[str, Any]:
        """Find the image of a container that is to be created.

        Raises:
            RefusedError: there is none, and nowhere to pull it from.
        """
        found = self.find(reference)
        if found is None:
            raise no_registry(reference)
        return found

    def load(self, file: IO[bytes]) -> list[str]:
        """Read an OCI archive; returns the references of its images.

        Raises:
            RefusedError: it is no such archive.
        """
        try:
            with tarfile.open(fileobj=io.BytesIO(file.read())) as archive:
                found = dict(_read(archive))
        except (tarfile.TarError, KeyError, ValueError, TypeError) as error:
            raise RefusedError(f"failed to load the archive: {error or 'not an image'}") from error
        with self._lock:
            self._known.update(found)
        return list(found)

    def tag(self, source: str, target: str) -> str:
        """Give an image one more name."""
        found = self.find(source)
        if found is None:
            raise RefusedError(f"image not found: {source}")
        name = complete(target)
        configuration = {**found["configuration"], "name": name}
        with self._lock:
            self._known[name] = {**found, "configuration": configuration}
        return name

    def delete(self, references: Iterable[str]) -> tuple[list[str], list[str]]:
        """Forget images; returns the references that went, and those that there were not."""
        gone: list[str] = []
        missing: list[str] = []
        with self._lock:
            for reference in references:
                known = self._known.pop(complete(reference), None)
                (missing if known is None else gone).append(reference)
        return gone, missing


def no_registry(reference: str) -> RefusedError:
    """What the emulator says where the real one would pull."""
    said = f"image {reference} is not here, and the emulator has no registry to pull it from"
    return RefusedError(f"{said}: use `container image load`")


def _read(archive: tarfile.TarFile) -> Iterable[tuple[str, dict[str, Any]]]:
    index = json.loads(_member(archive, "index.json"))
    for descriptor in index["manifests"]:
        notes = descriptor.get("annotations", {})
        name = next((notes[key] for key in (*_NAMES, _SHORT_NAME) if key in notes), "")
        if not name:
            raise ValueError("an image of it has no name")
        yield complete(name), _shape(archive, complete(name), descriptor)


def _shape(archive: tarfile.TarFile, name: str, descriptor: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON shows of an image, an index or a single manifest."""
    manifests: Sequence[Mapping[str, Any]] = [descriptor]
    if descriptor.get("mediaType") == _INDEX:
        manifests = _blob(archive, descriptor["digest"])["manifests"]
    variants = [_variant(archive, one) for one in manifests]
    keys = ("digest", "mediaType", "size")
    created = [one["config"]["created"] for one in variants if "created" in one["config"]]
    return {
        "configuration": {
            "creationDate": created[0] if created else _EPOCH,
            "descriptor": {key: descriptor[key] for key in keys},
            "name": name,
        },
        "id": descriptor["digest"].partition(":")[2],
        "variants": variants,
    }


def _variant(archive: tarfile.TarFile, descriptor: Mapping[str, Any]) -> dict[str, Any]:
    manifest = _blob(archive, descriptor["digest"])
    config = _blob(archive, manifest["config"]["digest"])
    platform = {"architecture": config["architecture"], "os": config["os"]}
    if "variant" in config:
        platform["variant"] = config["variant"]
    sizes = [layer["size"] for layer in manifest["layers"]]
    size = descriptor["size"] + manifest["config"]["size"] + sum(sizes)
    return {"config": config, "digest": descriptor["digest"], "platform": platform, "size": size}


def _blob(archive: tarfile.TarFile, digest: str) -> Any:
    algorithm, _, value = digest.partition(":")
    return json.loads(_member(archive, f"blobs/{algorithm}/{value}"))


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    for known in (name, f"./{name}"):
        try:
            file = archive.extractfile(known)
        except KeyError:
            continue
        if file is not None:
            return file.read()
    raise KeyError(f"it has no {name}")


def archive(reference: str, config: Mapping[str, Any] | None = None) -> bytes:
    """Make an OCI archive of an image without a single file, for the emulator to load.

    Args:
        reference: its name, such as ``example.test/agent:1``.
        config: what an image says of the process it is for, as OCI's ``config`` object
            (``Env``, ``Cmd``, ``User``, …).
    """
    blobs: dict[str, bytes] = {}

    def add(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
        data = json.dumps(content, sort_keys=True).encode()
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "mediaType": kind, "size": len(data)}

    rootfs = {"diff_ids": [], "type": "layers"}
    about = {"architecture": "arm64", "config": dict(config or {}), "os": "linux"}
    described = add(_CONFIG, {**about, "rootfs": rootfs})
    manifest = {"config": described, "layers": [], "mediaType": _MANIFEST, "schemaVersion": 2}
    image = add(_MANIFEST, manifest)
    index = add(_INDEX, {"manifests": [image], "mediaType": _INDEX, "schemaVersion": 2})
    index["annotations"] = {_NAMES[0]: complete(reference)}
    blobs["index.json"] = json.dumps({"manifests": [index], "schemaVersion": 2}).encode()
    blobs["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as file:
        for name, data in blobs.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return packed.getvalue()
