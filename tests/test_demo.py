"""The page's handlers as plain functions: sessions, messages, learning and its end, downloads. No
server, a tiny studio.
"""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image

from demo import presets
from demo.messages import SKIP
from demo.panels import cards, compare, downloads, grid, items, learning, sources, targets
from demo.session import MAX_ITEMS, Session, TargetItem
from essence import PRESETS, Essence, UserError

from . import fakes, pictures


@pytest.fixture(scope="module")
def studio():
    """Its models have no mapper: nothing is learned before somebody asks for it."""
    return fakes.studio(with_mapper=False)


@pytest.fixture
def session(studio):
    """Two sources and a target, nothing learned."""
    session = Session()
    for _ in range(2):
        sources.add_random_face(studio, session)
    run(targets.add_targets(studio, session, [pictures.SOURCES[0]], aligned=True))
    return session


def run(steps):
    """All that a handler yields."""
    return list(steps)


def learn(studio, session, mode=learning.NEW, steps=3, preset=presets.DEFAULT):
    return learning.learn(studio, session, mode, preset, steps, 0, 0.5, 0.5)


def give_essences(studio, session):
    """Large ones, without learning."""
    for seed, target in enumerate(session.items.targets.values()):
        target.essence = Essence(3 * studio.random_source(seed).w, "large", studio.models.id)
    items.show(studio, session)


def only(added):
    (item,) = added.values()
    return item


def move_sliders(studio, session, strengths) -> str:
    """The grid as it then is."""
    grid.update_grid(studio, session, {"strengths": strengths})
    return grid.grid_html(session)


def content(html: str) -> tuple[str, bytes]:
    """Name and bytes of a download."""
    name, data = re.search(r'download="([^"]+)"', html)[1], re.search(r"base64,([^\"]+)", html)[1]
    return name, base64.b64decode(data)


# ---- sources and targets


def test_a_photograph_becomes_a_source_while_its_inversion_streams(studio, messages, tmp_path):
    session = Session()
    frames = run(
        sources.add_sources(studio, session, [pictures.photograph(tmp_path / "ann.jpg")], False, 6)
    )
    item = only(session.items.sources)
    assert len(frames) >= 3 and item.name == "ann" and not messages
    assert item.source.w.shape == studio.models.latent_shape
    assert item.picture.size == (round(item.square.side),) * 2 > (400, 400)
    assert (
        "ann" in frames[-1][0]
        and "refining" not in frames[-1][0]
        and "refining" in frames[1][0]
        and "looking" in frames[0][0]
    )


BAD = {
    "no_face": (pictures.no_face, "wall.png", "No face found"),
    "empty": (pictures.empty, "nothing.jpg", "0 bytes"),
    "truncated": (pictures.truncated, "half.jpg", "damaged or cut short"),
    "text": (pictures.text, "letter.png", "not a picture"),
    "huge": (pictures.huge, "huge.png", "20000 x 20000"),
}


@pytest.mark.parametrize("make, name, expected", BAD.values(), ids=BAD)
def test_bad_pictures_are_told_and_the_good_one_of_the_batch_is_kept(
    studio, messages, tmp_path, make, name, expected
):
    session = Session()
    files = [make(tmp_path / name), pictures.photograph(tmp_path / "good.jpg")]
    run(sources.add_sources(studio, session, files, False, 0))
    assert [item.name for item in session.items.sources.values()] == ["good"]
    assert len(messages) == 1 and expected in messages[0] and "\n" not in messages[0]


def test_several_photographs_are_inverted_together_and_one_may_leave_meanwhile(studio, messages):
    session, names = Session(), []
    for frame in sources.add_sources(studio, session, pictures.SOURCES[:3], True, 6):
        names.append(
            [item.name for item in session.items.sources.values() if item.source is not None]
        )
        if len(names[-1]) == 3 and "refining" in frame[0]:
            session.items.sources.pop(next(iter(session.items.sources)))
    assert names[:3] == [[], [], []] and len(names[3]) == 3 and len(names[-1]) == 2 and not messages
    assert all(item.progress == 1 and not item.stale for item in session.items.sources.values())


