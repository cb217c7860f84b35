// What the HTML of demo/templates cannot do alone. Each function gets what Gradio hands to a
// component's js_on_load.

// Milliseconds that an answer may take before the next request is made all the same; and where
// pictures are slow.
const PATIENCE = 2000;
const LONG = 120000;
// Between two measurements of what is not urgent.
const PAUSE = 60;
const MEASURING = "[data-event=figures][aria-pressed=true]";

window.essence = {
  // A click on something with data-event becomes that event, with the other data-* as its values.
  clicks(element, trigger, events) {
    element.addEventListener("click", (click) => {
      const { event, ...values } = click.target.closest("[data-event]")?.dataset ?? {};
      if (events.includes(event)) trigger(event, values);
    });
  },

  // Answers may overtake each other on their way: the newest stays.
  newest(element, watch, props) {
    let [newest, value] = [0, props.value];
    watch("value", () => {
      const number = Number(element.querySelector("[data-number]")?.dataset.number ?? newest);
      if (number < newest) props.value = value;
      else [newest, value] = [number, props.value];
    });
  },

  // The models are still being loaded: ask for news of it, once. News do not shut a list that
  // somebody has opened.
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
      if (!name || name.textContent.trim() === name.dataset.was) return;
      trigger(event, { id: name.dataset.name, name: name.textContent });
    });
  },

  // Removed with the keyboard, a card takes the focus with it: Undo gets it.
  undo(element, watch) {
    let removed = false;
    element.addEventListener("click", (click) => {
      removed = click.detail === 0 && Boolean(click.target.closest("[data-event=remove]"));
    });
    watch("value", () => {
      if (removed) element.querySelector("[data-event=undo]")?.focus();
      removed = false;
    });
  },

  fill(range) {
    const part = (range.value - range.min) / (range.max - range.min);
    range.style.setProperty("--part", `${100 * part}%`);
  },

  // The grid. A slider's move is one request to the server, which answers with what has changed
  // (see demo/panels/grid.py): past Gradio's events where pictures are fast, else by one of them.
  // The sliders belong to the hand: an answer that arrives late must not pull them back. Where
  // pictures are slow, none is made while it moves: cells fade through their strips, and a row that
  // lacks one is drawn when the hand rests.
  // Clicks bring the strengths as well: the last move may still wait.
  grid(element, trigger, watch, server, event, clicks) {
    const held = new Map(); // strengths set by hand; the grid's and the mixture's are apart
    let moving = false; // a hand is on a slider
    let more = false; // it has moved on since the last request
    let drawing = {}; // strengths of the request that is under way
    const sent = { cells: 0, strips: 0, scales: 0 }; // when it was; they do not wait for each other
    const followed = new Map(); // how often a strength was chosen for the visitor
    const board = () => element.querySelector(".board");
    const slow = () => Boolean(element.querySelector(".board[data-slow]"));

    // ---- sliders
    const mode = () => board()?.dataset.mode;
    const key = (input) => `${mode()}:${input.dataset.strength}`;
    const all = () => [...element.querySelectorAll("input[data-strength]")];
    const show = (input, value) => {
      input.value = value;
      input.nextElementSibling.value = Number(value).toFixed(2);
      essence.fill(input);
    };
    // A strength that was chosen for the visitor is followed once; then the hand may have it.
    const chosen = (input) => {
      const times = Number(input.dataset.suited);
      if (times <= (followed.get(key(input)) ?? 0)) return;
      followed.set(key(input), times);
      held.delete(key(input));
    };
    const restore = () => {
      all().forEach(chosen);
      all().forEach((input) => show(input, held.get(key(input)) ?? input.getAttribute("value")));
    };
    const move = (input) => {
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

    // ---- requests: one at a time, the next one with the newest values
    const patience = () => (slow() ? LONG : PATIENCE);
    const waiting = (part) => Date.now() - sent[part] < patience();
    const ask = async (part, values) => {
      const request = { visitor: board()?.dataset.visitor, slow: slow(), mode: mode(), ...values };
      sent[part] = Infinity;
      const answer = slow() ? null : await server.update(request).catch(() => null);
      sent[part] = Date.now();
      if (answer) return essence.take(answer);
      trigger(event, { request });
      setTimeout(() => more && send(), patience());
    };
    const send = () => {
      if (waiting("cells")) return void (more = true);
      more = false;
      const pictures = !(slow() && follow() && !element.querySelector(MEASURING));
      if (slow() && pictures) board().setAttribute("aria-busy", true);
      drawing = pictures ? strengths() : {};
      ask("cells", { strengths: strengths(), pictures });
    };
    // Figures, and pictures by the finer level, are made at rest, and after the pictures: both at
    // once would overtake each other.
    const measure = () => {
      if (moving || more || waiting("cells")) return;
      if (!element.querySelector("[data-lacking], .cell[data-coarse]")) return gauge();
      drawing = strengths();
      ask("cells", { strengths: drawing, figures: true });
    };

    // Scales are measured last of all, a cell at a time.
    const gauge = () => {
      const busy = moving || more || waiting("cells") || waiting("strips") || waiting("scales");
      if (busy || !element.querySelector("[data-unmeasured]")) return;
      ask("scales", { strengths: {}, scales: true });
    };

    // ---- answers
    essence.take = (answer) => {
      if (answer.scales) takeScales(answer);
      else if (answer.strips) takeStrips(answer);
      else takeCells(answer);
    };
    const takeScales = ({ scales, suited, cells }) => {
      sent.scales = 0;
      for (const [id, html] of Object.entries(scales)) {
        const scale = element.querySelector(`[data-scale="${id}"]`);
        if (scale) scale.outerHTML = html;
      }
      for (const [id, [value, times]] of Object.entries(suited ?? {})) {
        const input = element.querySelector(`input[data-strength="${id}"]`);
        if (!input || moving) continue;
        input.dataset.suited = times;
        input.setAttribute("value", value);
        chosen(input);
        show(input, value);
      }
      cells.forEach(replace);
      if (cells.length && slow()) gather();
      // The hand goes first: it may be about to move.
      if (Object.keys(scales).length) setTimeout(measure, PAUSE);
    };
    const takeCells = ({ cells, slow: isSlow }) => {
      sent.cells = 0;
      board()?.removeAttribute("aria-busy");
      board()?.toggleAttribute("data-slow", isSlow);
      for (const [id, value] of Object.entries(drawing)) {
        element.querySelector(`input[data-strength="${id}"]`)?.setAttribute("value", value);
      }
      cells.forEach(replace);
      if (isSlow) gather();
      if (more) send();
      else if (cells.length) measure();
      else gauge();
    };
    const replace = ({ target, source, picture, coarse, figures, strip }) => {
      const found = `.cell[data-id="${target}"][data-source="${source}"]`;
      const cell = element.querySelector(found);
      if (!cell) return; // another answer brings the whole grid
      if (!cell.querySelector("img")) cell.innerHTML = '<img alt="">';
      cell.querySelector("img").src = picture;
      cell.querySelector(".next")?.remove();
      strip ? (cell.dataset.strip = strip) : delete cell.dataset.strip;
      cell.toggleAttribute("data-coarse", coarse);
      const under = cell.closest(".place").querySelector(".figures");
      if (under && figures) under.outerHTML = figures;
    };

    // ---- strips: a few at a time; each answer asks for more
    const takeStrips = ({ strips, strengths }) => {
      sent.strips = 0;
      const some = Object.entries(strips);
      some.forEach(([name, frames]) => essence.known.set(name, { strengths, frames }));
      if (some.length && slow()) gather();
      gauge();
    };
    const fade = (input, cell) => {
      const strip = essence.known.get(cell.dataset.strip);
      // Whether the cell was drawn at another strength.
      const stale = Number(input.value) !== Number(input.getAttribute("value"));
      if (strip && (stale || cell.querySelector(".next"))) {
        if (!cell.querySelector(".next")) {
          cell.insertAdjacentHTML("beforeend", '<img class="next" alt="">');
        }
        essence.fade(...cell.querySelectorAll("img"), strip, Number(input.value));
      }
      return strip || !stale;
    };
    // Show the cells as the sliders stand, as far as there are strips; whether that is all.
    const follow = () => {
      const inputs = [...element.querySelectorAll("[data-row] input[data-strength]")];
      const cells = (input) => [...input.closest("[data-row]").querySelectorAll(".cell")];
      const faded = (input) => cells(input).map((cell) => fade(input, cell));
      return inputs.flatMap(faded).every(Boolean);
    };
    const gather = () => {
      follow();
      const cells = [...element.querySelectorAll("[data-strip]")];
      const names = new Set(cells.map((cell) => cell.dataset.strip));
      if (names.size) {
        essence.known.forEach((_, name) => names.has(name) || essence.known.delete(name));
      }
      const lacking = [...names].filter((name) => !essence.known.has(name));
      const there = names.size - lacking.length;
      prepare(lacking.length ? `Preparing the sliders: ${there} of ${names.size}` : "");
      if (lacking.length && !waiting("strips")) ask("strips", { strips: lacking });
    };
    const prepare = (text) => {
      const note = '<span class="preparing" role="status"></span>';
      if (!element.querySelector(".preparing")) {
        element.querySelector(".segments").insertAdjacentHTML("afterend", note);
      }
      element.querySelector(".preparing").textContent = text;
    };

    // ---- events
    const click = (name, values) => {
      trigger(name, { ...values, strengths: strengths(), mode: mode() });
    };
    essence.clicks(element, click, clicks);
    element.addEventListener("input", (input) => {
      if (!input.target.dataset.strength) return;
      moving = true;
      move(input.target);
    });
    element.addEventListener("change", (change) => {
      const typed = change.target.type === "number";
      const range = typed ? change.target.previousElementSibling : change.target;
      if (!range.dataset.strength) return;
      if (typed) {
        range.value = change.target.value;
        move(range);
      }
      moving = false;
      if (slow()) send();
      measure();
    });
    element.addEventListener("dblclick", (click) => {
      if (!click.target.dataset.strength) return;
      click.target.value = click.target.dataset.rest;
      move(click.target);
      if (slow()) send();
    });
    watch("value", () => {
      restore();
      if (slow()) gather();
      measure();
    });
    restore();
  },

  // Strips of the grid's cells by name, {strengths, frames}, where pictures are slow.
  known: new Map(),

  // An answer that came by Gradio's events.
  answers(element, watch) {
    watch("value", () => {
      const data = element.querySelector("[data-answer]")?.dataset.answer;
      if (data) essence.take(JSON.parse(data));
    });
  },

  // Where the grid's rows are wider than the page they scroll as one.
  together(element) {
    const scrolled = ({ target }) => {
      if (!target.matches(".cells")) return;
      element.querySelectorAll(".cells").forEach((each) => (each.scrollLeft = target.scrollLeft));
    };
    element.addEventListener("scroll", scrolled, true);
  },

  // Between two pictures of a strip, one fades into the other.
  between(strengths, value) {
    const before = strengths.findLastIndex((each) => each <= value + 1e-6);
    const at = Math.max(0, Math.min(before, strengths.length - 2));
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

  // Before and after: one slider moves the border between the two pictures, the other scrubs the
  // strip; pictures without a direction have no other.
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
    essence.dialog(element, watch, (dialog) => {
      dialog.querySelectorAll("[data-own]").forEach(essence.fill);
    });
  },

  // Painting where the change counts, in the large view: a soft brush on a small canvas, sent after
  // each stroke. Where nothing limits the change yet, the first stroke decides: "add" begins with
  // nothing, "take away" with everything.
  brush(element, trigger, event) {
    const radius = 0.08;
    const canvas = () => element.querySelector("canvas.brush");
    const pressed = () => element.querySelector("[data-brush][aria-pressed=true]")?.dataset.brush;
    const fillWith = (colour) => {
      const context = canvas().getContext("2d");
      context.fillStyle = colour;
      context.fillRect(0, 0, canvas().width, canvas().height);
    };
    const begin = async () => {
      if (canvas().dataset.begun) return;
      canvas().dataset.begun = "1";
      fillWith(pressed() === "add" ? "black" : "white");
      if (!canvas().dataset.mask) return;
      const image = new Image();
      image.src = canvas().dataset.mask;
      await image.decode();
      canvas().getContext("2d").drawImage(image, 0, 0, canvas().width, canvas().height);
    };
    const dab = (move) => {
      const box = canvas().getBoundingClientRect();
      const side = canvas().width;
      const x = ((move.clientX - box.left) / box.width) * side;
      const y = ((move.clientY - box.top) / box.height) * side;
      const context = canvas().getContext("2d");
      const colour = pressed() === "add" ? "255, 255, 255" : "0, 0, 0";
      const soft = context.createRadialGradient(x, y, 0, x, y, radius * side);
      soft.addColorStop(0, `rgba(${colour}, 0.6)`);
      soft.addColorStop(1, `rgba(${colour}, 0)`);
      context.fillStyle = soft;
      context.fillRect(0, 0, side, side);
    };
    const strength = () => element.querySelector("[data-event=picture]").dataset.strength;
    element.addEventListener("click", (click) => {
      const chosen = click.target.closest("[data-brush]");
      if (chosen) {
        const on = chosen.getAttribute("aria-pressed") !== "true";
        for (const each of element.querySelectorAll("[data-brush]")) {
          each.setAttribute("aria-pressed", String(on && each === chosen));
        }
        canvas().hidden = !on;
        // What is painted shows in the result, which must not lie under the picture before.
        if (on) element.querySelector(".stack").style.setProperty("--cut", "0%");
      } else if (click.target.closest("[data-event=paint]")) {
        canvas().dataset.mask = canvas().dataset.begun = "";
        canvas().getContext("2d").clearRect(0, 0, canvas().width, canvas().height);
      }
    });
    element.addEventListener("pointerdown", (down) => {
      if (!down.target.matches("canvas.brush")) return;
      const painted = down.target;
      painted.setPointerCapture(down.pointerId);
      // A short stroke may end while the mask is still being decoded.
      const begun = begin().then(() => dab(down));
      painted.onpointermove = (move) => begun.then(() => dab(move));
      painted.onpointerup = painted.onpointercancel = async () => {
        painted.onpointermove = painted.onpointerup = painted.onpointercancel = null;
        await begun;
        trigger(event, { strength: strength(), mask: painted.toDataURL("image/png") });
      };
    });
  },

  // The strip of the large view.
  strip(element, watch) {
    watch("value", () => {
      const dialog = document.querySelector("dialog.compare[open]");
      const data = element.querySelector("[data-strip]")?.dataset.strip;
      if (!dialog || !data) return;
      dialog.strip = JSON.parse(data);
      dialog.querySelectorAll("[data-own]").forEach((own) => (own.disabled = false));
      if (dialog.querySelector("[data-own]")) essence.scrub(dialog);
      else essence.read(dialog);
    });
  },

  scrub(dialog) {
    const own = dialog.querySelector("[data-own]");
    const value = Number(own.value);
    essence.fade(...dialog.querySelectorAll("img.after"), dialog.strip, value);
    for (const each of dialog.querySelectorAll("[data-strength]")) each.dataset.strength = value;
    dialog.querySelector(".own output").value = value.toFixed(2);
    essence.fill(own);
    essence.read(dialog);
  },

  read(dialog) {
    const { strengths, identity, likeness } = dialog.strip;
    const value = Number(dialog.querySelector("[data-own]")?.value ?? strengths[0]);
    const [at, part] = essence.between(strengths, value);
    const line = (values, text) => {
      if (values[at] === null) return "";
      const mean = (1 - part) * values[at] + part * values[at + 1];
      return `<span><b>${mean.toFixed(2)}</b> ${text}</span>`;
    };
    dialog.querySelector(".readout").innerHTML =
      line(identity, "identity: below 0.6 is usually the same person") +
      line(likeness, "likeness: higher is more like the target");
  },

  // The crop: the square follows the sliders and the pointer here; the server crops once they rest.
  crop(element, trigger, watch, event) {
    const slider = (name) => element.querySelector(`input[name=${name}]`);
    const controls = () => [...element.querySelectorAll(".controls input")];
    const values = () => {
      return Object.fromEntries(controls().map((each) => [each.name, Number(each.value)]));
    };
    const base = () => {
      const { cx, cy, x, y } = element.querySelector(".chosen").dataset;
      return [cx, cy, x, y].map(Number);
    };
    const draw = () => {
      const [cx, cy, x, y] = base();
      const { zoom, right, down, turn } = values();
      const angle = (turn * Math.PI) / 180;
      const [c, s] = [Math.cos(angle) / zoom, Math.sin(angle) / zoom];
      const [mx, my] = [cx + 2 * (right * x - down * y), cy + 2 * (right * y + down * x)];
      const [ax, ay] = [c * x - s * y, s * x + c * y];
      const corner = ([i, j]) => [mx + i * ax - j * ay, my + i * ay + j * ax].join(",");
      const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(corner);
      element.querySelector(".chosen").setAttribute("points", corners.join(" "));
      controls().forEach(essence.fill);
    };
    const send = () => {
      trigger(event, { id: element.querySelector("dialog").dataset.id, ...values() });
    };
    const mirror = () => {
      const result = element.querySelector("dialog[open] .result");
      if (!result) return;
      const item = `[data-item="${result.closest("dialog").dataset.id}"]`;
      const pictures = document.querySelector(item)?.querySelector(".pair, figure");
      if (pictures) result.replaceChildren(pictures.cloneNode(true));
    };
    element.addEventListener("input", draw);
    element.addEventListener("change", send);
    element.addEventListener("click", (click) => {
      const { reset, turn } = click.target.dataset;
      if (reset === undefined && turn === undefined) return;
      controls().forEach((each) => (each.value = each.dataset.rest));
      slider("turn").value = turn ?? 0;
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
        const dx = (move.clientX - down.clientX) * unit;
        const dy = (move.clientY - down.clientY) * unit;
        slider("right").value = start.right + dx * x + dy * y;
        slider("down").value = start.down - dx * y + dy * x;
        draw();
      };
      svg.onpointerup = () => {
        svg.onpointermove = svg.onpointerup = null;
        send();
      };
    });
    const cards = new MutationObserver(mirror);
    essence.dialog(element, watch, () => {
      for (const id of ["sources", "targets"]) {
        cards.observe(document.getElementById(id), { childList: true, subtree: true });
      }
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
