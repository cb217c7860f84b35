"""A level of twice the side on top of a finished generator: its pictures, its file, where they are
shown, and how it is trained.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from demo.looks import before, edited
from demo.panels import grid, sources, targets
from demo.rendering import CELL_SIDE
from demo.session import Session
from essence import Essence
from essence.cli.main import main
from essence.errors import BadFile
from essence.library import checkpoints, loading, manifest
from essence.library.components import fingerprint
from essence.methods.refine import RefineOptions
from essence.models.finer_level import FinerLevel
from essence.models.style_layers import enlarge
from essence.models.stylegan2 import Generator
from essence.ops import cuda, cuda_synthesis
from essence.ops.weight_cache import WeightCache
from essence.studio import Studio, last
from essence.train import finer
from essence.train.finer_data import FinerOptions, Pictures, load_data
from essence.train.sharpener import Sharpener, gaussian_blur, soften, train_sharpener

from . import fakes, pictures
from .test_demo import give_essences, run
from .test_ops import host_library  # noqa: F401

SIZE = fakes.GENERATOR.size


def new_level(seed: int = 0, generator: str = "") -> FinerLevel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        level = FinerLevel(fakes.GENERATOR.finer(6), generator)
        for layer in (level.up, level.flat):
            layer.activate.bias.data.normal_(std=0.3)
        level.to_rgb.bias.data.normal_(std=0.3)
    return level.eval().requires_grad_(False)


def grown(seed: int = 0) -> Generator:
    generator = copy.deepcopy(fakes.model_set().generator)
    generator.grow(new_level(seed))
    return generator


def latents(count: int = 2) -> torch.Tensor:
    shape = (count, fakes.GENERATOR.layers, fakes.GENERATOR.style_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def studio():
    models = fakes.model_set()
    return Studio.of(dataclasses.replace(models, generator=grown(), extras={}))


# ---- pictures


def test_its_own_pictures_stay_to_the_bit_and_so_does_what_names_it():
    bare, generator, w = fakes.model_set().generator, grown(), latents()
    for side in fakes.GENERATOR.resolutions:
        assert torch.equal(bare.synthesis(w, side), generator.synthesis(w, side))
    assert (bare.finest, generator.finest) == (SIZE, 2 * SIZE)
    assert fingerprint(bare) == fingerprint(generator)
    assert bare.state_dict().keys() == generator.state_dict().keys()


def test_pictures_and_gradients_are_those_of_the_plain_forward():
    generator, w = grown(), latents().requires_grad_()
    fused = generator.synthesis(w, 2 * SIZE)
    weight = torch.linspace(-1, 1, fused.numel()).view(fused.shape)
    (ours,) = torch.autograd.grad((fused * weight).sum(), w)
    generator.requires_grad_(True)  # layer by layer
    plain = generator.synthesis(w, 2 * SIZE)
    (expected,) = torch.autograd.grad((plain * weight).sum(), w)
    torch.testing.assert_close(fused, plain, atol=1e-4, rtol=1e-4)
    scale = expected.abs().max()
    torch.testing.assert_close(ours / scale, expected / scale, atol=1e-4, rtol=1e-3)


def test_so_are_those_of_the_way_through_a_gpu(host_library, monkeypatch):  # noqa: F811
    monkeypatch.setattr(cuda, "_library", lambda device: host_library)
    monkeypatch.setattr(cuda, "_stream", lambda x: None)
    generator, w = grown(), latents()
    expected = generator.synthesis(w, 2 * SIZE)
    blocks, constant = generator._fused.blocks, generator.input.input
    long = generator._lengthened(w)
    for side, count in ((2 * SIZE, len(blocks)), (SIZE, len(blocks) - 1)):
        noise = generator._noise(count)
        made = cuda_synthesis.synthesize(blocks[:count], constant, noise, long, WeightCache())
        expected = generator.synthesis(w, side)
        torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("frozen", [True, False])
def test_it_reads_maps_picture_and_the_last_latent(frozen):
    generator, level, w = grown(), new_level(), latents()
    generator.requires_grad_(not frozen)
    with torch.no_grad():
        made = level(*generator.maps(w), w[:, -1])
        torch.testing.assert_close(made, generator.synthesis(w, 2 * SIZE), atol=1e-4, rtol=1e-4)
        other = w.clone()
        other[:, :-1] += 0.1 * torch.randn_like(other[:, :-1])
        assert not torch.allclose(generator.synthesis(other, 2 * SIZE), made, atol=1e-2)


def test_a_side_that_it_does_not_have_is_named():
    with pytest.raises(ValueError, match=rf"one of \[4, 8, 16, {SIZE}, {2 * SIZE}\], not 128"):
        grown().synthesis(latents(), 128)


# ---- files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    fakes.write_manifest(tmp_path, monkeypatch, {"one": "face"})
    with open(tmp_path / "manifest.toml", "a") as file:
        file.write('[one.finer]\nfile = "one/finer.safetensors"\n')
    return tmp_path / "one"


def test_a_set_brings_it_and_goes_without_it(folder):
    models = loading.load_model_set("one", half=False)
    assert manifest.model_sets()["one"].missing == ("finer",) and models.finest == SIZE
    level = new_level(generator=fingerprint(models.generator))
    checkpoints.save_finer_level(level, folder / "finer.safetensors", half=False)
    for alone in (False, True):
        grown = loading.load_model_set("one", half=False, pictures_alone=alone)
        assert (grown.size, grown.finest, grown.id) == (SIZE, 2 * SIZE, models.id)
        w = latents(3)
        assert np.array_equal(grown.render(w), models.render(w))
        assert grown.render(w, grown.finest).shape == (3, 2 * SIZE, 2 * SIZE, 3)


def test_a_level_of_another_generator_is_refused(folder):
    path = folder / "finer.safetensors"
    checkpoints.save_finer_level(new_level(generator="00000000"), path)
    with pytest.raises(BadFile, match="finer level of 'one' was trained for another generator"):
        loading.load_model_set("one")
    other = dataclasses.replace(fakes.GENERATOR.finer(6), below=8)
    checkpoints.save_finer_level(FinerLevel(other), path)
    with pytest.raises(BadFile, match="do not belong together"):
        loading.load_model_set("one")


def test_other_files_are_no_level(folder):
    with pytest.raises(BadFile, match="judge.safetensors is no finer level: `train finer`"):
        checkpoints.load_finer_level(folder / "judge.safetensors")


# ---- where they are shown


def test_sources_have_a_picture_for_the_eye_and_one_for_the_losses(studio):
    refine = RefineOptions(steps=2)
    (photograph,) = studio.sources(pictures.SOURCES[:1], aligned=True, refine=refine)
    random = studio.random_source(3)
    for source in (photograph, random):
        assert (source.inversion.width, source.picture.width) == (SIZE, 2 * SIZE)
        shown = studio.models.render(source.w[None], 2 * SIZE)[0]
        assert np.array_equal(np.asarray(source.picture), shown)
    assert photograph.has_photograph and not random.has_photograph


def test_a_picture_in_refinement_is_never_an_older_one(studio):
    crop = pictures.face(0, 64)
    steps = list(studio.invert([crop], ["one"], RefineOptions(steps=3)))
    assert all(step.result[0].fine is None for step in steps[:-1])
    assert steps[-1].result[0].fine is not None
    again = list(studio.invert([crop], ["one"], RefineOptions(steps=3)))  # known by now
    alone = list(studio.invert([crop], ["one"], RefineOptions(steps=0)))
    assert len(again) == len(alone) == 1
    assert again[0].result[0].fine is not None and alone[0].result[0].fine is not None


def test_imagined_faces_have_one(studio):
    models = studio.models
    extras = {"mapper": fakes.mapper(models.generator, models.clip, models.latents)}
    studio = Studio.of(dataclasses.replace(models, extras=extras))
    faces = last(studio.imagine(studio.text_target("a man"))).result
    assert {face.picture.width for face in faces} == {2 * SIZE}


def test_blends_grids_and_animations(studio):
    source, models = studio.random_source(3), studio.models
    essence = Essence(0.3 * torch.ones(models.latent_shape), "ones", models.id)
    for fine, side in ((False, SIZE), (True, 2 * SIZE)):
        assert studio.blend([source], [essence], [1.0], fine).shape == (1, 1, side, side, 3)
        assert studio.blend([source], [], [], fine).shape == (0, 1, side, side, 3)
    assert studio.grid([source], [essence], [1.0]).height > 4 * SIZE


@pytest.fixture
def session(studio, messages):
    """Two sources and an essence, in the model's look."""
    session = Session()
    session.view.look = "model"
    run(sources.add_sources(studio, session, pictures.SOURCES[:2], True, 0))
    run(targets.add_targets(studio, session, pictures.SOURCES[3:4], True))
    give_essences(studio, session)
    return session