def test_closed_while_the_pictures_are_read_nothing_half_is_left(studio):
    session = Session()
    course = sources.add_sources(studio, session, pictures.SOURCES[:3], True, 2)
    next(course), next(course)
    assert len(session.items.sources) == 1
    course.close()
    assert not session.items.sources


def test_an_animation_gives_its_first_frame(studio, messages, tmp_path):
    session = Session()
    run(sources.add_sources(studio, session, [pictures.animation(tmp_path / "wink.gif")], False, 0))
    assert only(session.items.sources).source is not None and not messages


def test_of_several_faces_the_largest_is_taken_and_another_can_be_chosen(
    studio, messages, tmp_path
):
    session = Session()
    run(
        sources.add_sources(
            studio,
            session,
            [pictures.photograph(tmp_path / "five.jpg", (0, 1, 2, 3, 4), 260)],
            False,
            0,
        )
    )
    item = only(session.items.sources)
    assert len(item.faces) == 5 and "5 faces" in messages[0]
    first = item.source
    run(sources.choose_source_face(studio, session, item.id, 3, 0))
    assert item.source.crop is item.faces[3] and (item.source.w != first.w).any()
    run(sources.choose_source_face(studio, session, item.id, 99, 0))
    assert item.chosen == 3


def test_a_target_without_a_face_is_taken_as_it_is(studio, messages, tmp_path):
    session = Session()
    run(targets.add_targets(studio, session, [pictures.no_face(tmp_path / "abstract.png")], False))
    item = only(session.items.targets)
    assert (
        not item.found
        and "taken as it is" in messages[0]
        and "taken as it is" in cards.targets_html(session)
    )


def test_another_face_of_a_target_is_another_essence(studio, messages, tmp_path):
    session = Session()
    sources.add_random_face(studio, session)
    run(
        targets.add_targets(
            studio, session, [pictures.photograph(tmp_path / "two.jpg", (0, 1))], False
        )
    )
    run(learn(studio, session))
    item = only(session.items.targets)
    assert item.essence is not None
    targets.choose_target_face(studio, session, item.id, 1)
    assert item.essence is None and item.picture is item.faces[1]


def test_removing_and_clearing(studio, session):
    run(learn(studio, session))
    first, second = session.items.sources
    items.remove(studio, session, first)
    assert list(session.items.sources) == [second] and {
        source for _, source in session.view.cells
    } == {second}
    items.clear(studio, session, "targets")
    assert not session.items.targets and not session.view.cells and session.items.sources


def test_a_source_removed_while_it_is_inverted_stays_away(studio):
    session = Session()
    adding = sources.add_sources(studio, session, [pictures.SOURCES[0]], True, 20)
    next(adding), next(adding)
    items.remove(studio, session, next(iter(session.items.sources)))
    run(adding)
    assert not session.items.sources


def test_there_is_room_for_so_many(studio, messages):
    session = Session()
    for _ in range(MAX_ITEMS + 1):
        sources.add_random_face(studio, session)
    assert len(session.items.sources) == MAX_ITEMS and "Remove one" in messages[0]


def test_names_are_text_not_html(studio, messages):
    session = Session()
    sources.add_random_face(studio, session)
    name = '<img src=x onerror="alert(1)">'
    only(session.items.sources).name = name
    essence = Essence(studio.random_source(0).w, name, studio.models.id)
    item = TargetItem(name, essence=essence)
    session.items.targets[item.id] = item
    for html in (
        *items.show(studio, session),
        compare.open_view(studio, session, item.id, next(iter(session.items.sources))),
    ):
        assert name not in html and "onerror" in html and "<img src=x" not in html


def test_examples_are_only_what_is_bundled():
    assert items.example("sources", pictures.SOURCES[0].name) == [pictures.SOURCES[0]]
    assert items.example("sources", "../../README.md") == []


# ---- learning


def test_learning_streams_and_ends_with_the_grid(studio, session):
    frames = run(learn(studio, session, steps=4))
    shown = [frame[0] for frame in frames if isinstance(frame[0], str)]
    assert (
        "step 4 of 4" in shown[-2]
        and "100%" in shown[-2]
        and "<polyline" in shown[-2]
        and "Learned 1 essence " in shown[-1]
    )
    target = only(session.items.targets)
    assert target.essence.provenance["options"]["steps"] == 4
    assert len(session.view.cells) == 2 and all(
        cell.url in frames[-1][3] for cell in session.view.cells.values()
    )


