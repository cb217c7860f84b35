"""Train the judge, which reads age, sex and group off faces: `python -m essence train judge --tight
DIR --tight-labels CSV [--data DIR --labels CSV] --out runs/judge`.

It is for measuring essences, so that it must not be what they are learned with: another
architecture than the image-text encoder's, no teacher but people's labels, and by --exclude no
picture that the encoder saw. Half an hour on one core.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError
from ..library.checkpoints import save_judge
from ..models.identity import face_chip
from ..models.judge import FRAME, GROUPS, OLDEST, READ, SIDE, Judge, JudgeConfig
from ..pictures.loading import load_image
from ..pictures.tensors import resample, resize, to_tensor
from .augment import degrade, light
from .common import (
    CsvLog,
    cached_on_disk,
    descend,
    described,
    held_out,
    list_pictures,
    load_checkpoint,
    parse_options,
    save_atomic,
    step_generator,
    to_float,
    to_uint8,
    update_average,
    warm_cosine,
)
from .data.judge_labels import JudgeLabels, read_judge_labels
from .data.judged import JUDGED, judged_attributes, repeatability

COLUMNS = ("step", "seconds", "loss", "age", "female", "groups", "held_age", "held_female")
HELD = 20  # one tight crop of so many: the rule of the image-text recipe, so both have seen none
EVERY = 200  # steps between checkpoints
DECAY = 0.998  # of the moving average


@dataclass(frozen=True)
class JudgeOptions:
    tight: str = field(metadata={"help": "folder of tight face crops (FairFace)"})
    tight_labels: str = field(metadata={"help": "CSV about them: file, age, gender, race"})
    out: str = field(metadata={"help": "folder of the run: pictures, checkpoint, log, the judge"})
    data: str = described("", "folder of aligned pictures")
    labels: str = described("", "CSV about them: file, gender, group")
    exclude: str = described("", "text file with names, one a line, that are not trained on")
    tight_share: float = described(0.75, "of tight crops in a batch")
    steps: int = 4000
    minutes: float = described(0, "the schedule ends after so many minutes; 0: by steps alone")
    batch: int = 64
    rate: float = 2e-3
    weight_decay: float = 0.02
    widths: tuple[int, ...] = JudgeConfig.widths
    seed: int = 0
    threads: int = 0  # 0: torch's choice


@dataclass
class JudgeData:
    """N inner faces and what people say of them."""

    frames: Tensor  # uint8 [N, 3, FRAME, FRAME]
    labels: JudgeLabels
    tight: Tensor  # bool [N]
    held: Tensor  # bool [N], never trained on

    def draw(self, rng: torch.Generator, count: int, share: float) -> Tensor:
        """Rows [count] to train on; aligned pictures make 1 - share of them, where there are
        any.
        """
        free, kinds = ~self.held, (self.tight, ~self.tight)
        weights = torch.zeros(len(free))
        for kind, part in zip(kinds, (share, 1 - share), strict=True):
            weights[free & kind] = part / (free & kind).sum().clamp(min=1)
        return torch.multinomial(weights, count, replacement=True, generator=rng)


def load_data(options: JudgeOptions) -> JudgeData:
    """Faces with their labels, kept in the run's folder. Raises UserError."""
    tight = list_pictures(options.tight)
    aligned = list_pictures(options.data) if options.data else []
    known_tight = read_judge_labels(Path(options.tight_labels), [path.name for path in tight])
    labels = known_tight
    if aligned:
        if not options.labels:
            raise UserError("--data needs --labels: a CSV with the columns file, gender, group.")
        known_aligned = read_judge_labels(Path(options.labels), [path.name for path in aligned])
        labels = known_tight.join(known_aligned)
    paths = [*tight, *aligned]
    excluded = set(Path(options.exclude).read_text().split()) if options.exclude else set()
    held_names = held_out([path.name for path in aligned])
    is_tight = torch.arange(len(paths)) < len(tight)
    held = torch.tensor(
        [i % HELD == 0 if i < len(tight) else p.name in held_names for i, p in enumerate(paths)]
    )
    # What is held out measures, also where the encoder has not seen it because it holds it out too.
    used = torch.tensor([path.name not in excluded for path in paths]) | held
    used &= labels.known.any(1)
    rows = used.nonzero()[:, 0]
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    frames = cached_on_disk(
        out / "frames.pt",
        lambda: torch.cat([frame(paths[i], bool(is_tight[i])) for i in tqdm(rows.tolist())]),
        len(rows),
    )
    return JudgeData(frames, labels.rows(rows), is_tight[rows], held[rows])


