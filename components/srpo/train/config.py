"""Every default of the `train` stage: the published settings of FLUX.1-dev with HPSv2.1 (paper, section 4)."""

import dataclasses
from typing import Any, Literal

from srpo.core.contracts.config import place
from srpo.core.contracts.errors import require

COUNT = "a whole number of at least 1"
# What accelerate knows, written out: it imports torch, and settings are checked where there is none.
Tracker = Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One training run. Sigmas are in [0, 1], 1 = pure noise; a step is one optimiser step of a batch."""

    method: Literal["direct_align", "refl", "draft", "draft_lv"] = "direct_align"
    seed: int = 0
    steps: int = 20
    batch_size: int = 32  # prompts a step, over all processes

    # The optimiser: AdamW, constant rate, full parameters.
    learning_rate: float = 5e-6
    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 0.1
    precision: Literal["fp32_master", "bf16_stochastic"] = "fp32_master"  # or bfloat16 weights, 8-bit moments
    ema_decay: float = 0.0  # above 0, what is judged and shipped is the moving average

    # Low-rank adaptation in place of full parameters; rank 0 trains all parameters.
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    quantised_base: bool = False  # the frozen base's matrices in 8 bits while training; what ships is the base as it is

    # The rollout from known noise to a clean latent, without gradient.
    resolution: int = 720
    rollout_steps: int = 25
    rollout_guidance: float = 1.0
    schedule: Literal["static", "model"] = "static"  # the sampler's: `shift`, or the one that the model comes with
    shift: float = 3.0
    shared_noise: bool = True  # one noise a step for the whole batch (as published), or one a sample
    offline_images: str = ""  # folder of <prompt_id>.png: clean latents from real images in place of rollouts

    # Direct-Align: one model step between two sigmas of a grid, recovered by the known noise.
    guidance: float = 3.5
    true_guidance: float = 1.0  # of FLUX, in rollouts too: above 1, a second call leads away from the empty prompt
    sigma_high: float = 27 / 28  # step 5 of a 50-step schedule with shift 3
    sigma_low: float = 0.75  # step 25 of it
    sigma_bins: int = 1000
    interval_bins: int = 100
    injections: int = 1  # gradient passes a rollout (eq. 6)
    matched_destination: bool = False
    interval_per_sample: bool = False  # one interval a step for the whole batch (as published), or one a sample

    # The baselines: how late ReFL stops, how many steps DRaFT-K and how many draws DRaFT-LV goes through.
    refl_window: float = 0.4
    draft_steps: int = 1
    draft_lv_draws: int = 2

    # The relative reward: discounts are (at sigma_low, at sigma_high), linear between.
    reward_form: Literal["stable", "srp", "sgp", "cfg", "plain"] = "stable"
    branches: Literal["both", "denoise", "inversion"] = "both"
    k_denoise: tuple[float, ...] = (0.10, 0.25)
    k_inversion: tuple[float, ...] = (0.30, 0.01)
    loss: Literal["hinge", "reward"] = "hinge"  # relu(margin - r), or -r
    margin: float = 0.7
    late_weighting: bool = False  # the published multiplier lambda(sigma) on the reward
    words_per: Literal["step", "sample"] = "step"
    image_pairs: float = 0.0  # above 0: reward the image against a copy with noise of this standard deviation
    reward_dtype: Literal["float32", "bfloat16"] = "float32"

    # How it runs.
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int = 1  # ranks: the GPUs of all pods, or processes on a CPU
    micro_batch_size: int = 4  # rows a forward: samples; in a gradient pass samples x branches x injections
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: Literal["auto", "always", "never"] = "auto"  # activations computed again: as memory demands
    checkpoint_every: int = 5
    checkpoint_minutes: float = place(10.0)  # as well after so long without one, when a step ends; 0: by steps alone
    keep_checkpoints: int = 2
    nonfinite_limit: int = 3  # steps skipped for a loss or gradient that is not finite, before the run stops
    trackers: tuple[Tracker, ...] = ("tensorboard",)

    # Several nodes: above 1, the ranks stand in that many pods of a Kubeflow TrainJob (docs/cluster.md).
    nodes: int = place(1)
    runtime: str = place("srpo-train")  # the TrainingRuntime: manifests/several-nodes
    queue: str = place("")  # Kueue's LocalQueue, if there is one
    deadline: int = place(48 * 3600)  # seconds that the job may run
    node_cpu: str = place("16")  # of each such pod, as request and limit; a single pod has the compiled package's
    node_memory: str = place("128Gi")
    gpu_type: str = place("nvidia.com/gpu")  # as the resource is called
    node_selector: dict[str, str] = place({})
    tolerations: list[Any] = place([])

    # The guard: every so many steps, fixed prompts and noise are judged by the held-out reward.
    guard_every: int = 5
    guard_prompts: int = 8
    guard_noises: int = 2
    guard_steps: int = 25
    guard_tolerance: float = 0.02  # how far the held-out alignment (a cosine) of what ships may fall below the base's
    guard_drift: float = 3.0  # by which factor an image statistic of what ships may differ from the base's
    guard_patience: int = 2  # unsound readings in a row that stop the run

    def __post_init__(self) -> None:
        for name in ("batch_size", "rollout_steps", "resolution", "injections", "processes", "micro_batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), COUNT)
        for name in ("nodes", "deadline"):
            require(getattr(self, name) >= 1, name, getattr(self, name), COUNT)
        require(self.processes % self.nodes == 0, "processes", self.processes, f"a multiple of the {self.nodes} nodes")
        require(self.guard_drift > 1, "guard_drift", self.guard_drift, "a factor above 1")
        for name in ("draft_steps", "draft_lv_draws", "keep_checkpoints", "nonfinite_limit", "guard_patience"):
            require(getattr(self, name) >= 1, name, getattr(self, name), COUNT)
        for name in ("checkpoint_every", "guard_every", "guard_prompts", "guard_noises", "guard_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), COUNT)
        require(self.steps >= 1, "steps", self.steps, COUNT)
        for name in ("learning_rate", "weight_decay", "guard_tolerance", "margin"):
            require(0 <= getattr(self, name) < float("inf"), name, getattr(self, name), "a number of at least 0")
        for name in ("guidance", "true_guidance", "rollout_guidance"):
            require(0 <= getattr(self, name) < float("inf"), name, getattr(self, name), "a number of at least 0")
        require(0 <= self.image_pairs < 1, "image_pairs", self.image_pairs, "a standard deviation in [0, 1)")
        minutes = self.checkpoint_minutes
        require(0 <= minutes < float("inf"), "checkpoint_minutes", minutes, "a number of at least 0")
        for name in ("clip_norm", "shift"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a number above 0")
        require(self.lora_rank >= 0, "lora_rank", self.lora_rank, "a whole number of at least 0")
        require(self.lora_alpha > 0, "lora_alpha", self.lora_alpha, "above 0: it scales what the adapter adds")
        if self.quantised_base:
            require(
                self.lora_rank > 0, "quantised_base", self.quantised_base, "false without lora_rank: no base is frozen"
            )
        if self.precision == "bf16_stochastic":
            require(
                self.compute_dtype == "bfloat16", "compute_dtype", self.compute_dtype, "bfloat16 as the weights are"
            )
            what = "0 with bf16_stochastic: an adapter is small, and keeps float32 masters"
            require(self.lora_rank == 0, "lora_rank", self.lora_rank, what)
        require(0 < self.refl_window <= 1, "refl_window", self.refl_window, "in (0, 1]")
        require(self.draft_steps <= self.rollout_steps, "draft_steps", self.draft_steps, "at most rollout_steps")
        for name in ("beta1", "beta2", "ema_decay"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a number in [0, 1)")
        require(0 < self.sigma_low < 1, "sigma_low", self.sigma_low, "in (0, 1)")
        require(
            self.sigma_low < self.sigma_high <= 0.999,
            "sigma_high",
            self.sigma_high,
            "above sigma_low and at most 0.999: recovery divides by 1 - sigma",
        )
        require(self.sigma_bins >= 2, "sigma_bins", self.sigma_bins, "a whole number of at least 2")
        require(
            1 <= self.interval_bins < self.sigma_bins,
            "interval_bins",
            self.interval_bins,
            f"between 1 and sigma_bins - 1 = {self.sigma_bins - 1}",
        )
        for name in ("k_denoise", "k_inversion"):
            value = getattr(self, name)
            require(len(value) == 2, name, list(value), "two numbers: at sigma_low and at sigma_high")
        if self.matched_destination:
            floor = self.sigma_low - self.interval_bins * (self.sigma_high - self.sigma_low) / self.sigma_bins
            require(floor >= 0, "sigma_low", self.sigma_low, "one interval above 0, where matched inversions start")
        require(
            self.batch_size % self.processes == 0,
            "batch_size",
            self.batch_size,
            f"a multiple of the {self.processes} processes",
        )

    @property
    def static_shift(self) -> float | None:
        """The shift of the sampler's schedule; None for the model's own schedule."""
        return self.shift if self.schedule == "static" else None
