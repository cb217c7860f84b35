"""Train an essence encoder for a fixed generator and a fixed image-text encoder: `python -m essence
train essence --data DIR --start weights/mini/inverter.safetensors --out runs/essence`.

The second variant of the paper (ECCV 2022; docs/METHOD.md, section 2): an e4e network, begun as
the inverter, gives the essence b of a picture in one pass. It learns from the losses of the
optimiser, on sources that are fresh in every step and with thousands of targets.

`--preset released` has the settings of the authors' code, and the paper's as far as they are known:
five fixed sources, batches of one, 200 targets, b in W+, 3e-3 of |b|. Not its defects: batch norms
keep their statistics where a batch is too small to have any, and nothing is rendered in vain. Adam
stands in for Ranger.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import UserError
from ..library.checkpoints import (
    holds_essence_encoder,
    load_essence_encoder,
    load_inverter,
    save_essence_encoder,
)
from ..models.e4e import Encoder4Editing, EncoderConfig, EssenceEncoder
from .common import (
    CsvLog,
    load_checkpoint,
    parse_options,
    save_atomic,
    update_average,
    warm_cosine,
)
from .essence_data import Batch, EssenceDataset, EssenceOptions, load_dataset
from .essence_loss import TERMS, EssenceLoss, load_models
from .inverter_encoder import (
    along,
    fastest_layout,
    initial_encoder,
    quieten,
    with_last_layers,
)
from .parallel import (
    first_process_first,
    from_first_process,
    mean_over_processes,
    process_group,
    rank,
)
from .recording import RecordedTraining, adam, set_rates, state_of

PRESETS: dict[str, dict[str, object]] = {
    "essence": {},
    "released": {
        "space": "w+",
        "steps": 3000,
        "batch": 1,
        "sources": 5,
        "pool": 5,
        "fixed": True,
        "most": 200,
        "oversample": 1.0,
        "generated": 0.0,
        "drawn": 0.0,
        "lit": 0.0,
        "degraded": False,
        "lambda_norm": 3e-3,
        "lambda_identity": 0.0,
        "penalty": 0.0,
        "reach": 0.0,
        "rate": 1e-4,
        "linear_rate": 1.0,
    },
}
COLUMNS = ("step", "seconds", *TERMS, "valid_total", "valid_transfer", "valid_distance", "rate")
LOGGED = 20  # steps between two rows
AVERAGED = 10  # steps between two updates of the average
LEAST_BATCH = 8  # of pictures whose mean and variance say something
LAST_RATE = 0.02
LONGEST_GRADIENT = 5.0


class Trainer:
    """Network, its average, optimiser and clock: what a checkpoint holds."""

    def __init__(self, options: EssenceOptions, device: str = "cpu"):
        """A new network or `options.start`, or what the checkpoint in `options.out` holds. Raises
        UserError for a checkpoint of another architecture.
        """
        self.options, self.device, self.out = options, device, Path(options.out)
        self.models, self.bound = load_models(options, device)
        self.loss = EssenceLoss(options, self.models)
        basis = self.loss.basis
        self.basis = None if basis is None else basis.cpu()
        config = self.network_config()
        self.architecture = asdict(config) | self.bound | {"space": options.space}
        self.layout = fastest_layout(config)
        torch.manual_seed(options.seed)
        self.encoder = first_encoder(options, config, self.basis).to(device)
        self.average = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        named = list(self.encoder.named_parameters())
        self.parameters = [parameter for _, parameter in named]
        groups = [
            {"params": [p for name, p in named if ".linear." not in name], "times": 1.0},
            {
                "params": [p for name, p in named if ".linear." in name],
                "times": options.linear_rate,
            },
        ]
        groups = [group | {"lr": options.rate} for group in groups]
        self.optimizer = adam(groups, (0.9, 0.99), device)
        self.step, self.seconds, self.lowest = 0, 0.0, math.inf
        self.clock: float | None = None
        self.best: dict[str, Tensor] = {}  # the average that was best in validation
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / "checkpoint.pt"
        if (state := load_checkpoint(self.path, self.architecture)) is not None:
            for name in ("encoder", "average", "optimizer"):
                getattr(self, name).load_state_dict(state[name])
            for name in ("step", "seconds", "lowest", "best"):
                setattr(self, name, state[name])
        self.recorded = RecordedTraining(self.descend_on, self.moved, device)

    def network_config(self) -> EncoderConfig:
        options, generator = self.options, self.models.generator.config
        in_axes = options.space == "axes"
        return EncoderConfig(
            options.widths,
            options.depths,
            options.input_size,
            generator.layers,
            len(self.models.latents.axes) if in_axes else generator.style_dim,
            options.head_width,
        )

    def save(self) -> None:
        """Write the checkpoint, and the network as it is so far; only the first process does.
        Raises UserError.
        """
        if rank() > 0:
            return
        state = {name: getattr(self, name).state_dict() for name in ("encoder", "average")}
        state["optimizer"] = self.optimizer.state_dict()
        state |= {name: getattr(self, name) for name in ("step", "seconds", "lowest", "best")}
        save_atomic(state | {"architecture": self.architecture}, self.path)
        save_essence_encoder(self.essence_encoder(), self.out / "essence.safetensors")

    def moved(self) -> list[Tensor]:
        """Whatever a step changes in place."""
        return [*self.encoder.state_dict().values(), *state_of(self.optimizer)]

    @property
    def progress(self) -> float:
        """0 to 1, by steps or by time, whichever is further; the same in all processes."""
        by_time = self.seconds / (60 * self.options.minutes)
        return min(1.0, from_first_process(max(self.step / self.options.steps, by_time)))

    def train_step(self, batch: Batch) -> Tensor:
        """One step; the terms of its loss, which the next step overwrites on a GPU."""
        now = time.monotonic()
        # Whatever passed since the last step: a GPU's work is done after it was asked for.
        self.seconds += now - (self.clock or now)
        self.clock = now
        factor = warm_cosine(self.progress, self.step, self.options.warmup, LAST_RATE)
        times = [group["times"] for group in self.optimizer.param_groups]
        set_rates(self.optimizer, [self.options.rate * factor * each for each in times])
        self.set_training(True)
        found = self.recorded(None, *batch)["losses"]
        self.step += 1
        if self.step % AVERAGED == 0:
            at = self.step // AVERAGED
            update_average(self.average, self.encoder, at, self.options.average)
        return found

    def set_training(self, on: bool) -> None:
        """Batch norms follow their batch where it is large enough; else they keep the statistics
        that they have.
        """
        self.encoder.train(on)
        if self.options.batch < LEAST_BATCH:
            for module in self.encoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    def descend_on(self, _: None, *given: Tensor) -> dict[str, Tensor]:
        """One step of Adam on a batch, given as its tensors."""
        batch = Batch(*given)
        seen = batch.input.contiguous(memory_format=self.layout)
        with self.models.precision():
            raw = self.encoder(seen).float()
        terms = self.loss(raw, batch)
        gradients = torch.autograd.grad(terms[0], self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = mean_over_processes(gradient)
        nn.utils.clip_grad_norm_(self.parameters, LONGEST_GRADIENT)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"losses": terms.detach()}

    @torch.no_grad()
    def validate(self, dataset: EssenceDataset) -> dict[str, float]:
        """Losses of the average on pictures that it does not learn from; the best one is kept."""
        batch = dataset.validation_batch(self.options)
        found = []
        for start in range(0, len(batch.input), self.options.batch):
            rows = slice(start, start + self.options.batch)
            seen, picture, chosen = batch.input[rows], batch.picture[rows], batch.chosen[rows]
            part = Batch(seen, picture, batch.w, chosen)
            with self.models.precision():
                raw = self.average(part.input.contiguous(memory_format=self.layout)).float()
            found.append(self.loss(raw, part) * len(seen))
        terms = (torch.stack(found).sum(0) / len(batch.input)).tolist()
        means = dict(zip(TERMS, terms, strict=True))
        if means["total"] < self.lowest:
            self.lowest = means["total"]
            self.best = {k: v.cpu().clone() for k, v in self.average.state_dict().items()}
        return {f"valid_{name}": means[name] for name in ("total", "transfer", "distance")}

    def essence_encoder(self) -> EssenceEncoder:
        """The network that was best in validation, with b in W+ as its answer, on the CPU."""
        state = self.best or self.average.state_dict()
        config = EncoderConfig(**{k: self.architecture[k] for k in asdict(self.network_config())})
        encoder = Encoder4Editing(config)
        encoder.load_state_dict(state)
        if self.basis is not None:
            encoder = with_last_layers(encoder, self.basis.T, self.basis.shape[1])
        return EssenceEncoder(encoder, **self.bound).eval().requires_grad_(False)


def first_encoder(
    options: EssenceOptions, config: EncoderConfig, basis: Tensor | None
) -> Encoder4Editing:
    """The network to begin with: `options.start`, its answers along the `basis` [K, D]. Of an
    inverter all layers say what the first one says: the others' differences are for pixels. Without
    a start every essence is zero.
    """
    if not options.start:
        encoder = initial_encoder(config)
        for head in encoder.styles:
            nn.init.zeros_(head.linear.weight)
        return encoder
    trained = holds_essence_encoder(options.start)
    begun = (load_essence_encoder if trained else load_inverter)(options.start).encoder
    if basis is not None:
        begun = along(begun, basis)
        if not trained:
            for head in begun.styles[1:]:
                nn.init.zeros_(head.linear.weight)
                nn.init.zeros_(head.linear.bias)
            quieten(begun.styles[0].linear, basis)
    return initial_encoder(config, begun).requires_grad_(True)


def train(options: EssenceOptions) -> Trainer:
    """Run or resume the recipe, and write `essence.safetensors`. Raises UserError for a bad folder
    or another run's checkpoint.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    with process_group(options.device) as device:
        trainer = Trainer(options, device)
        with first_process_first():
            dataset = load_dataset(options, trainer.models, trainer.out)
        log = CsvLog(trainer.out / "log.csv", COLUMNS, trainer.step) if rank() == 0 else None
        run(trainer, dataset, log)
        return trainer