def test_stopping_keeps_the_best_so_far_and_frees_the_studio(studio, session):
    course = learn(studio, session, steps=10_000)
    next(course), next(course)
    best = only(session.items.targets).essence
    course.close()
    assert best is not None and only(session.items.targets).essence is best
    progress, *_, board = learning.after_stop(studio, session)
    assert "best essence so far" in progress and 'class="cell"' in board
    assert not studio.queue.busy


def test_a_step_that_ends_after_stop_changes_nothing(studio, session):
    run(targets.add_targets(studio, session, [pictures.SOURCES[1]], True))
    course = learn(studio, session, steps=10_000)
    next(course), next(course)
    learning.after_stop(studio, session)
    first, second = session.items.targets.values()
    shown = first.essence
    # Gradio sends the last frame again at the end, perhaps after what is said about the stop.
    assert list(course) == [(SKIP,) * 4]
    assert first.essence is shown and second.essence is None


def test_learning_again_continues_or_starts_over_as_asked(studio, session, messages):
    run(learn(studio, session, steps=6))
    target = only(session.items.targets)
    first = target.essence
    run(learn(studio, session, steps=1))
    assert "Every target has its essence" in messages[0] and target.essence is first
    run(learn(studio, session, learning.CONTINUE, steps=1))
    assert target.essence.provenance["continues"] == first.name
    run(learn(studio, session, learning.AGAIN, steps=6))
    assert target.essence.provenance["continues"] is None
    assert (
        target.essence.delta - first.delta
    ).abs().max() < 1e-5  # the same seed, the same essence


@pytest.mark.parametrize("missing", ["sources", "targets"])
def test_learning_says_what_is_missing(studio, session, messages, missing):
    items.clear(studio, session, missing)
    run(learn(studio, session))
    assert len(messages) == 1 and f"{missing[:-1]} first" in messages[0]


def test_a_picture_added_while_learning_is_not_lost(studio, session):
    course = learn(studio, session, steps=3)
    next(course)
    sources.add_random_face(studio, session)
    run(course)
    assert len(session.items.sources) == 3 and len(session.view.cells) == 3


@pytest.mark.parametrize("preset", presets.presets())
def test_presets_fill_the_controls_and_come_back_as_options(preset):
    steps, consistency, identity = presets.preset_values(preset)
    options = presets.options_of(preset, steps, 5, consistency, identity)
    assert (
        options.seed == 5 and options.steps == steps and options.lambda_consistency == consistency
    )
    published = PRESETS.get(preset, PRESETS["essence"])
    for name in ("start", "space", "penalty", "unit_differences", "lambda_identity"):
        assert getattr(options, name, None) == getattr(published, name, None)


def test_of_several_starts_three_answers_can_be_chosen_from(studio, session):
    run(learning.learn(studio, session, learning.NEW, "quick", 2, 0, 0.5, 0.5, 4))
    target = only(session.items.targets)
    assert len(target.choices) == learning.CHOICES
    best, second = target.choices[0][0], target.choices[1][0]
    assert target.essence is best
    html = items.show(studio, session)[1]
    assert html.count('data-event="choice"') == learning.CHOICES
    before = {key: cell.url for key, cell in session.view.cells.items()}
    targets.choose_answer(studio, session, target.id, 1)
    assert target.essence is second and len(target.choices) == learning.CHOICES
    assert target.gain[1] == pytest.approx(1 - second.provenance["losses"]["transfer"])
    assert {key: cell.url for key, cell in session.view.cells.items()} != before
    targets.choose_answer(studio, session, target.id, 9)
    assert target.essence is second
    run(learn(studio, session, learning.AGAIN, steps=1))
    assert not target.choices, "one start has one answer"


# ---- the grid


