"""Break the method on purpose, one line at a time, and see that a named test notices.

Each mutation replaces a text that occurs exactly once in a copy of the package, then runs the one test that must fail.
What is checked first: every text is still there (a refactoring cannot silently disable a mutation), and every named
test passes without a mutation.
"""

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "components"


@dataclasses.dataclass(frozen=True)
class Mutation:
    """``old`` in ``file`` (below srpo/) becomes ``new``; then ``test`` (below tests/srpo/) must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


DIRECT_ALIGN, REWARD = "core/objective/direct_align.py", "core/objective/relative_reward.py"
FLUX, BACKBONE = "core/backbones/flux.py", "core/backbones/backbone.py"
STEP, ESTIMATES = "train/step.py", "train/estimates.py"
PUBLISHED = "train/test_step.py::test_the_step_is_the_published_method"

MUTATIONS = (
    Mutation(
        "flip the inversion's sign",
        DIRECT_ALIGN,
        "_like(end - start, x)",
        "_like(-(end - start).abs(), x)",
        "core/test_direct_align.py::test_inversion_has_its_closed_form_with_the_other_sign",
    ),
    Mutation(
        "swap C1 and C2 in the reward",
        REWARD,
        "towards, away = (image * wanted).sum(-1), (image * other).sum(-1)",
        "away, towards = (image * wanted).sum(-1), (image * other).sum(-1)",
        "core/test_relative_reward.py::test_form",
    ),
    Mutation(
        "swap C1 and C2 in the step",
        STEP,
        "branch_reward(inverted, features, wanted, other, k",
        "branch_reward(inverted, features, other, wanted, k",
        PUBLISHED,
    ),
    Mutation(
        "inversion wants the positive word",
        REWARD,
        "    swap = inverted[:, None]",
        "    swap = torch.zeros_like(inverted)[:, None]",
        "core/test_relative_reward.py::test_the_inversion_swaps_the_words",
    ),
    Mutation(
        "floor the timestep",
        FLUX,
        "timestep=sigma.to(device=device, dtype=torch.float32)",
        "timestep=(sigma * 1000).floor().to(device=device, dtype=torch.float32) / 1000",
        "core/test_flux_backbone.py::test_the_velocity_sees_the_exact_sigma",
    ),
    Mutation(
        "clamp pixels after decoding",
        BACKBONE,
        "return self._decode(self.unpack(x0, height, width)).float() / 2 + 0.5",
        "return (self._decode(self.unpack(x0, height, width)).float() / 2 + 0.5).clamp(0, 1)",
        "core/test_flux_backbone.py::test_decoding_does_not_clamp_so_saturated_pixels_get_a_gradient",
    ),
    Mutation(
        "clamp pixels in the reward",
        "core/rewards/preprocessing.py",
        "return (pixels - self.mean) / self.std",
        "return (pixels.clamp(0, 1) - self.mean) / self.std",
        "train/test_step.py::test_saturated_pixels_get_a_gradient_from_the_reward",
    ),
    Mutation(
        "recover in bfloat16",
        DIRECT_ALIGN,
        "return x if x.dtype == torch.float64 else x.float()",
        "return x if x.dtype == torch.float64 else x.bfloat16()",
        "core/test_direct_align.py::test_recovery_stays_exact_when_the_model_computes_in_bfloat16",
    ),
    Mutation(
        "score only the first caption",
        "train/batches.py",
        "rows = [self.rewards[role](prompt_id, word) for",
        "rows = [self.rewards[role](prompt_ids[0], word) for",
        "train/test_step.py::test_micro_batches_and_ranks_add_up_to_the_batch",
    ),
    Mutation(
        "put the control word into the velocity's prompt",
        "encode_prompts/parts.py",
        "encoder([text]) for",
        'encoder([f"Real. {text}"]) for',
        "train/test_step.py::test_the_embeddings_are_those_of_the_plain_prompt",
    ),
    Mutation(
        "unfreeze the VAE",
        BACKBONE,
        "vae.requires_grad_(False).eval()",
        "vae.eval()",
        "train/test_step.py::test_the_vae_and_the_reward_are_frozen",
    ),
    Mutation(
        "read the discount at the upper sigma",
        ESTIMATES,
        "lower = torch.minimum(start, end)",
        "lower = torch.maximum(start, end)",
        PUBLISHED,
    ),
    Mutation(
        "inject another noise than the rollout's",
        ESTIMATES,
        "direct_align(velocity, x0, noise, start",
        "direct_align(velocity, x0, noise.flip(1), start",
        PUBLISHED,
    ),
    Mutation(
        "noise of its own for each sample where it is shared",
        STEP,
        "    if config.shared_noise:",
        "    if not config.shared_noise:",
        "train/test_step.py::test_noise_and_interval_are_shared_by_the_batch_or_not_as_configured",
    ),
    Mutation(
        "roll out with the gradient step's guidance",
        STEP,
        "condition, config.rollout_guidance, size",
        "condition, config.guidance, size",
        PUBLISHED,
    ),
    Mutation(
        "let gradients into the rollout",
        DIRECT_ALIGN,
        "@torch.no_grad()\ndef euler_rollout",
        "def euler_rollout",
        "core/test_baselines.py::test_refl_jumps_from_its_stop_to_the_clean_latent",
    ),
    Mutation(
        "forget the late weight",
        ESTIMATES,
        "if config.late_weighting else one[0]",
        "if False else one[0]",
        "train/test_step.py::test_the_late_weight_scales_the_gradient",
    ),
    Mutation(
        "round weights to the nearest",
        "train/adamw8bit.py",
        "values.view(torch.int32) + random.to(torch.int32)",
        "values.view(torch.int32) + 32768",
        "train/test_adamw8bit.py::test_steps_far_below_the_resolution_of_bfloat16_still_move_the_weights",
    ),
    Mutation(
        "round moments down",
        "train/adamw8bit.py",
        "(lower + upwards).to(torch.uint8)",
        "lower.to(torch.uint8)",
        "train/test_adamw8bit.py::test_moments_are_quantised_without_bias",
    ),
    Mutation(
        "draw a shard's random bits as if it were the first",
        "train/adamw8bit.py",
        "(first_row(parameter) + first) * columns",
        "first * columns",
        "train/test_adamw8bit.py::test_a_shard_is_updated_as_it_is_within_the_whole_parameter",
    ),
    Mutation(
        "look at the gradient only for what is not finite",
        "train/worker.py",
        "return math.isfinite(norm) and math.isfinite(loss)",
        "return math.isfinite(norm)",
        "train/test_memory_and_guard.py::test_a_step_is_taken_only_with_a_finite_loss_and_gradient",
    ),
    Mutation(
        "forget the margin",
        REWARD,
        "else torch.relu(margin - weight * reward)",
        "else margin - weight * reward",
        "core/test_relative_reward.py::test_the_margin_stops_the_gradient",
    ),
)


class MutationError(Exception):
    """The mutations cannot be judged: a text is not there once, or a test fails without a mutation."""


def check_texts(mutations: Sequence[Mutation] = MUTATIONS, package: Path = PACKAGE) -> None:
    """Raise :class:`MutationError` unless every mutation's text occurs exactly once in its file."""
    for mutation in mutations:
        count = (package / "srpo" / mutation.file).read_text(encoding="utf-8").count(mutation.old)
        if count != 1:
            raise MutationError(
                f"{mutation.name!r}: {mutation.old!r} occurs {count} times in {mutation.file}, not once"
            )


