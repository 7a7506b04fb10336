"""Run one stage: find a finished result by its content key, or make it; a result appears whole or not at all.

The key is the hash of the stage's configuration, its code, the keys of its inputs and whatever outside of them its
``fingerprint`` names (a prompt file's bytes, say). So an edited prompt or an edited line of code runs exactly that
stage and what depends on it, on a laptop and on a cluster alike. Results live in ``<workspace>/stages/<stage>/<key>/``.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from srpo.core.contracts.config import from_mapping
from srpo.core.contracts.errors import InputError
from srpo.core.execution.again import Tries, run_apart
from srpo.core.execution.code import code_digest, versions
from srpo.core.execution.environment import take_own_names
from srpo.core.execution.progress import Progress
from srpo.core.storage.files import appearing, clear_left, digest_of, link_tree, list_files, of_file, write_json
from srpo.core.storage.known_hashes import KnownHashes, known_hashes, memory_of
from srpo.core.storage.lease import LIFETIME, lease

MANIFEST = "manifest.json"
LEASE = "lease"  # in the state folder
RECORD_VARIABLE = "SRPO_RUN_RECORD"  # a file that `srpo run` reads: one JSON line for each stage that ended
IMAGE_VARIABLE = "SRPO_IMAGE"  # the image of this container, as the package names it: no container knows its own
COMMIT_VARIABLE = "SRPO_GIT_COMMIT"  # set in every image of ours, which carries no repository
# Outputs that are one file; the others are folders.
FILE_NAMES = {"report": "report.html", "metrics": "metrics.json", "summary": "summary.md"}


@dataclasses.dataclass(frozen=True)
class Context:
    """What a stage may use besides its inputs and outputs."""

    workspace: Path  # shared by all stages and retries of a run; a folder or a mounted volume
    state: Path  # this result's own folder, kept between retries and afterwards (checkpoints, big weights)
    progress: Progress
    sources: Any = None  # what the stage's lookup found: the same for the key and for the work
    known: KnownHashes = dataclasses.field(default_factory=lambda: KnownHashes({}))  # files that it left elsewhere


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage as data: its name, its configuration, the files that go in and out, and the function that does it.

    ``inputs`` and ``outputs`` are dataclasses whose fields are paths (a tuple of paths for a fan-in). An input with a
    default need not be given.
    """

    name: str
    config: type[Any]
    inputs: type[Any]
    outputs: type[Any]
    run: Callable[[Any, Any, Any, Context], None]
    fingerprint: Callable[[Any], Any] | None = None
    # The same, where the workspace is needed for it: what was found there once holds. Settings, workspace.
    lookup: Callable[[Any, Path], Any] | None = None
    # What is wrong with what a result left outside of its folder (weights, a release), in words; "" when it stands.
    # Folder of the result, workspace, hashes of files that are known.
    intact: Callable[[Path, Path, KnownHashes], str] | None = None
    # Two tries at the same result would write to the same files of the state folder: they take turns, by a lease there.
    alone: bool = False
    # Folders of outputs that are not handed out: what is too much to copy from pod to pod stays in the workspace, and
    # whoever takes the artifact finds it there.
    stays: tuple[str, ...] = ()
    # How far a try has come, by its state folder. With it the work of a container is done in a process of its own, and
    # begun again if that is killed (srpo.core.execution.again).
    place: Callable[[Path], Any] | None = None

    def names(self, which: type[Any]) -> list[str]:
        """Names of the inputs or outputs, in order."""
        return [field.name for field in dataclasses.fields(which)]

    def optional(self) -> set[str]:
        """Names of the inputs that need not be given."""
        return {field.name for field in dataclasses.fields(self.inputs) if field.default is not dataclasses.MISSING}


