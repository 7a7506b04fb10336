"""The pages of a release: the model card on Hugging Face's form, and a short report of what was published."""

import json
import re
from pathlib import Path
from typing import Any

import jinja2
import yaml

from srpo.core.reports.page import POLICY
from srpo.core.storage.files import readable_size
from srpo.core.storage.releases import Item
from srpo.export.contents import Pair, shown

HERE = Path(__file__).parent
HUB_LICENCES = {"apache-2.0", "mit", "openrail", "openrail++", "bsd-3-clause", "cc-by-4.0", "cc0-1.0"}
NEGATIVE = {"FluxPipeline": "", "QwenImagePipeline": " "}  # what true guidance leads away from
MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&])")


def model_card(
    release: str,
    licences: dict[str, dict[str, Any]],
    data: list[dict[str, str]],
    parent: dict[str, Any] | None,
    evaluation: dict[str, Any],
    made: dict[str, dict[str, Any]],
    pairs: list[Pair],
    refusal: str,
    files: list[str],
    arguments: dict[str, Any],
    scheduler: str,
) -> str:
    """README.md: a YAML header, results, gates, images, and how to load the model and call it.

    ``arguments`` are those of the call. ``scheduler`` is the class of the base's own: images are drawn by Euler steps
    whatever it is, so the lines put another one aside.
    """
    licence = licences["base"]["licence"]
    known = licence.lower() in HUB_LICENCES
    header = {
        "base_model": licences["base"]["name"],
        "library_name": "diffusers",
        "license": licence.lower() if known else "other",
        **({} if known else {"license_name": licence}),
        "pipeline_tag": "text-to-image",
        "tags": ["srpo", "direct-align"],
    }
    sampling = made.get("sample", {}).get("config", {})
    environment = _environment(escape=False)
    environment.filters["plain"] = plain
    return environment.from_string((HERE / "card.md.j2").read_text(encoding="utf-8")).render(
        header=yaml.safe_dump(header, sort_keys=True, allow_unicode=True).strip(),
        release=release,
        licences=licences,
        data=data,
        parent=parent,
        evaluation=evaluation,
        rows=results(evaluation),
        arguments=arguments,
        base=json.dumps(licences["base"]["name"], ensure_ascii=False),
        other_scheduler=scheduler != "FlowMatchEulerDiscreteScheduler",
        shift=float(sampling["shift"]) if sampling.get("schedule") == "static" else None,
        training=made.get("train", {}).get("config", {}),
        pairs=pairs,
        refusal=refusal,
        files=files,
    )


def call_arguments(pipeline: str, sampling: dict[str, Any], tokens: int | None) -> dict[str, Any]:
    """How a diffusers pipeline of that class is called to draw as the release was judged.

    Args:
        pipeline: ``FluxPipeline`` or ``QwenImagePipeline``.
        sampling: the settings of the stage `sample`.
        tokens: what prompts are padded to, where the pipeline must be told.
    """
    given: dict[str, Any] = {}
    if sampling.get("resolution"):
        given |= {"height": int(sampling["resolution"]), "width": int(sampling["resolution"])}
    if "steps" in sampling:
        given["num_inference_steps"] = int(sampling["steps"])
    guidance, true = float(sampling.get("guidance", 1)), float(sampling.get("true_guidance", 1))
    if pipeline == "QwenImagePipeline":  # its guidance is true
        guidance, true = 1.0, guidance
    elif "guidance" in sampling:
        given["guidance_scale"] = guidance
    if true > 1:
        given |= {"true_cfg_scale": true, "negative_prompt": repr(NEGATIVE[pipeline])}
    return given | ({"max_sequence_length": tokens} if tokens else {})


def release_report(
    release: str,
    uri: str,
    items: list[Item],
    evaluation: dict[str, Any],
    licences: dict[str, dict[str, Any]],
    data: list[dict[str, str]],
    refusal: str,
) -> str:
    """One self-contained HTML page: what was released, its gates, its files."""
    environment = _environment(escape=True)
    return environment.from_string((HERE / "report.html.j2").read_text(encoding="utf-8")).render(
        policy=POLICY,
        release=release,
        uri=uri,
        items=sorted(items, key=lambda item: item.path),
        total=sum(item.size for item in items),
        gates=evaluation["gates"],
        verdict=evaluation["verdict"],
        rows=results(evaluation),
        licences=licences,
        data=data,
        refusal=refusal,
    )


def results(evaluation: dict[str, Any]) -> list[tuple[str, Any, Any, Any]]:
    """``(measure, before, after, delta)`` of every measure."""
    before, after, delta = (evaluation[key] for key in ("before", "after", "delta"))
    return [(name, before[name], after.get(name), delta.get(name)) for name in before]


def plain(value: Any) -> str:
    """Text that Markdown and HTML show as it is, on one line: prompts and names are not to be trusted."""
    return MARKDOWN.sub(r"\\\1", " ".join(str(value).split())).replace("\\<", "&lt;")


def _environment(escape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=escape, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.globals["allowed"] = {True: "allowed", False: "not allowed", None: "not stated"}
    environment.filters |= {"shown": shown, "size": readable_size}
    return environment