def test_cells_are_coarse_while_a_slider_moves_and_fine_at_rest(studio, session):
    grid.show_grid(studio, session)
    cells = session.view.cells
    assert len(cells) == 2 and not any(cell.coarse for cell in cells.values())
    (one,) = session.items.targets

    def ask(**request):
        return grid.update_grid(studio, session, request)["cells"]

    drawn = ask(strengths={one: 0.4})
    assert [cell["coarse"] for cell in drawn] == [True, True]
    assert ask(strengths={one: 0.4}) == []  # no other strength: nothing to draw while it moves
    rested = ask(strengths={one: 0.4}, figures=True)
    assert [cell["coarse"] for cell in rested] == [False, False]
    assert {cell["picture"] for cell in rested}.isdisjoint(cell["picture"] for cell in drawn)
    assert ask(strengths={one: 0.4}, figures=True) == []
    ask(strengths={one: 0.6})
    grid.show_grid(studio, session)
    assert not any(cell.coarse for cell in cells.values())
    # Photographs are as large as they were cut out.
    session.view.look = "photograph"
    assert not any(cell["coarse"] for cell in ask(strengths={one: 0.8}))


def test_before_and_after_have_one_side(studio, session):
    (target,), item = session.rows(), session.items.ready()[0]
    for fine, side in ((False, SIZE), (True, 2 * SIZE)):
        after = edited(studio, session, [target], [item], [0.0], CELL_SIDE, fine=fine)[0][0]
        assert np.array_equal(np.asarray(after), np.asarray(before(session, item, fine)))
        assert after.width == side


