"""What a pod is told from outside reaches it under names of our own, and the libraries under theirs.

On a cluster another program starts a stage: Kubeflow's launcher, which reads artifacts and calls services. It obeys
the variables that our libraries obey (``AWS_ENDPOINT_URL_S3``, ``HTTPS_PROXY``). The API server may add some of them to
every pod, and a second entry of one name would make the pod invalid. So the package says ``SRPO_AWS_REGION``, and a
stage takes it for ``AWS_REGION`` where nobody has set that.
"""

import os

PREFIX = "SRPO_"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
HUB = ("HF_TOKEN",)
TRACKERS = ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN")
# What is no secret: endpoints, regions, proxies.
PLACES = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_CA_BUNDLE",
    "HF_ENDPOINT",
    "MLFLOW_TRACKING_URI",
    "WANDB_BASE_URL",
    "HTTPS_PROXY",
    "NO_PROXY",
)
# Taken together or not at all: half a login is none, and a token goes to no other server than its own.
TOGETHER = (KEYS, ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"), ("HTTPS_PROXY", "NO_PROXY"))


def own_name(name: str) -> str:
    """What a pod's variable is called that a stage takes for ``name``."""
    return f"{PREFIX}{name}"


def take_own_names() -> None:
    """Give each variable that came under our name its plain one, unless that is set already.

    To be called before a library that reads its variables on import (``huggingface_hub``).
    """
    groups = [*TOGETHER, *((name,) for name in (*HUB, *TRACKERS, *PLACES) if not any(name in one for one in TOGETHER))]
    for group in groups:
        if any(os.environ.get(name) or os.environ.get(name.lower()) for name in group):  # proxies have both forms
            continue
        for name in group:
            if given := os.environ.get(own_name(name)):
                os.environ[name] = given