def frame(path: Path, tight: bool) -> Tensor:
    """A picture's inner face, uint8 [1, 3, FRAME, FRAME]."""
    picture = load_image(path)
    if tight:
        return to_uint8(to_tensor(resize(picture, FRAME)))
    return to_uint8(resample(face_chip(to_tensor(picture)), FRAME, "antialias"))


def augmented(frames: Tensor, rng: torch.Generator) -> Tensor:
    """uint8 [B, 3, FRAME, FRAME] to chips [B, 3, SIDE, SIDE] in [-1, 1]: another light, blur, noise
    and JPEG, a random place, half of them mirrored.
    """
    images = degrade(light(to_float(frames), rng)[0], rng)
    top, left = torch.randint(FRAME - SIDE + 1, (2,), generator=rng).tolist()
    chips = images[..., top : top + SIDE, left : left + SIDE]
    mirror = torch.rand(len(chips), 1, 1, 1, generator=rng) < 0.5
    return torch.where(mirror, chips.flip(-1), chips)


def losses(logits: Tensor, labels: JudgeLabels) -> dict[str, Tensor]:
    """Of logits [B, 2 + 6]: each term is the mean over the faces whose label is known."""
    age, female, group = labels.known.float().unbind(1)
    years = F.smooth_l1_loss(logits[:, 0], labels.age / OLDEST, reduction="none", beta=0.1)
    sex = F.binary_cross_entropy_with_logits(logits[:, 1], labels.female, reduction="none")
    groups = F.cross_entropy(logits[:, 2:], labels.group, reduction="none", label_smoothing=0.05)
    terms = {"age": 10 * years * age, "female": sex * female, "groups": groups * group}
    counts = {"age": age, "female": female, "groups": group}
    return {name: term.sum() / counts[name].sum().clamp(min=1) for name, term in terms.items()}