def failures(package: Path, tests: Sequence[str]) -> dict[str, str]:
    """Run ``tests`` on the copy ``package``: what failed, with its reason; empty when all passed.

    Raises:
        MutationError: a test that could not be run at all (a broken import or fixture is no proof), or the run was
            not of the copy.
    """
    environment = os.environ | {
        "PYTHONPATH": str(package),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    where = [sys.executable, "-c", "import srpo; print(srpo.__file__)"]
    imported = subprocess.run(where, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if not Path(imported.strip()).is_relative_to(package):
        raise MutationError(f"the tests would import {imported.strip()}, not the copy")
    results = package / "results.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={results}"]
    done = subprocess.run(
        [*command, *(f"tests/srpo/{test}" for test in tests)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise MutationError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found = {}
    for case in ElementTree.parse(results).iter("testcase"):
        if case.find("error") is not None or case.find("skipped") is not None:
            raise MutationError(f"{case.get('name')} was not run:\n{done.stdout[-2000:]}")
        failure = case.find("failure")
        if failure is not None:
            found[str(case.get("name"))] = " ".join((failure.get("message") or "failed").split())
    return found


def judge(mutations: Sequence[Mutation] = MUTATIONS) -> Iterator[tuple[Mutation, dict[str, str]]]:
    """Each mutation with what it made fail (nothing: a survivor), after all tests have passed without one.

    Raises:
        MutationError: a text is not there once, or a test fails without a mutation or cannot be run.
    """
    check_texts(mutations)
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        package = Path(folder).resolve()
        shutil.copytree(PACKAGE / "srpo", package / "srpo", ignore=shutil.ignore_patterns("__pycache__"))
        broken = failures(package, list(dict.fromkeys(mutation.test for mutation in mutations)))
        if broken:
            raise MutationError(f"without a mutation these fail: {broken}")
        for mutation in mutations:
            file = package / "srpo" / mutation.file
            whole = file.read_text(encoding="utf-8")
            file.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
            yield mutation, failures(package, [mutation.test])
            file.write_text(whole, encoding="utf-8")


def main() -> int:
    """Print a table of the mutations; 0 when each was noticed, 1 when one survived, 2 when none could be judged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="TEXT", default="", help="only mutations whose name contains TEXT")
    parser.add_argument("--list", action="store_true", help="check the texts, print the mutations and run nothing")
    args = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if args.only in mutation.name]
    survivors = 0
    try:
        if not chosen:
            raise MutationError(f"no mutation's name contains {args.only!r}")
        check_texts(chosen)
        if args.list:
            for mutation in chosen:
                print(f"{mutation.name:55} {mutation.test}")
            return 0
        for mutation, failed in judge(chosen):
            survivors += not failed
            print(f"{'noticed' if failed else 'SURVIVED':9} {mutation.name:55} {mutation.test}", flush=True)
            for name, reason in list(failed.items())[:1]:
                print(f"{'':9} {name}: {reason[:140]}", flush=True)
    except MutationError as refused:
        print(f"mutate: {refused}", file=sys.stderr)
        return 2
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations were noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
