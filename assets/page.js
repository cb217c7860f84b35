// What HTML made by demo/views.py cannot do alone. Each function gets what Gradio hands to a component's js_on_load.
window.essence = {
  // A click on something with data-event becomes that event, with the other data-* as its values.
  clicks(element, trigger, events) {
    element.addEventListener("click", (click) => {
      const { event, ...values } = click.target.closest("[data-event]")?.dataset ?? {};
      if (events.includes(event)) trigger(event, values);
    });
  },

  // The sliders belong to the hand: an answer that arrives late must not pull them back.
  sliders(element, trigger, watch, event) {
    const held = new Map();
    const all = () => [...element.querySelectorAll("input[data-strength]")];
    const show = (input, value) => {
      input.value = value;
      input.parentElement.querySelector("output").textContent = Number(value).toFixed(2);
      input.style.setProperty("--part", `${(100 * (value - input.min)) / (input.max - input.min)}%`); // what is filled
    };
    const restore = () => {
      for (const input of all()) show(input, held.get(input.dataset.strength) ?? input.getAttribute("value"));
    };
    const take = (input) => {
      const shared = input.dataset.strength === "all";
      for (const each of shared ? all() : [input]) {
        held.set(each.dataset.strength, input.value);
        show(each, input.value);
      }
      const rows = [...held].filter(([id]) => id !== "all").map(([id, value]) => [id, Number(value)]);
      trigger(event, { strengths: Object.fromEntries(rows) });
    };
    element.addEventListener("input", (input) => input.target.dataset.strength && take(input.target));
    element.addEventListener("dblclick", (click) => {
      if (!click.target.dataset.strength) return;
      click.target.value = 1;
      take(click.target);
    });
    watch("value", restore);
    restore();
  },

  // Before and after: the slider moves the border between the two pictures.
  compare(element, watch) {
    element.addEventListener("input", (input) => {
      const stack = input.target.closest(".stack");
      stack?.style.setProperty("--cut", `${input.target.value}%`);
    });
    element.addEventListener("change", (change) => {
      if (!("swap" in change.target.dataset)) return;
      const before = element.querySelector("img.before");
      before.src = change.target.checked ? before.dataset.picture : before.dataset.model;
    });
    element.addEventListener("click", (click) => {
      const dialog = element.querySelector("dialog");
      if (click.target === dialog || click.target.closest("[data-close]")) dialog.close();
    });
    watch("value", () => {
      const dialog = element.querySelector("dialog");
      if (!dialog) return;
      dialog.close();
      dialog.querySelector(".stack").style.setProperty("--cut", "50%");
      dialog.querySelector("input[type=range]").value = 50;
      dialog.querySelector("[data-swap]").checked = false;
      dialog.showModal();
    });
  },

  // A link that arrives here is followed once: a download without a file on the server.
  outbox(element, watch) {
    watch("value", () => element.querySelector("a[download]")?.click());
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