class Trainer:
    """Judge, average, optimiser and clock: what a checkpoint holds; and the faces."""

    def __init__(self, options: JudgeOptions):
        self.options = options
        self.data = load_data(options)
        config = JudgeConfig(options.widths, JUDGED)
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            self.judge = Judge(config).to(memory_format=torch.channels_last)
        self.average = Judge(config).eval()
        self.average.load_state_dict(self.judge.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.judge.parameters(), options.rate, weight_decay=options.weight_decay
        )
        self.step, self.seconds = 0, 0.0
        self.path = Path(options.out) / "checkpoint.pt"
        if (state := load_checkpoint(self.path, asdict(config))) is not None:
            self.judge.load_state_dict(state["judge"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]

    @property
    def progress(self) -> float:
        by_time = self.seconds / (60 * self.options.minutes) if self.options.minutes else 0.0
        return max(self.step / self.options.steps, by_time)

    def save(self) -> None:
        state = {"judge": self.judge.state_dict(), "average": self.average.state_dict()}
        state |= {"optimizer": self.optimizer.state_dict(), "step": self.step}
        architecture = asdict(self.judge.config)
        save_atomic(state | {"seconds": self.seconds, "architecture": architecture}, self.path)

    def train_step(self) -> dict[str, float]:
        """One step. Returns its row of the log."""
        o, began = self.options, time.monotonic()
        rng = step_generator(o.seed, self.step)
        rows = self.data.draw(rng, o.batch, o.tight_share)
        self.judge.train()
        logits = self.judge.logits(augmented(self.data.frames[rows], rng))
        terms = losses(logits, self.data.labels.rows(rows))
        loss = sum(terms.values())
        self.optimizer.param_groups[0]["lr"] = o.rate * warm_cosine(
            self.progress, self.step, 100, 0.01
        )
        descend(self.optimizer, loss, max_norm=5.0)
        update_average(self.average, self.judge, self.step, DECAY)
        self.step += 1
        self.seconds += time.monotonic() - began
        row = {"step": self.step, "seconds": self.seconds, "loss": loss.item()}
        return row | {name: term.item() for name, term in terms.items()}

    @torch.no_grad()
    def held_answers(self) -> tuple[Tensor, JudgeLabels]:
        """The average's attributes READ [H, 6] of the held-out faces, and their labels."""
        rows = self.data.held.nonzero()[:, 0]
        edge = (FRAME - SIDE) // 2
        found = []
        for part in self.data.frames[rows].split(256):
            chips = to_float(part)[..., edge : edge + SIDE, edge : edge + SIDE]
            age, female, groups = self.average.logits(chips).split((1, 1, len(GROUPS)), 1)
            shares = groups.softmax(1)[:, : len(READ) - 2]
            found.append(torch.cat([age, female.sigmoid(), shares], 1))
        return torch.cat(found), self.data.labels.rows(rows)


def reliability(answers: Tensor, labels: JudgeLabels) -> dict[str, float]:
    """Correlation of the attributes READ, answers [H, 6], with people's labels."""
    truth = labels.attributes()
    found = {}
    for k, name in enumerate(READ):
        known = labels.known[:, min(k, 2)]
        pair = torch.stack([answers[known, k], truth[known, k]])
        found[name] = float(torch.corrcoef(pair)[0, 1].nan_to_num(0)) if known.sum() > 2 else 0.0
    return found


def mistakes(answers: Tensor, labels: JudgeLabels) -> dict[str, float]:
    """Mean error of the age in years, share of right answers to the sex."""
    age, female, _ = labels.known.unbind(1)
    years = (answers[age, 0] * OLDEST - labels.age[age]).abs().mean()
    right = ((answers[female, 1] > 0.5) == (labels.female[female] > 0.5)).float().mean()
    return {"age, mean error in years": years.item(), "female, right": right.item()}


def finish(trainer: Trainer) -> Judge:
    """The average with its statistics over people, and how reliable each attribute is."""
    judge, options = trainer.average, trainer.options
    rng = torch.Generator().manual_seed(0)
    people = trainer.data.frames[trainer.data.held & trainer.data.tight]
    if options.data:
        paths = list_pictures(options.data)[:: max(1, len(list_pictures(options.data)) // 400)]
        pictures = [np.asarray(resize(load_image(path), 128)) for path in paths]
    else:  # tight crops stand for whole pictures
        pictures = [
            np.asarray(Image.fromarray(p).resize((128, 128)))
            for p in people[:400].permute(0, 2, 3, 1).numpy()
        ]
    aligned = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    raw = judged_attributes(judge, aligned)
    again = judged_attributes(judge, to_uint8(degrade(to_float(aligned), rng)))
    judge.centre.copy_(raw.median(0).values)
    judge.scale.copy_(((raw.quantile(0.9, 0) - raw.quantile(0.1, 0)) / 2.56).clamp(min=1e-3))
    judge.reliability.copy_(repeatability(raw, again))
    for name, value in reliability(*trainer.held_answers()).items():
        judge.reliability[JUDGED.index(name)] = max(0.0, value)
    return judge


def train(options: JudgeOptions) -> Trainer:
    """Run or resume the recipe, and write `judge.safetensors`. Raises UserError."""
    if options.threads:
        torch.set_num_threads(options.threads)
    trainer = Trainer(options)
    log = CsvLog(Path(options.out) / "log.csv", COLUMNS, trainer.step)
    with tqdm(total=options.steps, initial=trainer.step, desc="judge", mininterval=5) as bar:
        while trainer.progress < 1:
            row = trainer.train_step()
            bar.update()
            if trainer.step % EVERY == 0 or trainer.progress >= 1:
                held = reliability(*trainer.held_answers())
                log.write(row | {"held_age": held["age"], "held_female": held["female"]})
                bar.set_postfix(loss=f"{row['loss']:.3f}", female=f"{held['female']:.3f}")
                trainer.save()
    save_judge(finish(trainer), Path(options.out) / "judge.safetensors")
    return trainer


def main(argv: Sequence[str] | None = None) -> None:
    trainer = train(parse_options(JudgeOptions, argv, __doc__))
    answers, labels = trainer.held_answers()
    for what, value in mistakes(answers, labels).items():
        print(f"{what}: {value:.3f} ({len(answers)} held-out faces)")
    pairs = zip(JUDGED, trainer.average.reliability.tolist(), strict=True)
    print(", ".join(f"{name} {value:.2f}" for name, value in pairs))


if __name__ == "__main__":
    main()
