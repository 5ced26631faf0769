"""What is handed to Kubernetes: a JobSet by the fields of its own schema, with the words and folders that were given."""

import re

import pytest
import yaml

from ja_llm.cli import main
from ja_llm.errors import UsageError
from ja_llm.launch.gke import JobSet
from ja_llm.launch.mounts import parse_mounts
from ja_llm.launch.topology import parse_topology
from tests.launch.words import HOSTILE

TEXT, WHOLE, TRUTH = str, int, bool
NAMED = {"name": TEXT, "value": TEXT}
CONTAINER = {
    "name": TEXT,
    "image": TEXT,
    "command": [TEXT],
    "args": [TEXT],
    "env": [NAMED],
    "ports": [{"containerPort": WHOLE}],
    "resources": {"limits": {"google.com/tpu": WHOLE, "nvidia.com/gpu": WHOLE}},
    "securityContext": {"privileged": TRUTH},
    "volumeMounts": [{"name": TEXT, "mountPath": TEXT, "readOnly": TRUTH}],
}
POD = {
    "restartPolicy": TEXT,
    "terminationGracePeriodSeconds": WHOLE,
    "nodeSelector": {},
    "containers": [CONTAINER],
    "volumes": [
        {
            "name": TEXT,
            "emptyDir": {"medium": TEXT},
            "hostPath": {"path": TEXT},
            "persistentVolumeClaim": {"claimName": TEXT, "readOnly": TRUTH},
            "csi": {"driver": TEXT, "readOnly": TRUTH, "volumeAttributes": {}},
        }
    ],
    "serviceAccountName": TEXT,
    "hostNetwork": TRUTH,
    "dnsPolicy": TEXT,
}
ON_CODES = {"containerName": TEXT, "operator": TEXT, "values": [WHOLE]}
JOB = {
    "parallelism": WHOLE,
    "completions": WHOLE,
    "completionMode": TEXT,
    "backoffLimit": WHOLE,
    "podFailurePolicy": {"rules": [{"action": TEXT, "onExitCodes": ON_CODES}]},
    "template": {"metadata": {"annotations": {}}, "spec": POD},
}
# Fields of jobset.x-k8s.io/v1alpha2 (kubernetes-sigs/jobset, hack/python-sdk/swagger.json), batch/v1 and v1 that a training run may have.
JOBSET = {
    "apiVersion": TEXT,
    "kind": TEXT,
    "metadata": {"name": TEXT, "namespace": TEXT, "labels": {}, "annotations": {}},
    "spec": {
        "failurePolicy": {"maxRestarts": WHOLE, "rules": [{"name": TEXT, "action": TEXT, "onJobFailureReasons": [TEXT]}]},
        "replicatedJobs": [{"name": TEXT, "replicas": WHOLE, "template": {"spec": JOB}}],
    },
}


def conforms(value, schema, where="") -> None:
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        for key, inner in value.items():
            assert isinstance(key, str), where
            if schema:
                assert key in schema, f"{where}.{key} is no field"
                conforms(inner, schema[key], f"{where}.{key}")
            else:
                assert isinstance(inner, str), f"{where}.{key}"  # labels, selectors: text only
    elif isinstance(schema, list):
        assert isinstance(value, list) and value, where
        for inner in value:
            conforms(inner, schema[0], f"{where}[]")
    else:
        assert type(value) is schema, where


def jobset(**more) -> dict:
    given = {"name": "swallow", "image": "ghcr.io/lab/ja_llm:1", "command": ["ja-llm", "train"], **more}
    value = yaml.safe_load(JobSet(**given).yaml())
    conforms(value, JOBSET)
    return value


