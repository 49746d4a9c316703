// What changes every picture alike: truncation, and steps along the model's named directions.

import { $, make, say } from "./dom.js";
import { lookOf, withStrength } from "./store.js";

const SETTLE_MS = 200; // a slider that moves makes one request
const TRUNCATION = { least: 0.05, most: 1, rest: 1, step: 0.05 };

/** Make the sliders of what a server can do; returns the function that is told it (null: nothing). */
export function look(store) {
  let sliders = [];
  let settle = 0;

  function slider(name, { least, most, rest, step }, value, put) {
    const output = make("output", { htmlFor: `look-${name}` });
    const input = make("input", {
      type: "range", id: `look-${name}`, min: least, max: most, step, value: rest,
    });
    const show = () => {
      output.value = Number(input.value).toFixed(step < 0.1 ? 2 : 1);
    };
    input.addEventListener("input", () => {
      show();
      clearTimeout(settle);
      settle = setTimeout(() => store.set(put(Number(input.value))), SETTLE_MS);
    });
    sliders.push(() => {
      input.value = value() ?? rest;
      show();
    });
    return make("div", { className: "field" },
      make("label", { htmlFor: input.id, textContent: name }), output, input);
  }

  function render() {
    for (const one of sliders) one();
    const changed = Object.keys(lookOf(store.state)).length > 0;
    $("look-reset").disabled = !changed;
    $("look-changed").hidden = !changed;
  }

  $("look-reset").addEventListener("click", () => {
    store.set({ truncation: "1", edit: [] });
    $("look-sliders").querySelector("input")?.focus(); // the button is off now
    say("All pictures are as drawn.");
  });
  store.on(["truncation", "edit"], render);

  return (description) => {
    sliders = [];
    const rows = [];
    if (description?.request.properties.truncation) {
      rows.push(slider("truncation", TRUNCATION, () => lookOf(store.state).truncation,
        (value) => ({ truncation: String(value) })));
    }
    for (const [name, { range: [least, most] }] of Object.entries(description?.directions ?? {})) {
      rows.push(slider(name, { least, most, rest: 0, step: 0.1 },
        () => lookOf(store.state).edit?.[name],
        (value) => ({ edit: withStrength(store.state.edit, name, value) })));
    }
    $("look-sliders").replaceChildren(...rows);
    $("look").hidden = rows.length === 0;
    render();
  };
}
