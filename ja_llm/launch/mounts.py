"""What a container sees beside its image: buckets, volumes and folders of the machine, as `--mount SOURCE:PATH[:ro]`.

Fields: Kubernetes v1 Volume and VolumeMount; GKE, "Mount Cloud Storage buckets as CSI ephemeral volumes" (annotation, driver, attributes), and
the driver's own page on host network (docs/authentication.md of gcs-fuse-csi-driver: `hostNetworkPodKSA`, driver 1.17.2 or newer).
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from ja_llm.errors import UsageError

# Without colons, commas and quotes, which Docker, Kubernetes and the bucket's driver read.
_PATH = r"/[-A-Za-z0-9_.@+=/]+"
_MOUNT = re.compile(
    rf"(?P<source>gs://[a-z0-9][-a-z0-9_.]+[a-z0-9](?:/[-A-Za-z0-9_.@+=/]*)?|pvc://[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?|{_PATH})"
    rf":(?P<path>{_PATH})(?P<ro>:ro)?"
)


@dataclasses.dataclass(frozen=True)
class Mount:
    """One folder of a container.

    Attributes:
      source: "gs://BUCKET[/FOLDER]", "pvc://CLAIM" or "/FOLDER" of the machine.
      path: where it is in the container.
      read_only: whether nothing can be written there.
    """

    source: str
    path: str
    read_only: bool = False

    @property
    def of_machine(self) -> bool:
        """Whether it is a folder of the machine itself."""
        return self.source.startswith("/")

    def docker(self) -> str:
        """As `docker run -v` takes it; only for a folder of the machine."""
        return f"{self.source}:{self.path}{':ro' if self.read_only else ''}"

    def volume(self, name: str, host_network: bool) -> dict[str, Any]:
        """As Kubernetes takes it.

        Args:
          name: of the volume in its pod.
          host_network: whether the pod is on the node's network.
        """
        if self.of_machine:
            return {"name": name, "hostPath": {"path": self.source}}
        kind, _, rest = self.source.partition("://")
        if kind == "pvc":
            return {"name": name, "persistentVolumeClaim": {"claimName": rest, "readOnly": self.read_only}}
        bucket, _, folder = rest.partition("/")
        options = ["implicit-dirs", *([f"only-dir={folder.strip('/')}"] if folder.strip("/") else [])]
        attributes = {"bucketName": bucket, "mountOptions": ",".join(options)}
        if host_network:
            attributes["hostNetworkPodKSA"] = "true"
        return {
            "name": name,
            "csi": {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": self.read_only, "volumeAttributes": attributes},
        }


def parse_mounts(texts: Sequence[str]) -> list[Mount]:
    """The mounts that `--mount` names.

    Raises:
      UsageError: one is none, or two have the same path.
    """
    found: list[Mount] = []
    for text in texts:
        match = _MOUNT.fullmatch(text)
        if not match or ".." in text.split(":", 1)[1].split("/") or ".." in match["source"].split("/"):
            raise UsageError(
                f"--mount {text!r}: write SOURCE:PATH or SOURCE:PATH:ro, both whole and without .., with a source of gs://BUCKET/FOLDER, "
                "pvc://CLAIM or /FOLDER, e.g. gs://lab/tokens:/mnt/tokens:ro."
            )
        mount = Mount(match["source"], match["path"].rstrip("/"), match["ro"] is not None)
        if mount.path in ("", "/dev/shm") or mount.path in [other.path for other in found]:
            raise UsageError(f"--mount {text!r}: {mount.path or '/'} is taken in the container; choose another path.")
        found.append(mount)
    return found