def execute(
    stage: Stage,
    config: Mapping[str, Any],
    workspace: Path,
    inputs: Mapping[str, Path | Sequence[Path]],
    outputs: Mapping[str, Path],
    apart: bool = False,
) -> Path:
    """Make the result of ``stage`` (or find it) and place each output at the path that ``outputs`` names.

    ``apart`` is for a process that does nothing else: the work of a stage with a ``place`` is done in a child.
    Returns the folder of the result in the workspace. A process that should end with exit code 2 on bad input calls
    :func:`execute_or_exit` instead.

    Raises:
        InputError: a setting, an input artifact or a source cannot be used.
    """
    started = time.time()
    settings = from_mapping(stage.config, config, stage.name)
    names = [name for name in stage.names(stage.inputs) if name in inputs or name not in stage.optional()]
    workspace = Path(workspace)
    given = {name: _as_path(inputs[name], workspace) for name in names}
    identity = {
        "stage": stage.name,
        "config": of_the_key(settings),
        "code": code_digest(stage.name),
        "inputs": {name: _of_inputs(given[name], lambda manifest: str(manifest["key"])) for name in names},
        # What was made again, and came out as something else, is something else to whoever takes it.
        "contents": {name: _of_inputs(given[name], lambda manifest: digest_of(manifest["files"])) for name in names},
        "sources": stage.fingerprint(settings) if stage.fingerprint else None,
    }
    for name in names:
        _check_input(name, given[name], workspace)
    if stage.lookup is not None:
        identity["sources"] = stage.lookup(settings, workspace)
    key = digest_of(identity)
    result = workspace / "stages" / stage.name / key
    context = Context(workspace, workspace / "state" / stage.name / key, Progress(stage.name), identity["sources"])
    reused = _is_finished(stage, result, workspace)
    if not reused:
        with _turn(stage, context.state):
            reused = _is_finished(stage, result, workspace, tell=True)  # by whoever had the turn before
            if not reused:
                _make(stage, settings, stage.inputs(**given), context, result, identity, apart)
    for name, target in outputs.items():
        target = Path(target)
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        link_tree(result / FILE_NAMES.get(name, name), target, leave_out=stage.stays)
    _record(stage.name, key=key, reused=reused, seconds=round(time.time() - started, 2), result=str(result))
    return result


