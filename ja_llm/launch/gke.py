"""GKE: a JobSet, as XPK makes them, that starts all pods again when one is lost and none when the run itself failed.

Fields and their meaning: JobSet API v1alpha2 (jobset.sigs.k8s.io), Kubernetes batch/v1 Job (pod failure policy), GKE's "About TPUs in GKE".
Needs JobSet 0.6 or newer (rules of a failure policy). JobSet itself has no pause between restarts.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import yaml

from ja_llm.errors import UsageError
from ja_llm.launch.command import check_name, check_word, joined_by_itself
from ja_llm.launch.flags import environment
from ja_llm.launch.mounts import Mount
from ja_llm.launch.restarts import FAILED, MISUSED
from ja_llm.launch.topology import Slice

# Value of GKE's node label cloud.google.com/gke-accelerator, and the GPUs of a machine.
GPUS = {"a100": ("nvidia-tesla-a100", 8), "h100": ("nvidia-h100-80gb", 8), "h200": ("nvidia-h200-141gb", 8)}
_PORT = 8476


@dataclasses.dataclass(frozen=True)
class JobSet:
    """What `kubectl apply` is given: one slice or several, or GPU nodes.

    Attributes:
      name: of the JobSet.
      image: of the container (containers/train/Dockerfile).
      command: program and arguments of each pod.
      tpu: the slice; None for GPUs.
      slices: how many slices, joined over the data centre's network.
      hardware: "h100", ... for GPUs; None for TPUs.
      nodes: GPU machines, all GPUs of each in one process.
      restarts: of the whole, in all (JobSet does not know about progress).
      grace: seconds between SIGTERM and SIGKILL: time to save.
      flags: whether to set the recommended compiler flags.
      namespace, queue, service_account: None for the cluster's default; queue is Kueue's.
      spot: nodes that may be taken away.
      mounts: folders of the container.
    """

    name: str
    image: str
    command: list[str]
    tpu: Slice | None = None
    slices: int = 1
    hardware: str | None = None
    nodes: int = 1
    restarts: int = 10
    grace: int = 300
    flags: bool = True
    namespace: str | None = None
    queue: str | None = None
    service_account: str | None = None
    spot: bool = False
    mounts: Sequence[Mount] = ()

    def manifest(self) -> dict[str, Any]:
        """The JobSet as Kubernetes' fields.

        Raises:
          UsageError: a value can't stand in it.
        """
        if (self.tpu is None) == (self.hardware is None):
            raise UsageError("give --topology (TPU) or --hardware with --nodes (GPU), one of the two.")
        if self.slices < 1 or self.nodes < 1 or self.restarts < 0 or self.grace < 0:
            raise UsageError(
                f"--slices {self.slices} --nodes {self.nodes} --max_restarts {self.restarts} --grace {self.grace}: too small."
            )
        if self.tpu is None and self.slices != 1:
            raise UsageError(
                f"--slices {self.slices} with --hardware {self.hardware}: slices are TPUs'; give the machines as --nodes."
            )
        if self.tpu is not None and self.nodes != 1:
            raise UsageError(f"--nodes {self.nodes} with --topology: the slice says how many machines it has; leave --nodes out.")
        name = check_name("--name", self.name)
        metadata: dict[str, Any] = {"name": name}
        if self.namespace is not None:
            metadata["namespace"] = check_name("--namespace", self.namespace, 63)
        if self.queue is not None:
            metadata["labels"] = {"kueue.x-k8s.io/queue-name": check_name("--queue", self.queue, 63)}
        # One slice is one node pool: a job has it for itself.
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
        spec = {"failurePolicy": self._policy(), "replicatedJobs": [self._job()]}
        return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata, "spec": spec}

    def _policy(self) -> dict[str, Any]:
        """A pod that failed by itself (1, 2) fails its Job for the reason PodFailurePolicy, and with it the JobSet; else all start again."""
        rule = {"name": "runFailed", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
        return {"maxRestarts": self.restarts, "rules": [rule]}

    def _job(self) -> dict[str, Any]:
        hosts = self.nodes if self.tpu is None else self.tpu.hosts
        codes = {"containerName": "train", "operator": "In", "values": [FAILED, MISUSED]}
        job = {
            "parallelism": hosts,
            "completions": hosts,
            "completionMode": "Indexed",
            "backoffLimit": 0,  # one lost pod ends the Job, so that all of its pods start again together
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": codes}]},
            "template": {**self._annotations(), "spec": self._pod()},
        }
        return {"name": "slice", "replicas": self.slices if self.tpu else 1, "template": {"spec": job}}

    def _annotations(self) -> dict[str, Any]:
        """What has GKE put its side container for buckets into the pod, where there is one."""
        buckets = any(mount.source.startswith("gs://") for mount in self.mounts)
        return {"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}} if buckets else {}

    def _pod(self) -> dict[str, Any]:
        if self.tpu is not None:
            selector = {
                "cloud.google.com/gke-tpu-accelerator": self.tpu.facts.label,
                "cloud.google.com/gke-tpu-topology": self.tpu.shape,
            }
            resource, count, kind = "google.com/tpu", self.tpu.chips // self.tpu.hosts, self.tpu.generation
            command = joined_by_itself(self.command)
        else:
            if self.hardware not in GPUS:
                raise UsageError(f"--hardware {self.hardware}: under GKE it is one of {', '.join(GPUS)}.")
            label, count = GPUS[self.hardware]
            selector, resource, kind = {"cloud.google.com/gke-accelerator": label}, "nvidia.com/gpu", self.hardware
            # The first pod's name under the JobSet's own headless service.
            address = f"{self.name}-slice-0-0.{self.name}:{_PORT}"
            command = [*self.command, f"--coordinator_address={address}", f"--process_count={self.nodes}"]
        if self.spot:
            selector["cloud.google.com/gke-spot"] = "true"
        words = [word.replace("$(", "$$(") for word in command]  # $(NAME) is Kubernetes' own
        if self.tpu is None:
            words.append("--process_index=$(JOB_COMPLETION_INDEX)")
        container: dict[str, Any] = {
            "name": "train",
            "image": check_word("--image", self.image),
            "command": words[:1],
            "args": words[1:],
            "resources": {"limits": {resource: count}},
            "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # NCCL and the data workers want more than 64 MiB
        }
        if self.flags and (variables := environment(kind, {})):
            container["env"] = [{"name": name, "value": value} for name, value in variables.items()]
        pod: dict[str, Any] = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": self.grace,
            "nodeSelector": selector,
            "containers": [container],
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
        }
        for number, mount in enumerate(self.mounts):
            pod["volumes"].append(mount.volume(f"mount-{number}", host_network=self.tpu is not None))
            container["volumeMounts"].append({"name": f"mount-{number}", "mountPath": mount.path, "readOnly": mount.read_only})
        if self.service_account is not None:
            pod["serviceAccountName"] = check_name("--service_account", self.service_account, 63)
        if self.tpu is not None:
            pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
            container["ports"] = [{"containerPort": 8471}, {"containerPort": _PORT}]  # of libtpu, of the coordinator
            container["securityContext"] = {"privileged": True}
        return pod

    def yaml(self) -> str:
        """The manifest as YAML."""
        return yaml.safe_dump(self.manifest(), sort_keys=False, width=200)
