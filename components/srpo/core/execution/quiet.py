"""Make third-party libraries speak only when something is wrong: a pod's log is for progress and errors."""

import os
import warnings


def quiet() -> None:
    """Call before models are loaded. Also keeps the libraries from looking for a hub: models come from the cache."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import diffusers
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    # FSDP warns of blocks that return views; nothing here changes a block's output in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor", category=UserWarning)