def _is_finished(stage: Stage, result: Path, workspace: Path, tell: bool = False) -> bool:
    """Whether the result is there with the bytes that were written, and what it left elsewhere too."""
    try:
        files = json.loads((result / MANIFEST).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        files, wrong = [], f"{MANIFEST} cannot be read"
    else:
        with known_hashes(memory_of(workspace, stage.name, result.name)) as known:
            damaged = known.damaged(result, files)
            wrong = f"{damaged[0]} is not what was written" if damaged else ""
            if not wrong and stage.intact is not None:
                wrong = stage.intact(result, workspace, known)
    if wrong and tell:
        print(f"srpo: {stage.name}: a result is there, but {wrong}: it is made again", flush=True)
    return not wrong


def _turn(stage: Stage, state: Path) -> contextlib.AbstractContextManager[object]:
    """Alone in ``state``, where the stage wants that: others wait until we end, or have shown no life for a minute."""
    if not stage.alone:
        return contextlib.nullcontext()
    told: set[str] = set()

    def waiting(holder: str) -> None:
        if holder not in told:
            told.add(holder)
            most = f"at most {LIFETIME:.0f} s once it shows no sign of life"
            print(f"srpo: {stage.name}: {holder} makes this very result: waiting for it, {most}", flush=True)

    return lease(state / LEASE, waiting)


def _make(
    stage: Stage,
    settings: Any,
    inputs: Any,
    context: Context,
    result: Path,
    identity: dict[str, Any],
    apart: bool,
) -> None:
    """Run the stage into a folder that appears as ``result`` by one rename."""
    key, contents = result.name, []
    clear_left(result.parent)
    with appearing(result) as partial, known_hashes(memory_of(context.workspace, stage.name, key)) as known:
        if result.is_dir() and stage.intact is not None and _is_damaged(stage.intact, result, context.workspace, known):
            _empty(context.state)  # what it left elsewhere is damaged: nothing there is gone on from
        shutil.rmtree(result, ignore_errors=True)
        made = {name: partial / FILE_NAMES.get(name, name) for name in stage.names(stage.outputs)}
        for name, path in made.items():
            (path.parent if name in FILE_NAMES else path).mkdir(parents=True, exist_ok=True)
        context = dataclasses.replace(context, known=known)
        work = functools.partial(stage.run, settings, inputs, stage.outputs(**made), context)
        if apart and stage.place is not None:
            run_apart(work, Tries(stage.name, functools.partial(stage.place, context.state)))
        else:
            work()
        for name, path in made.items():
            if not path.exists():
                raise RuntimeError(f"stage {stage.name} did not write its output {name!r}")
            if name == "metrics":
                keep_finite(stage.name, path)
            if path.is_dir():
                files = list_files(path)
                write_json(
                    path / MANIFEST,
                    {"schema": "srpo.artifact/1", "artifact": name, "key": key}
                    | identity
                    | {"files": files, "versions": versions(), "image": image()},
                )
                contents += [file | {"path": f"{name}/{file['path']}"} for file in [*files, of_file(path / MANIFEST)]]
            else:
                contents.append(of_file(path))
        for file in contents:
            known.learn(partial / file["path"], file["sha256"])
        write_json(partial / MANIFEST, {"schema": "srpo.result/1", "key": key} | identity | {"files": contents})


def _is_damaged(intact: Callable[..., str], *arguments: Any) -> bool:
    try:
        return bool(intact(*arguments))
    except (OSError, ValueError, KeyError, TypeError, InputError):  # the result itself cannot be read any more
        return True


def _empty(state: Path) -> None:
    for path in state.iterdir() if state.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LEASE:
            path.unlink()


def keep_finite(stage: str, path: Path) -> None:
    """Leave out of the metrics in ``path`` what is no finite number, and say so: Kubeflow would refuse it.

    A last step that is not finite is tolerated in training; it must not fail the task that has its result.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    strange = [name for name, value in found.items() if isinstance(value, float) and not math.isfinite(value)]
    if strange:
        print(f"srpo: {stage}: left out of the metrics, not a finite number: {', '.join(strange)}", flush=True)
        write_json(path, {name: value for name, value in found.items() if name not in strange})


def image() -> str | None:
    """The image that this process runs in, or None. It is no part of a key: the code counts.

    Kubeflow's local runner sets the variables of the package too, so the name alone says nothing.
    """
    in_an_image = COMMIT_VARIABLE in os.environ and RECORD_VARIABLE not in os.environ
    return os.environ.get(IMAGE_VARIABLE) if in_an_image else None


def of_the_key(settings: Any) -> dict[str, Any]:
    """The settings that a result depends on: all but those that ``core.contracts.config.place`` marks."""
    marked = {field.name for field in dataclasses.fields(settings) if field.metadata.get("place")}
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in marked}


def execute_or_exit(
    stage: Stage,
    config: Mapping[str, Any],
    workspace: str | Path,
    inputs: Mapping[str, Path | Sequence[Path]],
    outputs: Mapping[str, Path],
) -> Path:
    """:func:`execute` as the body of a container: one clear last line on failure; exit code 2 for bad input, else 1."""
    take_own_names()
    end_in_order()
    try:
        return execute(stage, config, Path(workspace), inputs, outputs, apart=True)
    except InputError as error:
        _fail(stage.name, str(error), code=2)
    except KeyboardInterrupt:
        _fail(stage.name, "interrupted", code=130)
    except Exception as error:
        traceback.print_exc()
        _fail(stage.name, f"{type(error).__name__}: {error}", code=1)


def end_in_order() -> None:
    """From now on SIGTERM ends this process as an exception does: what is held is given back, children are told."""

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)


def read_manifest(artifact: Path) -> dict[str, Any]:
    """The manifest of an artifact folder.

    Raises:
        InputError: the folder is missing, or no stage of this project finished it.
    """
    try:
        manifest = json.loads((artifact / MANIFEST).read_text(encoding="utf-8"))
        if manifest.get("schema") == "srpo.artifact/1":
            return dict(manifest)
    except (OSError, ValueError, AttributeError):
        pass
    raise InputError(f"{artifact} is not a finished artifact: it must be a folder with a {MANIFEST} that a stage wrote")


def _of_inputs(value: Path | tuple[Path, ...], what: Callable[[dict[str, Any]], str]) -> str | list[str]:
    """Something of the manifest of an input, or of each where it is several."""
    return what(read_manifest(value)) if isinstance(value, Path) else [what(read_manifest(path)) for path in value]


def _check_input(name: str, value: Path | tuple[Path, ...], workspace: Path) -> None:
    """What a stage takes from an earlier one is, by its hash, what that one wrote.

    Raises:
        InputError: a file is missing, cut or other than it was.
    """
    for folder in (value,) if isinstance(value, Path) else value:
        manifest = read_manifest(folder)
        with known_hashes(memory_of(workspace, manifest["stage"], manifest["key"])) as known:
            for path in known.damaged(folder, manifest["files"]):
                raise InputError(
                    f"input {name}: {folder / path} is missing, cut or not what {manifest['stage']} wrote: "
                    f"run it again, and {manifest['stage']} makes it anew"
                )


def _as_path(value: Path | Sequence[Path], workspace: Path) -> Path | tuple[Path, ...]:
    if isinstance(value, (str, Path)):
        return whole_artifact(Path(value), workspace)
    return tuple(whole_artifact(Path(path), workspace) for path in value)


def whole_artifact(artifact: Path, workspace: Path) -> Path:
    """The folder that has all files of an artifact: itself, or its stage's result, where some of them have stayed.

    Raises:
        InputError: the folder is missing, or no stage of this project finished it.
    """
    manifest = read_manifest(artifact)
    if all((artifact / file["path"]).exists() for file in manifest["files"]):
        return artifact
    stands = workspace / "stages" / manifest["stage"] / manifest["key"] / manifest["artifact"]
    return stands if stands.is_dir() else artifact


def _fail(stage: str, message: str, code: int) -> NoReturn:
    _record(stage, error=message, code=code)
    print(f"srpo: {stage}: {message}", flush=True)
    raise SystemExit(code)


def _record(stage: str, **fields: Any) -> None:
    if path := os.environ.get(RECORD_VARIABLE):
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"stage": stage, **fields}) + "\n")
        except OSError as error:  # the record is for the terminal only; a full disk must not hide the real error
            print(f"srpo: {stage}: cannot write the run record: {error}", flush=True)
