"""Ranks that write while they go on, for tests: after the weights have changed, late, and to a full disk."""

import json
import os
import threading
import time
from pathlib import Path

import torch
import torch.distributed as dist

from srpo.core.backbones.flux import Flux
from srpo.core.contracts.config import from_mapping
from srpo.train import sharding, worker
from srpo.train.adamw8bit import local
from srpo.train.background import writing
from srpo.train.checkpoints import save_checkpoint
from srpo.train.config import Config
from srpo.train.gradients import GradientSums

CPU = torch.device("cpu")


def join(rank: int, ranks: int, port: int) -> None:
    """The environment in which torchrun starts a rank."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)


def both_ways(rank: int, ranks: int, port: int, settings: dict, base: Path, folder: Path) -> None:
    """Save after a step at once, into ``folder/at-once``; and in the background, held up until all has changed."""
    join(rank, ranks, port)
    config = from_mapping(Config, settings, "train")
    with sharding.process_group(CPU), writing(CPU) as writer:
        model = sharding.sharded_transformer(config, Flux, base, CPU)
        trained = sharding.trained_parameters(model)
        optimizer, average = sharding.make_optimizer(config, model), sharding.MovingAverage(model, config.ema_decay)
        GradientSums(trained)
        for parameter in trained:
            parameter.grad = parameter.detach().float() + 1
        optimizer.step()
        average.update()
        records = [{"step": 1}]

        def save(where: Path) -> None:
            sharding.save_weights(writer, config, model, where / "weights", base)
            save_checkpoint(writer, where / "step", model, optimizer, average, {"records": records})

        writer.background = False
        save(folder / "at-once")
        writer.background = True
        until = threading.Event()
        writer.hand_over("first", lambda: print(until.wait(60)))
        save(folder / "background")
        assert not (folder / "background").exists()
        records[0]["step"] = 2
        for parameter in trained:
            local(parameter).add_(1)
            for moment in optimizer.state[parameter].values():
                local(moment).add_(1)
        for shard in average.shards.values():
            shard.add_(1)
        until.set()
        writer.wait()


def one_cannot(rank: int, ranks: int, port: int, folder: Path) -> None:
    """The last rank's disk is full at its second job; each rank writes down what it did and what it was told."""
    join(rank, ranks, port)
    done, told = [], ""

    def second() -> None:
        if rank == ranks - 1:
            raise OSError(28, "No space left on device")

    with sharding.process_group(CPU):
        try:
            with writing(CPU) as writer:
                writer.hand_over("one", lambda: done.append(1))
                writer.hand_over("two", second)
                writer.hand_over("three", lambda: done.append(3))
                writer.wait("one")
                writer.wait()
        except (OSError, RuntimeError) as error:
            told = f"{type(error).__name__}: {error}"
        dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps([done, told]))


def slow_or_full(job: Path, seconds: float, full_at: int) -> None:
    """The trainer on one rank, its weights written ``seconds`` late, and from step ``full_at`` on to a full disk."""
    write = sharding.write_weights

    def slow(config, model, folder, whole, adapter):  # type: ignore[no-untyped-def]
        time.sleep(seconds)
        if int(folder.name.removeprefix("weights-")) >= full_at:
            raise OSError(28, "No space left on device")
        write(config, model, folder, whole, adapter)

    sharding.write_weights = slow
    worker.work(json.loads(job.read_text()))


if __name__ == "__main__":
    import sys

    join(0, 1, int(sys.argv[1]))
    slow_or_full(Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
