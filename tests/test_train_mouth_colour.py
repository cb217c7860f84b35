"""White teeth for a finished generator."""

import torch

from essence.library.checkpoints import load_generator, load_latents, save_generator, save_latents
from essence.methods import losses
from essence.train import mouth_colour

from . import fakes

OPTIONS = mouth_colour.MouthColourOptions(
    "", "", "", steps=60, batch=4, rate=1e-3, layers=0.0, least=0.3, most=0.5
)


def window(size):
    return losses.care(size, 1.0, mouth_colour.MOUTH_ONLY) - 1


def test_in_the_mouth_nothing_is_greener_than_red_and_elsewhere_nothing_changes():
    before = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mouth = torch.zeros(1, 1, 32, 32)
    mouth[..., 20:26, 10:22] = 1
    after = mouth_colour.whiten_teeth(before, mouth)
    outside = (mouth == 0).expand_as(before)
    assert torch.equal(after[outside], before[outside])
    red, green, _ = after[..., 20:26, 10:22].unbind(1)
    assert (green <= red - mouth_colour.WARMTH + 1e-6).all()
    # As bright as they were.
    torch.testing.assert_close(after[:, 0] + after[:, 1], before[:, 0] + before[:, 1])


def test_skin_lips_and_white_teeth_stay():
    for colour in ((0.6, 0.2, 0.1), (0.3, -0.6, -0.5), (0.8, 0.65, 0.6)):
        picture = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        assert torch.equal(mouth_colour.whiten_teeth(picture, torch.ones(1, 1, 8, 8)), picture)


def test_a_tuned_generator_draws_the_same_with_whiter_teeth():
    models = fakes.model_set()
    before, mouth = models.generator, window(models.size)
    after = mouth_colour.fine_tune(before, models.latents, OPTIONS)
    other = torch.Generator().manual_seed(99)  # not the latents that it learned on
    w = mouth_colour.sample_latents(models.latents, OPTIONS, before.config.layers, other)
    with torch.no_grad():
        seen, drawn = before.synthesis(w), after.synthesis(w)
    wanted = mouth_colour.whiten_teeth(seen, mouth)

    def error(a, b, weight):
        return ((a - b).abs() * weight).mean() / weight.mean()

    change = error(wanted, seen, mouth)
    # Noise learns slowly; a step the other way would show.
    assert change > 0.1 and error(wanted, drawn, mouth) < 0.95 * change
    assert error(drawn, seen, 1 - mouth) < 0.1 * change
    for name, weight in before.style.state_dict().items():
        assert torch.equal(after.style.state_dict()[name], weight), (
            "latents would mean something else"
        )


def test_each_batch_has_those_that_need_it_most_and_others():
    seen = torch.zeros(8, 3, 4, 4)
    wanted = seen + torch.tensor([0, 5, 1, 7, 2, 0, 3, 0.0]).view(-1, 1, 1, 1)
    assert mouth_colour.select_batch(seen, wanted, 4).tolist() == [3, 1, 0, 2]


def test_the_command_writes_a_generator(tmp_path):
    models = fakes.model_set()
    save_generator(models.generator, tmp_path / "g.safetensors")
    save_latents(torch.zeros(8), torch.eye(8), tmp_path / "l.safetensors", 1)
    out = tmp_path / "new"
    words = ["--generator", str(tmp_path / "g.safetensors")]
    words += ["--latents", str(tmp_path / "l.safetensors"), "--out", str(out)]
    words += ["--steps", "2", "--batch", "2", "--threads", str(torch.get_num_threads())]
    mouth_colour.main(words)
    assert load_generator(out / "generator.safetensors").config == models.generator.config
    assert len(load_latents(tmp_path / "l.safetensors").axes) == 8
