// What HTML made by demo/views.py, board.py and crop.py cannot do alone. Each function gets what Gradio hands to a component's js_on_load.
const PATIENCE = 2000; // milliseconds that an answer may take before the next call is made all the same
const LONG = 120000; // the same, for strips

window.essence = {
  // A click on something with data-event becomes that event, with the other data-* as its values.
  clicks(element, trigger, events) {
    element.addEventListener("click", (click) => {
      const { event, ...values } = click.target.closest("[data-event]")?.dataset ?? {};
      if (events.includes(event)) trigger(event, values);
    });
  },

  // The models are still being loaded: ask for news of it, once. News do not shut a list that somebody has opened.
  waits(element, trigger, watch, event) {
    let asked = false;
    let open = false;
    element.addEventListener("toggle", (toggle) => (open = toggle.target.open), true);
    watch("value", () => {
      element.querySelector("details").open = open;
      if (asked || !element.querySelector("[data-waits]")) return;
      asked = true;
      trigger(event, {});
    });
  },

  // Names are edited where they stand.
  names(element, trigger, event) {
    element.addEventListener("keydown", (key) => {
      const name = key.target.closest("[data-name]");
      if (!name || !["Enter", "Escape"].includes(key.key)) return;
      key.preventDefault();
      if (key.key === "Escape") name.textContent = name.dataset.was;
      name.blur();
    });
    element.addEventListener("focusout", (out) => {
      const name = out.target.closest("[data-name]");
      if (name && name.textContent.trim() !== name.dataset.was) trigger(event, { id: name.dataset.name, name: name.textContent });
    });
  },

  // Removed with the keyboard, a card takes the focus with it: Undo gets it.
  undo(element, watch) {
    let removed = false;
    element.addEventListener("click", (click) => (removed = click.detail === 0 && Boolean(click.target.closest("[data-event=remove]"))));
    watch("value", () => {
      if (removed) element.querySelector("[data-event=undo]")?.focus();
      removed = false;
    });
  },

  fill: (range) => range.style.setProperty("--part", `${(100 * (range.value - range.min)) / (range.max - range.min)}%`),

  // The sliders belong to the hand: an answer that arrives late must not pull them back. Where pictures are slow, they are not made
  // while it moves: cells fade through their strips, and a row that lacks one is drawn when the hand rests.
  sliders(element, trigger, watch, server, moved, rest, ask) {
    const { slow, follow, gather } = essence.strips(element, trigger, ask);
    const held = new Map(); // strengths set by hand; the grid's and the mixture's are apart
    const mode = () => element.querySelector(".board")?.dataset.mode;
    const key = (input) => `${mode()}:${input.dataset.strength}`;
    const all = () => [...element.querySelectorAll("input[data-strength]")];
    const show = (input, value) => {
      input.value = value;
      input.nextElementSibling.value = Number(value).toFixed(2);
      essence.fill(input);
    };
    const restore = () => all().forEach((input) => show(input, held.get(key(input)) ?? input.getAttribute("value")));
    const take = (input) => {
      for (const each of input.dataset.strength === "all" ? all() : [input]) {
        held.set(key(each), input.value);
        show(each, input.value);
      }
      slow() ? follow() : send();
    };
    const strengths = () => {
      const rows = all().filter((each) => held.has(key(each)) && each.dataset.strength !== "all");
      return Object.fromEntries(rows.map((each) => [each.dataset.strength, Number(each.value)]));
    };
    // One call at a time, the next one with the newest values: Gradio's "always_last" repeats the values of the call before.
    let sent = 0; // when the whole grid was asked for
    let asking = false; // for the pictures that change alone
    let more = false;
    let moving = false; // a hand is on a slider
    const patience = () => (slow() ? LONG : PATIENCE);
    const waiting = () => asking || Date.now() - sent < patience();
    const send = () => {
      if (waiting()) return void (more = true);
      more = false;
      slow() ? whole() : quick();
    };
    const whole = () => {
      sent = Date.now();
      slow()?.setAttribute("aria-busy", true);
      trigger(moved, { strengths: strengths(), drawn: false });
      setTimeout(() => more && send(), patience());
    };
    const quick = async () => {
      asking = true;
      const { visitor } = element.querySelector(".board")?.dataset ?? {};
      const drawn = await server.redraw({ visitor, strengths: strengths() }).catch(() => null);
      asking = false;
      if (!drawn?.map(replace).every(Boolean)) return whole();
      if (more) send();
      measure();
    };
    const replace = ([id, source, url, figures]) => {
      const place = element.querySelector(`.cell[data-id="${id}"][data-source="${source}"]`)?.closest(".place");
      const [image, under] = [place?.querySelector("img"), place?.querySelector(".figures")];
      if (!image) return false;
      image.src = url;
      if (under) under.outerHTML = figures;
      return true;
    };
    const measuring = () => element.querySelector("[data-event=figures][aria-pressed=true]");
    const settle = () => (follow() && !measuring() ? trigger(moved, { strengths: strengths(), drawn: true }) : send());
    // Figures are made at rest, and after the pictures: both at once would overtake each other.
    const measure = () => !moving && !more && !waiting() && element.querySelector("[data-lacking]") && trigger(rest, {});

    element.addEventListener("input", (input) => {
      if (!input.target.dataset.strength) return;
      moving = true;
      take(input.target);
    });
    element.addEventListener("change", (change) => {
      const range = change.target.type === "number" ? change.target.previousElementSibling : change.target;
      if (!range.dataset.strength) return;
      if (range !== change.target) {
        range.value = change.target.value;
        take(range);
      }
      moving = false;
      if (slow()) settle();
      measure();
    });
    element.addEventListener("dblclick", (click) => {
      if (!click.target.dataset.strength) return;
      click.target.value = click.target.dataset.rest;
      take(click.target);
      if (slow()) settle();
    });
    watch("value", () => {
      restore();
      sent = 0;
      if (more) send();
      if (slow()) gather();
      measure();
    });
    restore();
  },

  // Where the grid's rows are wider than the page they scroll as one.
  together(element) {
    const follow = (scrolled) => element.querySelectorAll(".cells").forEach((cells) => (cells.scrollLeft = scrolled.scrollLeft));
    element.addEventListener("scroll", (scroll) => scroll.target.matches(".cells") && follow(scroll.target), true);
  },

  // Strips of the grid's cells by name, {strengths, frames}, where pictures are slow. They come a few at a time; each answer asks for more.
  known: new Map(),

  strips(element, trigger, ask) {
    const slow = () => element.querySelector(".board[data-slow]");
    const show = (input, cell) => {
      const strip = essence.known.get(cell.dataset.strip);
      const stale = Number(input.value) !== Number(input.getAttribute("value")); // the cell was drawn at another strength
      if (strip && (stale || cell.querySelector(".next"))) {
        if (!cell.querySelector(".next")) cell.insertAdjacentHTML("beforeend", '<img class="next" alt="">');
        essence.fade(...cell.querySelectorAll("img"), strip, Number(input.value));
      }
      return strip || !stale;
    };
    // Show the cells as the sliders stand, as far as there are strips; whether that is all.
    const follow = () => {
      const inputs = [...element.querySelectorAll("[data-row] input[data-strength]")];
      const cells = (input) => [...input.closest("[data-row]").querySelectorAll(".cell")];
      return inputs.flatMap((input) => cells(input).map((cell) => show(input, cell))).every(Boolean);
    };
    let asked = 0;
    const gather = () => {
      follow();
      const names = new Set([...element.querySelectorAll("[data-strip]")].map((cell) => cell.dataset.strip));
      if (names.size) essence.known.forEach((_, name) => names.has(name) || essence.known.delete(name));
      const lacking = [...names].filter((name) => !essence.known.has(name));
      const note = lacking.length ? `Preparing the sliders: ${names.size - lacking.length} of ${names.size}` : "";
      element.querySelector(".preparing").textContent = note;
      if (!lacking.length || Date.now() - asked < LONG) return;
      asked = Date.now();
      trigger(ask, { lacking });
    };
    essence.arrived = (some) => {
      asked = 0;
      if (some && slow()) gather();
    };
    return { slow, follow, gather };
  },

  arriving(element, watch) {
    watch("value", () => {
      const data = element.querySelector("[data-strips]")?.dataset.strips;
      if (!data) return;
      const { strengths, frames } = JSON.parse(data);
      Object.entries(frames).forEach(([name, each]) => essence.known.set(name, { strengths, frames: each }));
      essence.arrived(Object.keys(frames).length > 0);
    });
  },

  // Between two pictures of a strip, one fades into the other.
  between(strengths, value) {
    const at = Math.max(0, Math.min(strengths.findLastIndex((each) => each <= value + 1e-6), strengths.length - 2));
    return [at, (value - strengths[at]) / (strengths[at + 1] - strengths[at])];
  },

  fade(image, next, { strengths, frames }, value) {
    const [at, part] = essence.between(strengths, value);
    [image.src, next.src, next.hidden] = [frames[at], frames[at + 1], false];
    next.style.opacity = part;
  },

  // A dialog that arrives is shown; a click beside it or on its cross closes it.
  dialog(element, watch, opened) {
    element.addEventListener("click", (click) => {
      const dialog = element.querySelector("dialog");
      if (click.target === dialog || click.target.closest("[data-close]")) dialog.close();
    });
    watch("value", () => {
      const dialog = element.querySelector("dialog");
      if (!dialog) return;
      dialog.close();
      opened(dialog);
      dialog.showModal();
    });
  },

  // Before and after: one slider moves the border between the two pictures, the other scrubs the strip.
  compare(element, watch) {
    element.addEventListener("input", (input) => {
      if ("own" in input.target.dataset) essence.scrub(element.querySelector("dialog"));
      else input.target.closest(".stack")?.style.setProperty("--cut", `${input.target.value}%`);
    });
    element.addEventListener("change", (change) => {
      if (!("swap" in change.target.dataset)) return;
      const before = element.querySelector("img.before");
      before.src = change.target.checked ? before.dataset.picture : before.dataset.model;
    });
    essence.dialog(element, watch, (dialog) => essence.fill(dialog.querySelector("[data-own]")));
  },

  // The strip of the large view.
  strip(element, watch) {
    watch("value", () => {
      const dialog = document.querySelector("dialog.compare[open]");
      const data = element.querySelector("[data-strip]")?.dataset.strip;
      if (!dialog || !data) return;
      dialog.strip = JSON.parse(data);
      dialog.querySelector("[data-own]").disabled = false;
      essence.read(dialog);
    });
  },

  scrub(dialog) {
    const own = dialog.querySelector("[data-own]");
    const value = Number(own.value);
    essence.fade(...dialog.querySelectorAll("img.after"), dialog.strip, value);
    dialog.querySelector("[data-event=picture]").dataset.strength = value;
    dialog.querySelector(".own output").value = value.toFixed(2);
    essence.fill(own);
    essence.read(dialog);
  },

  read(dialog) {
    const [at, part] = essence.between(dialog.strip.strengths, Number(dialog.querySelector("[data-own]").value));
    const mean = (values) => ((1 - part) * values[at] + part * values[at + 1]).toFixed(2);
    const { identity, likeness } = dialog.strip;
    const line = (values, text) => (values[at] === null ? "" : `<span><b>${mean(values)}</b> ${text}</span>`);
    dialog.querySelector(".readout").innerHTML = line(identity, "identity: below 0.6 is usually the same person")
      + line(likeness, "likeness: higher is more like the target");
  },

  // The crop: the square follows the sliders and the pointer here; the server crops once they rest.
  crop(element, trigger, watch, event) {
    const slider = (name) => element.querySelector(`input[name=${name}]`);
    const values = () => Object.fromEntries([...element.querySelectorAll(".controls input")].map((each) => [each.name, Number(each.value)]));
    const base = () => {
      const { cx, cy, x, y } = element.querySelector(".chosen").dataset;
      return [cx, cy, x, y].map(Number);
    };
    const draw = () => {
      const [cx, cy, x, y] = base();
      const { zoom, right, down, turn } = values();
      const [c, s] = [Math.cos((turn * Math.PI) / 180) / zoom, Math.sin((turn * Math.PI) / 180) / zoom];
      const [mx, my] = [cx + 2 * (right * x - down * y), cy + 2 * (right * y + down * x)];
      const [ax, ay] = [c * x - s * y, s * x + c * y];
      const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([i, j]) => [mx + i * ax - j * ay, my + i * ay + j * ax].join(","));
      element.querySelector(".chosen").setAttribute("points", corners.join(" "));
      element.querySelectorAll(".controls input").forEach(essence.fill);
    };
    const send = () => trigger(event, { id: element.querySelector("dialog").dataset.id, ...values() });
    const mirror = () => {
      const result = element.querySelector("dialog[open] .result");
      const item = result && document.querySelector(`[data-item="${result.closest("dialog").dataset.id}"]`);
      const pictures = item?.querySelector(".pair, figure");
      if (pictures) result.replaceChildren(pictures.cloneNode(true));
    };
    element.addEventListener("input", draw);
    element.addEventListener("change", send);
    element.addEventListener("click", (click) => {
      if (!("reset" in click.target.dataset)) return;
      element.querySelectorAll(".controls input").forEach((each) => (each.value = each.dataset.rest));
      draw();
      send();
    });
    element.addEventListener("pointerdown", (down) => {
      const svg = down.target.closest("svg");
      if (!svg?.closest(".photo")) return;
      const [, , x, y] = base();
      const start = values();
      const unit = svg.viewBox.baseVal.width / svg.clientWidth / (2 * (x * x + y * y));
      svg.setPointerCapture(down.pointerId);
      svg.onpointermove = (move) => {
        const [dx, dy] = [(move.clientX - down.clientX) * unit, (move.clientY - down.clientY) * unit];
        slider("right").value = start.right + dx * x + dy * y;
        slider("down").value = start.down - dx * y + dy * x;
        draw();
      };
      svg.onpointerup = () => {
        svg.onpointermove = svg.onpointerup = null;
        send();
      };
    });
    const shelves = new MutationObserver(mirror);
    essence.dialog(element, watch, () => {
      for (const id of ["sources", "targets"]) shelves.observe(document.getElementById(id), { childList: true, subtree: true });
      draw();
      setTimeout(mirror);
    });
  },

  // A link that arrives here is followed once: a download without a file on the server.
  outbox(element, watch) {
    watch("value", () => element.querySelector("a[download]")?.click());
  },

  // The address with the settings in it, into the address bar and the clipboard.
  link(names, values) {
    const query = new URLSearchParams(names.map((name, i) => [name, values[i]]));
    history.replaceState(null, "", `?${query}`);
    navigator.clipboard?.writeText(location.href).catch(() => {});
  },
};

// Pictures from the clipboard go to the panel under the pointer, else to the sources.
document.addEventListener("paste", (paste) => {
  const files = paste.clipboardData?.files;
  if (!files?.length) return;
  const kind = document.querySelector(".es-card:hover #targets") ? "targets" : "sources";
  const input = document.querySelector(`#${kind}-upload input[type=file]`);
  if (!input) return;
  input.files = files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});