def pod(value: dict) -> dict:
    return value["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_a_jobset_of_a_slice():
    value = jobset(tpu=parse_topology("v5p:4x4x4"), slices=2, queue="lab", namespace="train", service_account="writer", spot=True)
    job = value["spec"]["replicatedJobs"][0]
    assert job["replicas"] == 2 and job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == 16
    container = pod(value)["containers"][0]
    assert container["resources"]["limits"] == {"google.com/tpu": 4} and container["args"][-1] == "--coordinator_address=auto"
    assert container["env"][0]["name"] == "LIBTPU_INIT_ARGS"
    selector = pod(value)["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-topology"] == "4x4x4" and selector["cloud.google.com/gke-spot"] == "true"


def test_a_jobset_starts_again_on_all_codes_but_failure_and_misuse():
    value = jobset(tpu=parse_topology("v6e:2x2"), restarts=4)
    job = value["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0 and pod(value)["restartPolicy"] == "Never"  # both are what a pod failure policy needs
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1, 2]
    policy = value["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 4
    assert (policy["rules"][0]["action"], policy["rules"][0]["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", policy["rules"][0]["name"])  # the API's own pattern


def test_a_jobset_of_gpu_nodes_meets_at_its_first_pod():
    container = pod(jobset(hardware="h100", nodes=16))["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert container["args"][-3:] == [
        "--coordinator_address=swallow-slice-0-0.swallow:8476",
        "--process_count=16",
        "--process_index=$(JOB_COMPLETION_INDEX)",
    ]


def test_a_container_sees_buckets_claims_and_folders(capsys):
    mounts = ["gs://lab/data/tokens:/mnt/tokens:ro", "pvc://models-1:/mnt/models", "/mnt/disks/ssd:/scratch"]
    for hardware in (["--topology", "v6e:4x4"], ["--hardware", "h100"]):
        words = [word for mount in mounts for word in ("--mount", mount)]
        assert (
            main(["launch", "gke", "--name=swallow", "--image=i", *hardware, *words, "--dry_run", "--", "ja-llm", "train"]) == 0
        )
        conforms(value := yaml.safe_load(capsys.readouterr().out), JOBSET)
        template = value["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
        assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
        shm, bucket, claim, folder = template["spec"]["volumes"]
        attributes = {"bucketName": "lab", "mountOptions": "implicit-dirs,only-dir=data/tokens"}
        if "--topology" in hardware:  # on the node's network
            attributes["hostNetworkPodKSA"] = "true"
        assert bucket["csi"] == {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True, "volumeAttributes": attributes}
        assert claim["persistentVolumeClaim"]["claimName"] == "models-1" and folder["hostPath"] == {"path": "/mnt/disks/ssd"}
        seen = template["spec"]["containers"][0]["volumeMounts"]
        assert [one["name"] for one in seen] == [one["name"] for one in (shm, bucket, claim, folder)]
        assert [(one["mountPath"], one["readOnly"]) for one in seen[1:]] == [
            ("/mnt/tokens", True),
            ("/mnt/models", False),
            ("/scratch", False),
        ]
    plain = jobset(tpu=parse_topology("v6e:4x4"), mounts=parse_mounts(["/a:/b"]))
    assert "metadata" not in plain["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]


@pytest.mark.parametrize(
    "texts",
    [
        ["data:/mnt"],
        ["gs://lab"],
        ["gs://Lab:/mnt"],
        ["/a:/b:rw"],
        ["/a:b"],
        ["/a,b:/c"],
        ["/a:/b/../c"],
        ["/../a:/c"],
        ["s3://lab:/mnt"],
        ["/a:/dev/shm"],
        ["/a:/c", "/b:/c/"],
        ["/a:/b\n"],
    ],
)
def test_mounts_that_there_are_not(texts):
    with pytest.raises(UsageError, match="--mount"):
        parse_mounts(texts)


def test_a_hostile_command_is_the_same_words_in_yaml():
    container = pod(jobset(tpu=parse_topology("v5e:2x4"), command=HOSTILE))["containers"][0]
    words = [*container["command"], *container["args"]][:-1]
    # Kubernetes reads $(NAME), and $$( as $(.
    assert [word.replace("$$(", "$(") for word in words] == HOSTILE and "$$(touch" in words[3]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"name": "Swallow"}, "a name is 40 characters"),
        ({"name": "a\n---\nkind: Pod"}, "a name is 40"),
        ({"image": "x\ny"}, "--image"),
        ({"queue": "a: b"}, "--queue"),
        ({"hardware": "h100"}, "one of the two"),
        ({"tpu": None}, "one of the two"),
        ({"slices": 0}, "too small"),
        ({"nodes": 7}, "leave --nodes out"),
        ({"tpu": None, "hardware": "h100", "slices": 4}, "slices are TPUs'"),
    ],
)
def test_a_jobset_s_values_are_checked(more, says):
    with pytest.raises(UsageError, match=says):
        jobset(**{"tpu": parse_topology("v6e:4x4"), **more})