# ---- training


OPTIONS = FinerOptions(
    "",
    pictures=24,
    channels=4,
    sharpener_steps=40,
    sharpener_rate=1e-2,
    sharpener_batch=8,
    sharpener_width=8,
    warmup=2,
    steps=4,
    batch=4,
    patches=2,
    patch=32,
    critics_after=1,
    device="cpu",
    threads=1,
)


def stripes(count: int = 8, side: int = 64) -> torch.Tensor:
    """Sharp pictures, uint8: bars of several widths and directions."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    made = [
        255 * (((x * np.cos(a) + y * np.sin(a)) / w).astype(int) % 2)
        for a, w in zip(rng.uniform(0, 3, count), rng.uniform(4, 9, count), strict=True)
    ]
    return torch.tensor(np.stack(made)).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)


def test_softening_halves_and_loses_detail_but_no_light():
    images = stripes().float() / 127.5 - 1
    rng = torch.Generator().manual_seed(0)
    quiet = dataclasses.replace(OPTIONS, noise=0.0)
    soft = soften(images, quiet, rng)
    assert soft.shape[-1] == images.shape[-1] // 2
    torch.testing.assert_close(soft.mean(), images.mean(), atol=0.02, rtol=0)
    variances = [gaussian_blur(images, s)[..., 4:-4, 4:-4].var().item() for s in (0.3, 0.6, 1.2)]
    assert variances == sorted(variances, reverse=True)


def test_a_sharpener_comes_nearer_to_the_truth_than_an_enlargement():
    data = Pictures(stripes(), torch.ones(8), None, "cpu")
    sharpener = Sharpener(OPTIONS.sharpener_width)
    sharpener.load_state_dict(train_sharpener(OPTIONS, data))
    goal = data.patches(8, 32, torch.Generator().manual_seed(9))
    soft = soften(goal, OPTIONS, torch.Generator().manual_seed(9))
    with torch.no_grad():
        sharp = (sharpener(soft) - goal).abs().mean()
    assert sharp < 0.9 * (enlarge(soft) - goal).abs().mean()


@pytest.fixture
def inputs(tmp_path):
    """Files and pictures that the recipe takes."""
    folder = fakes.files(tmp_path / "set")
    data = tmp_path / "data"
    data.mkdir()
    for number in range(24):
        pictures.face(number, 2 * SIZE).rotate(number).save(data / f"{number:02d}.png")
    return dataclasses.replace(
        OPTIONS,
        data=str(data),
        generator=str(folder / "generator.safetensors"),
        latents=str(folder / "latents.safetensors"),
        out=str(tmp_path / "run"),
        export=str(tmp_path / "export"),
    )


def test_the_recipe_makes_a_level_that_its_generator_takes(inputs, tmp_path):
    finer.train(inputs)
    level = checkpoints.load_finer_level(tmp_path / "export" / "finer.safetensors")
    generator = checkpoints.load_generator(inputs.generator)
    assert level.generator == fingerprint(generator)
    generator.grow(level)
    assert generator.synthesis(latents(), 2 * SIZE).isfinite().all()
    assert (tmp_path / "run" / "sheet.png").is_file()


def test_a_stopped_run_goes_on_where_it_was(inputs, tmp_path):
    whole = finer.Trainer(dataclasses.replace(inputs, out=str(tmp_path / "whole")))
    rows = [whole.train_step() for _ in range(4)]
    first = finer.Trainer(inputs)
    first.train_step(), first.train_step(), first.save()
    second = finer.Trainer(inputs)
    assert second.clock["step"] == 2
    again = [second.train_step() for _ in range(2)]
    for expected, found in zip(rows[2:], again, strict=True):
        for name in ("sharp", "believe", "doubt", "rate"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4), name


def test_the_level_learns_what_the_sharpener_makes(inputs):
    options = dataclasses.replace(inputs, steps=60, critics=0.0, rate=1e-2, warmup=5)
    trainer = finer.Trainer(options)
    trainer.level.to_rgb.bias.data += 0.2
    rows = [trainer.train_step() for _ in range(60)]
    early, late = (np.mean([row["sharp"] for row in part]) for part in (rows[:5], rows[-5:]))
    assert late < 0.5 * early


def test_a_share_of_what_a_level_adds_is_just_that():
    level, x, picture = new_level(), torch.randn(1, 4, 32, 32), torch.randn(1, 3, 32, 32)
    w, plain = latents(1)[:, -1], enlarge(picture)
    half = finer.moderated(level, 0.5)(x, picture, w)
    torch.testing.assert_close(half - plain, (level(x, picture, w) - plain) / 2)


def test_held_out_pictures_are_left_out(inputs):
    data = load_data(inputs, 2 * SIZE, None)
    assert 0 < len(data.pixels) < 24 and data.w is None


def test_the_command_is_there(capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", "finer", "--help"])
    assert end.value.code == 0 and "--sharpener-steps" in capsys.readouterr().out


def test_fewer_pictures_than_a_batch_are_drawn_again():
    data = Pictures(stripes(3), torch.ones(3), None, "cpu")
    assert data.patches(8, 32, torch.Generator().manual_seed(0)).shape == (8, 3, 32, 32)
