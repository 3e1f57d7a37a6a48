"""The training loop, on accelerate, for every method of the library.

One step: take a batch, change it to what the network takes, descend the loss, log. Everything that a step depends on is in
:meth:`Trainer.state`, so a run that was killed goes on with the same bits. Several processes (``accelerate launch``,
``torchrun``) share each global batch; the batch's content does not depend on how many they are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from intermodal.core.errors import ConfigError, TrainingError
from intermodal.core.fields import check_fields
from intermodal.data.loader import Batch, train_loader
from intermodal.data.source import UnreadableCounter
from intermodal.methods.base import Losses, Method, Phase
from intermodal.recipes.base import Recipe
from intermodal.train.base import Training
from intermodal.train.folder import Run, save_batch
from intermodal.train.meter import Meter, matmul_speed
from intermodal.train.optim import alone, build_optimizer, learning_rate, moving_average
from intermodal.train.state import random_state, set_random_state

_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


class Trainer(Training):
    """Trains one recipe in one run's folder by autograd.

    Args:
        recipe: what to train.
        run: where; if it holds checkpoints, training goes on from the newest.
        quiet: print nothing.

    Raises:
        ConfigError: if the recipe asks for what cannot be exact, or the folder holds another recipe's run.
        DataError: if the source lacks a field that the method needs.
    """

    def __init__(self, recipe: Recipe, run: Run, quiet: bool = False) -> None:
        AcceleratorState._reset_state()  # of an earlier run in this process, which may have had another precision
        self.accelerator = Accelerator(
            mixed_precision=_PRECISION[recipe.train.precision],
            gradient_accumulation_steps=recipe.train.accumulate,
            step_scheduler_with_optimizer=False,
        )
        self.device = self.accelerator.device
        place = Run(broadcast_object_list([str(run.path)])[0])  # a new run's name holds the time: one for all ranks
        super().__init__(recipe, place, is_main=self.accelerator.is_main_process, quiet=quiet)
        self.epoch = 0
        self._open()

    def _open(self) -> None:
        recipe, device = self.recipe, self.accelerator.device
        self.source = recipe.source.open("train")
        self.method: Method = recipe.build()
        check_fields(self.method.needs, self.source.fields, f"The method {self.method.id}", self.source.name)
        if self.config.accumulate > 1 and self.method.contrasts_batch:
            raise ConfigError(
                f"The loss of {self.method.id} compares the samples of a batch, so train.accumulate would change it: set "
                "model.chunk_size instead, which saves the same memory and is exact."
            )
        if self.is_main:
            self.run.start(recipe)
        self.loader, self.sampler = train_loader(
            self.source,
            self.method.inputs,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            augment=recipe.augment,
            seeds=self.method.needs_seed,
            workers=self.config.workers,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )
        self.method.to(device)
        self.method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fastest for convolutions
        self.phases = self.method.phases()
        optimizers = [build_optimizer(self.method, recipe.optim, phase) for phase in self.phases]
        if len(self.phases) > 1:  # each phase leaves the others' parameters without a gradient
            self.accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.model, *self.optimizers = self.accelerator.prepare(self.method, *optimizers)
        if self.config.compile:
            self.model.compile()
        self.average = moving_average(self.method, recipe.optim.ema) if recipe.optim.ema is not None else None
        self.rate = learning_rate(recipe.optim, self.config.steps)
        self.unreadable = UnreadableCounter(self.source.name, max_share=recipe.source.max_unreadable)
        self._loader_state: dict[str, Any] | None = None
        self._resume()

    def _on_what(self) -> str:
        return f"{len(self.source):,} samples of {self.source.name}, {self.config.steps} steps of {self.sampler.batch_size}"

    def _new_meter(self) -> Meter:
        peak = matmul_speed(self.accelerator.device, self.config.precision)
        return Meter(self.method.train_flops(self.sampler.batch_size // self.accelerator.num_processes), peak)

    def _train(self) -> None:
        self.model.train()
        last = time.monotonic(), time.process_time()
        batches = self._batches()
        while self.step < self.config.steps and not self._stop:
            waiting = time.perf_counter()
            batch = next(batches)
            self.meter.waited(time.perf_counter() - waiting)
            values = self._step(batch)
            self.step += 1
            self.meter.step(self.sampler.batch_size)
            last = self._timed(last)
            self._note_unreadable(batch)
            self._after_step(values, self.epoch)
        batches.close()
        self.save()
        self.loader.close()

    def _batches(self) -> Generator[Batch]:
        """Yield batches without end, epoch after epoch, from the saved position on."""
        while True:
            if self._loader_state is not None:
                self.loader.load_state_dict(self._loader_state)
                self._loader_state = None
            else:
                self.sampler.set_epoch(self.epoch)
            yield from self.loader
            self.epoch += 1

    def _step(self, batch: Batch) -> dict[str, float]:
        """Descend the loss of one batch; return the step's figures, the same on every process."""
        rate = self.rate(self.step)
        self.method.begin_step(self.step, self.config.steps)
        device = self.accelerator.device
        tensors = self.method.prepare({k: v.to(device, non_blocking=True) for k, v in batch.tensors.items()})
        tensors = {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in tensors.items()}
        figures: dict[str, Tensor] = {}
        for phase, optimizer in zip(self.phases, self.optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * phase.lr_scale * group.get("scale", 1.0)
            with alone(self.method, phase, among=self.phases):
                found = self._descend(phase, optimizer, tensors)
            prefix = "" if phase is self.phases[0] else f"{phase.loss}_"
            figures |= {f"{prefix}{name}" if name in figures else name: value for name, value in found.items()}
        if self.average is not None:
            self.average.update_parameters(self.method)
        values = torch.stack([v.to(device).float() for v in figures.values()])
        values = self.accelerator.reduce(values, "mean") if self.accelerator.num_processes > 1 else values
        return {**dict(zip(figures, values.tolist(), strict=True)), "lr": rate}

    def _descend(self, phase: Phase, optimizer: AcceleratedOptimizer, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Descend one phase's loss of a batch, in as many parts as are accumulated; return its figures."""
        figures: dict[str, Tensor] = {}
        for part in split_batch(tensors, self.config.accumulate):
            with self.accelerator.accumulate(self.model):
                losses: Losses = self.model(part, phase.loss)
                for name, value in {"loss": losses.total, **losses.parts}.items():
                    figures[name] = figures.get(name, 0) + value.detach().float() / self.config.accumulate
                self._check_finite(losses.total, tensors)
                self.accelerator.backward(losses.total)
                if self.accelerator.sync_gradients:
                    bound = self.recipe.optim.clip_norm
                    norm = self.accelerator.clip_grad_norm_(
                        self.model.parameters(), float("inf") if bound is None else bound
                    )
                    figures["grad_norm"] = torch.as_tensor(norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return figures

    def _check_finite(self, loss: Tensor, tensors: dict[str, Tensor]) -> None:
        bad = torch.as_tensor(float(not math.isfinite(loss.item())), device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            bad = self.accelerator.reduce(bad, "sum")
        if not bad.item():
            return
        path = save_batch(self.run, self.step, tensors)
        raise TrainingError(
            f"The loss is {loss.item()} at step {self.step}: training stopped before the weights were touched. The batch "
            f"is in {path}; the last checkpoint stands. Try a lower optim.lr, or precision fp32."
        )

    def _note_unreadable(self, batch: Batch) -> None:
        self.unreadable.add(batch.skipped, seen=len(next(iter(batch.tensors.values()))))
        if batch.skipped:
            self._log("skipped", {"files": [s.reason for s in batch.skipped]})

    def _meet(self) -> None:
        self.accelerator.wait_for_everyone()

    def judged(self) -> Method:
        """Return the model that is judged and saved: the moving average, if there is one."""
        if self.average is None:
            return self.method
        module = self.average.module
        assert isinstance(module, Method)
        return module

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on (the same on every process, but for the random state)."""
        model, optimizer = get_state_dict(self.model, [o.optimizer for o in self.optimizers], options=_FULL)
        return {
            "step": self.step,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "world": self.accelerator.num_processes,
            "model": model,
            "optimizer": optimizer,
            "average": self.average.state_dict() if self.average is not None else None,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None,
            "loader": self.loader.state_dict(),
            "random": random_state(),
            "unreadable": self.unreadable.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned.

        Raises:
            ConfigError: if the run was started with another number of processes.
        """
        if state["world"] != self.accelerator.num_processes:
            raise ConfigError(
                f"The run was started with {state['world']} processes and cannot resume with "
                f"{self.accelerator.num_processes}."
            )
        set_state_dict(
            self.model,
            [o.optimizer for o in self.optimizers],
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=_FULL,
        )
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.epoch = state["step"], state["epoch"]
        self.seconds, self.cpu_seconds = state["seconds"], state["cpu_seconds"]
        self.unreadable.load_state_dict(state["unreadable"])
        self._loader_state = state["loader"]
        set_random_state(state["random"])

    def _summary(self) -> dict[str, Any]:
        return {
            **super()._summary(),
            "data": self.source.name,
            "samples": len(self.source),
            "batch_size": self.sampler.batch_size,
            "processes": self.accelerator.num_processes,
            "precision": self.config.precision,
            "skipped": self.unreadable.count,
        }


_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def split_batch(tensors: dict[str, Tensor], parts: int) -> Iterator[dict[str, Tensor]]:
    """Yield ``parts`` equal slices of a batch.

    Raises:
        ConfigError: if the batch cannot be divided evenly.
    """
    size = len(next(iter(tensors.values())))
    if size % parts:
        raise ConfigError(f"train.accumulate={parts} does not divide the {size} samples of a process's batch.")
    share = size // parts
    for start in range(0, size, share):
        yield {k: v[start : start + share] for k, v in tensors.items()}
