"""The table of components: a new kind of model is one entry in it, and everything follows."""

from pathlib import Path

import pytest
import torch

from essence.cli import main as cli
from essence.errors import BadFile, UserError
from essence.library import loading, manifest
from essence.library.components import COMPONENTS, Component
from essence.library.conversion import convert_checkpoint
from essence.library.download import import_files
from essence.library.safe_files import read_safetensors, write_safetensors

from . import fakes


def load_critic(path, file):
    tensors, header = read_safetensors(path)
    if header.get("kind") != "critic":
        raise BadFile(f"{path.name} is no critic.")
    return tensors["weight"]


def check_critic(critic, context):
    if critic.shape[-1] != context.generator.config.style_dim:
        raise BadFile(f"The critic of '{context.name}' does not fit its generator.")


CRITIC = Component(
    load=load_critic,
    save=lambda critic, path, half: write_safetensors(path, {"weight": critic}, {"kind": "critic"}),
    found_in=lambda path: "critic" in Path(path).name,
    check=check_critic,
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the critic of the set "one" belongs; the set's other files are there."""
    monkeypatch.setitem(COMPONENTS, "critic", CRITIC)
    fakes.write_manifest(tmp_path, monkeypatch, {"one": "square"})
    return tmp_path / "one" / "critic.safetensors"


def test_a_kind_that_is_not_here_is_listed_and_the_set_goes_without_it(place):
    spec = manifest.model_sets()["one"]
    assert spec.missing == ("critic",) and spec.missing_required == ()
    models = loading.load_model_set("one", half=False)
    assert "critic" not in models.extras and models.component("inverter") is models.inverter
    with pytest.raises(UserError, match="'one' has no critic"):
        models.component("critic")


def test_a_kind_that_is_needed_says_how_to_get_it(place, monkeypatch):
    needed = Component(CRITIC.load, CRITIC.save, required=True)
    monkeypatch.setitem(COMPONENTS, "critic", needed)
    assert manifest.model_sets()["one"].missing_required == ("critic",)
    with pytest.raises(UserError, match="critic of 'one' is not here.*essence fetch one"):
        loading.load_model_set("one")


def test_a_kind_has_a_stand_in(place, monkeypatch):
    def stand_in(context):
        return torch.zeros(context.generator.config.style_dim)

    monkeypatch.setitem(
        COMPONENTS, "critic", Component(CRITIC.load, CRITIC.save, stand_in=stand_in)
    )
    assert torch.equal(loading.load_model_set("one").component("critic"), torch.zeros(8))


def test_a_kind_is_saved_loaded_and_checked(place):
    COMPONENTS["critic"].save(torch.ones(3, 8), place, False)
    assert not manifest.model_sets()["one"].missing
    models = loading.load_model_set("one", half=False)
    assert torch.equal(models.component("critic"), torch.ones(3, 8))
    COMPONENTS["critic"].save(torch.ones(3, 9), place, False)
    with pytest.raises(BadFile, match="critic of 'one' does not fit"):
        loading.load_model_set("one", half=False)


def test_a_kind_is_fetched_by_name_and_what_arrives_is_checked(place, tmp_path, capsys):
    own = tmp_path / "own.safetensors"
    write_safetensors(own, {"weight": torch.ones(8)}, {"kind": "something"})
    arguments = ["fetch", "one", "--part", "critic", "--from", str(own)]
    assert cli.main(arguments) == 2
    assert "it is not the critic that it should be" in capsys.readouterr().err
    assert not place.exists()
    CRITIC.save(torch.ones(8), own, False)
    assert cli.main(arguments) == 0 and place.is_file()
    assert import_files(manifest.model_sets()["one"], place, "critic")[0].how == "here already"


def test_a_kind_is_converted_and_found_in_a_folder_of_ones_own(place, tmp_path):
    checkpoint, out = tmp_path / "critic-public.safetensors", tmp_path / "own" / "out.safetensors"
    CRITIC.save(torch.ones(8), checkpoint, False)
    assert convert_checkpoint(checkpoint, out) == {"critic": out}
    assert torch.equal(load_critic(out, None), torch.ones(8))
    out.rename(out.with_name("critic.safetensors"))
    assert list(manifest.find_model_set(str(out.parent)).components) == ["critic"]


@pytest.mark.parametrize(
    "kind", ["generator", "inverter", "clip", "latents", "mapper", "essence", "judge"]
)
def test_what_is_saved_is_what_was_loaded(tmp_path, kind):
    component, folder = COMPONENTS[kind], fakes.files(tmp_path / "set")
    file = manifest.ModelFile(str(folder / f"{kind}.safetensors"))
    first = component.load(file.path, file)
    component.save(first, tmp_path / "again.safetensors", False)
    again = component.load(tmp_path / "again.safetensors", file)
    if kind == "latents":
        first, again = (
            {"mean": axes.mean, "covariance": axes.axes.T @ axes.axes} for axes in (first, again)
        )
    else:
        first, again = first.state_dict(), again.state_dict()
    assert first.keys() == again.keys()
    for name, value in first.items():
        torch.testing.assert_close(again[name], value)