def test_a_slider_draws_its_own_row_only(studio, session, monkeypatch):
    run(targets.add_targets(studio, session, [pictures.SOURCES[1]], True))
    give_essences(studio, session)
    drawn = []
    blend = studio.blend

    def counted(sources, essences, strengths, fine=False):
        drawn.append((len(sources), list(strengths)))
        return blend(sources, essences, strengths, fine)

    monkeypatch.setattr(studio, "blend", counted)
    moved, still = session.items.targets.values()
    before = {key: cell.url for key, cell in session.view.cells.items()}
    board = move_sliders(studio, session, {moved.id: -1.5, still.id: 1.0})
    assert drawn == [(2, [-1.5])] and moved.strength == -1.5 and 'value="-1.5"' in board
    for (target, source), cell in session.view.cells.items():
        assert (cell.url == before[target, source]) == (target == still.id)
    sources.add_random_face(studio, session)
    assert drawn[1:] == [(1, [-1.5, 1.0])]


@pytest.mark.parametrize(
    "value, kept",
    [(99, 2.0), (-99, -1.5), (float("nan"), 1.0), ("1; drop", 1.0), (None, 1.0), ([], 1.0)],
)
def test_strengths_from_the_browser_are_checked(studio, session, value, kept):
    target = only(session.items.targets)
    move_sliders(studio, session, {target.id: value, "nobody": 1.0})
    assert target.strength == kept


def test_looking_closely_shows_before_and_after(studio, session):
    source, target = next(iter(session.items.sources)), next(iter(session.items.targets))
    assert compare.open_view(studio, session, target, source) == SKIP  # nothing learned yet
    give_essences(studio, session)
    html = compare.open_view(studio, session, target, source)
    assert (
        len(set(re.findall(r"base64,([^\"]+)", html))) == 2
    )  # a random face is its own photograph
    assert compare.open_view(studio, session, "nobody", source) == SKIP


# ---- files


def test_the_grid_downloads_as_png(studio, session, messages):
    assert downloads.download_grid(studio, session) == SKIP and messages
    run(learn(studio, session, steps=2))
    name, data = content(downloads.download_grid(studio, session))
    side = studio.models.size
    with Image.open(io.BytesIO(data)) as image:
        assert (
            name.endswith(".png")
            and image.format == "PNG"
            and image.width > 3 * side
            and image.height > 2 * side
        )


def test_an_essence_downloads_and_loads_with_its_strength_and_thumbnail(studio, session, tmp_path):
    run(learn(studio, session, steps=2))
    target = only(session.items.targets)
    move_sliders(studio, session, {target.id: 0.35})
    name, data = content(downloads.download_result(studio, session, target.id))
    (tmp_path / name).write_bytes(data)
    another = Session()
    run(targets.add_targets(studio, another, [tmp_path / name], False))
    loaded = only(another.items.targets)
    assert (loaded.essence.delta == target.essence.delta).all() and loaded.strength == 0.35
    assert loaded.name == target.name and loaded.picture is not None
    assert downloads.download_result(studio, session, "nobody") == SKIP


def test_files_that_are_no_essence_of_this_generator(studio, session, messages, tmp_path):
    shape = studio.models.latent_shape
    files = [
        pictures.strange_essence(tmp_path / "large.essence.safetensors"),
        pictures.strange_essence(tmp_path / "twin.essence.safetensors", shape, "another-generator"),
        pictures.corrupted_essence(tmp_path / "half.essence.safetensors"),
        pictures.text(tmp_path / "letter.npy"),
        pictures.empty(tmp_path / "nothing.pt"),
        pictures.strange_essence(tmp_path / "own.essence.safetensors", shape, studio.models.id),
    ]
    count = len(session.items.targets)
    run(targets.add_targets(studio, session, files, False))
    assert len(session.items.targets) == count + 1 and len(messages) == 5
    for message, expected in zip(
        messages, ("18, 512", "another-generator", "half", "letter.npy", "nothing.pt"), strict=True
    ):
        assert expected in message


# ---- sessions


def test_sessions_share_nothing(studio, session):
    other = Session()
    sources.add_random_face(studio, other)
    run(learn(studio, session, steps=2))
    assert (
        not other.items.targets
        and not other.view.cells
        and not set(other.items.sources) & set(session.items.sources)
    )
    with pytest.raises(UserError):
        learning.to_learn(other, learning.NEW)


def test_a_session_holds_values_only(studio, session):
    run(learn(studio, session, steps=2))
    tensors = [item.source.w for item in session.items.sources.values()] + [
        item.essence.delta for item in session.items.targets.values()
    ]
    assert all(
        t.device.type == "cpu" and not t.requires_grad and t.grad_fn is None for t in tensors
    )
