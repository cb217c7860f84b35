"""Recipe for the text side of a finished image-text encoder: `python -m essence train texts --faces
RUN/faces.pt --start RUN/clip.safetensors --out runs/texts`.

Captions are drawn as often as people are, so what is rare is said of too few of them: an old man is
taken for a middle-aged one. Here answers that exclude each other are asked for equally often. The
image side stays as it is, and with it all that was trained by it; pictures are embedded once, and a
few hundred steps take minutes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError
from ..library.clip_files import load_clip, save_clip
from ..models.clip import TAUGHT, ImageText
from ..models.vocabulary import every_phrase
from .clip import LAST_RATE
from .clip_batches import CAPTIONS, ClipDataset, contrastive_loss, embed_pictures
from .clip_step import MOST_SCALE
from .common import (
    CsvLog,
    descend,
    described,
    parse_options,
    step_generator,
    update_average,
    warm_cosine,
)
from .data import captions
from .data.faces import Faces
from .questions import SAID, Question, questions
from .recording import set_rates

COLUMNS = ("step", "loss", "answers", "captions", "moved")
LOGGED = 20  # steps between two rows


@dataclass(frozen=True)
class TextOptions:
    faces: str = field(metadata={"help": "faces.pt of the image-text encoder's run"})
    start: str = field(metadata={"help": "the encoder, clip.safetensors of that run"})
    out: str = described("runs/texts", "folder of the run: log, clip.safetensors")
    steps: int = 400
    batch: int = described(96, "captions in a step")
    pictures: int = described(512, "that every caption is compared with")
    asked: int = described(192, "pictures in a step that answer each question")
    rate: float = 5e-4
    warmup: int = 20
    average: float = described(0.98, "decay of the moving average")
    lambda_captions: float = 0.5
    lambda_moved: float = described(1.0, "of the square of what captions move")
    seed: int = 0
    threads: int = described(0, "0: torch's choice")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def train(options: TextOptions) -> Path:
    """Run the recipe; returns the encoder's file. Raises UserError for missing files, and for an
    encoder that was not made by `train clip`.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    for path in (options.faces, options.start):
        if not Path(path).is_file():
            raise UserError(f"There is no file {path}: give what `train clip` made.")
    encoder = load_clip(options.start).to(options.device)
    if encoder.name != TAUGHT:
        raise UserError(f"{options.start} was not made by `train clip`: its words are its own.")
    faces, context = Faces.load(Path(options.faces)), encoder.model.context_length
    dataset = ClipDataset.build(faces, 0, context, options.seed, options.device)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    lesson = Lesson(encoder, dataset, options)
    log = CsvLog(out / "log.csv", COLUMNS, 0)
    for step in tqdm(range(options.steps), "texts", mininterval=5):
        terms = lesson.step(step)
        if (step + 1) % LOGGED == 0 or step + 1 == options.steps:
            log.write({"step": step + 1} | {name: value.item() for name, value in terms.items()})
    path = out / "clip.safetensors"
    state = lesson.average.state_dict()
    save_clip(encoder.config, state, path, name=TAUGHT, words=every_phrase())
    return path


class Lesson:
    """The text side, its moving average, and the pictures' embeddings, which stay."""

    def __init__(self, encoder: ImageText, dataset: ClipDataset, options: TextOptions):
        self.options, self.dataset = options, dataset
        self.weights = dataset.weights()
        self.questions = questions(encoder.tokenizer, dataset, self.weights)
        self.embeddings = embed_pictures(encoder, dataset.pictures)
        self.before, self.model = copy.deepcopy(encoder.model), encoder.model
        self.average = copy.deepcopy(encoder.model)
        self.scale = self.model.logit_scale.exp().clamp(max=MOST_SCALE)
        parameters = text_parameters(self.model)
        for parameter in parameters:
            parameter.requires_grad_(True)
        # The ground coordinate, which comes last, belongs to pictures alone.
        texts_alone = torch.ones_like(self.model.text_projection[0])
        texts_alone[-1] = 0
        self.model.text_projection.register_hook(lambda gradient: gradient * texts_alone)
        self.optimizer = torch.optim.AdamW(
            parameters, lr=options.rate, betas=(0.9, 0.98), weight_decay=0.0
        )

    def step(self, step: int) -> dict[str, Tensor]:
        """One step of the optimiser; the loss and its terms."""
        options = self.options
        rate = options.rate * warm_cosine(step / options.steps, step, options.warmup, LAST_RATE)
        set_rates(self.optimizer, [rate])
        rng = step_generator(options.seed, step, self.embeddings.device)
        contrast, moved = self.caption_losses(rng)
        answers = torch.stack([self.answer_loss(each, rng) for each in self.questions]).mean()
        loss = answers + options.lambda_captions * contrast + options.lambda_moved * moved
        descend(self.optimizer, loss, max_norm=1.0)
        update_average(self.average, self.model, step + 1, options.average)
        terms = {"loss": loss, "answers": answers, "captions": contrast, "moved": moved}
        return {name: value.detach() for name, value in terms.items()}

    def caption_losses(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """CLIP's loss on composed captions; and the mean square that they have moved."""
        dataset, options = self.dataset, self.options
        rows = torch.multinomial(self.weights, options.batch, True, generator=rng)
        which = torch.randint(CAPTIONS, rows.shape, generator=rng, device=rows.device)
        tokens, used = dataset.tokens[rows, which], dataset.used[rows, which]
        text = say(self.model, tokens)
        with torch.no_grad():
            said_before = say(self.before, tokens)
        others = torch.multinomial(self.weights, options.pictures, True, generator=rng)
        agree = captions.agreement(used, dataset.facts[others])
        contrast = contrastive_loss(text @ self.embeddings[others].T * self.scale, agree)
        return contrast, (text - said_before).square().sum(1).mean()

    def answer_loss(self, question: Question, rng: torch.Generator) -> Tensor:
        """Cross-entropy of the right answers, each the mean of a few prompts."""
        rows, right = question.draw(self.options.asked, rng)
        device = rows.device
        prompts = [
            tokens[torch.randint(len(tokens), (SAID,), generator=rng, device=device)]
            for tokens in question.tokens
        ]
        said = say(self.model, torch.cat(prompts)).unflatten(0, (-1, SAID)).mean(1)
        logits = self.embeddings[rows] @ F.normalize(said, dim=1).T * self.scale
        chances = logits.log_softmax(1).masked_fill(~right, -torch.inf)
        return -torch.logsumexp(chances, 1).mean()


def say(model: CLIP, tokens: Tensor) -> Tensor:
    """Token rows to unit embeddings."""
    return F.normalize(model.encode_text(tokens.long()), dim=1)


def text_parameters(model: CLIP) -> list[Tensor]:
    return [
        parameter
        for name, parameter in model.named_parameters()
        if not name.startswith("visual.") and name != "logit_scale"
    ]


def main(argv: Sequence[str] | None = None) -> None:
    print(train(parse_options(TextOptions, argv, __doc__)))


if __name__ == "__main__":
    main()