def run(trainer: Trainer, dataset: EssenceDataset, log: CsvLog | None) -> None:
    """Train to the end; only every few steps does anybody wait for the numbers."""
    options, saved = trainer.options, trainer.seconds
    total, since = torch.zeros(len(TERMS), device=trainer.device), trainer.step
    with tqdm(
        total=options.steps,
        initial=trainer.step,
        desc="essence",
        mininterval=5,
        disable=log is None,
    ) as bar:
        while trainer.progress < 1:
            total += trainer.train_step(dataset.draw(options, trainer.step))
            bar.update()
            ends = trainer.progress >= 1
            if trainer.step % LOGGED and not ends:
                continue
            means = (total / (trainer.step - since)).tolist()
            total, since = torch.zeros_like(total), trainer.step
            if not math.isfinite(means[0]):
                raise UserError(f"The loss is {means[0]} at step {trainer.step}: try --no-half.")
            row = dict.fromkeys(COLUMNS, float("nan")) | dict(zip(TERMS, means, strict=True))
            row |= {"step": trainer.step, "seconds": trainer.seconds}
            row["rate"] = float(trainer.optimizer.param_groups[0]["lr"])
            if ends or trainer.seconds - saved > options.checkpoint_seconds:
                row |= trainer.validate(dataset)
                trainer.save()
                saved = trainer.seconds
            if log is not None:
                log.write(row)
            bar.set_postfix(
                transfer=f"{row['transfer']:.3f}", distance=f"{row['distance']:.3f}", refresh=False
            )


def main(argv: Sequence[str] | None = None) -> None:
    trainer = train(parse_options(EssenceOptions, argv, __doc__, PRESETS))
    print(f"lowest loss in validation: {trainer.lowest:.4f}")


if __name__ == "__main__":
    main()
