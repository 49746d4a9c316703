// Latent arithmetic: A - B + C, each the mean latent of the kept pictures chosen for it.

import { askEach, pictureUrl } from "./api.js";
import { $, latest, make, say } from "./dom.js";
import { attempt, sayWait } from "./report.js";
import { saveButtons } from "./save.js";
import { keptImage } from "./shelf.js";
import { lookOf } from "./store.js";

const TERMS = [
  { key: "a", name: "A", sign: "", weight: 1 },
  { key: "b", name: "B", sign: "−", weight: -1 },
  { key: "c", name: "C", sign: "+", weight: 1 },
];
const SETTLE_MS = 200; // several clicks make one request

/** Make the arithmetic work. */
export function mix(store) {
  const one = latest();
  let shown = null; // the request of the result
  let settle = 0;

  const chosen = () => TERMS.filter(({ key }) => store.state[key].length > 0);

  function render() {
    const { keep } = store.state;
    $("mix-empty").hidden = keep.length > 0;
    $("mix-body").hidden = keep.length === 0;
    const focused = document.activeElement?.id;
    $("mix-terms").replaceChildren(...TERMS.map(row));
    if (focused) $(focused)?.focus(); // the button that was pressed has been made anew
    $("mix-formula").textContent = formula() || "Choose pictures for A.";
    clearTimeout(settle);
    one(async () => {}); // a reply under way is of other terms
    if (chosen().length === 0) forget();
    else if (store.state.view === "mix") settle = setTimeout(refresh, SETTLE_MS);
  }

  function row({ key, name, sign }) {
    const seeds = store.state[key];
    const mean = make("img", { id: `mean-${key}`, alt: "", hidden: true });
    return make("fieldset", { className: "term" },
      make("legend", {}, make("span", { className: "sign", textContent: sign }), name),
      make("div", { className: "mean" }, mean),
      make("div", { className: "choices" }, ...store.state.keep.map((seed) => make("button", {
        id: `${key}-${seed}`,
        type: "button",
        className: "tile",
        title: `Seed ${seed}`,
        attributes: {
          "aria-label": `Seed ${seed} in ${name}`,
          "aria-pressed": seeds.includes(seed),
        },
        onclick: () => store.set({
          [key]: seeds.includes(seed) ? seeds.filter((other) => other !== seed) : [...seeds, seed],
        }),
      }, keptImage(seed)))));
  }

  function formula() {
    const text = chosen().map(({ key, sign }) => {
      const seeds = store.state[key].join(", ");
      return `${sign} ${store.state[key].length > 1 ? `mean(${seeds})` : seeds}`;
    }).join(" ");
    return text.trim();
  }

  async function refresh() {
    await attempt($("mix-problem"), refresh, () => one(async (signal) => {
      if (chosen().length === 0) return;
      const terms = chosen().map(({ key, weight }) => ({ weight, seeds: store.state[key] }));
      const look = lookOf(store.state);
      const means = terms.map(({ seeds }) => ({ mix: [{ weight: 1, seeds }], ...look }));
      const request = { mix: terms, ...look };
      const images = await askEach([request, ...means], { signal, onWait: sayWait });
      const [result, ...of] = images.map(pictureUrl);
      chosen().forEach(({ key, name }, i) => show(`mean-${key}`, of[i], `Mean of ${name}`));
      show("mix-result", result, `Result of ${formula()}`);
      shown = request;
      enable(true);
      say(`Drawn: ${formula()}.`);
    }));
  }

  function show(id, url, alt) {
    Object.assign($(id), { src: url, alt, hidden: false });
  }

  function forget() {
    shown = null;
    $("mix-result").hidden = true;
    enable(false);
  }

  function enable(on) {
    for (const id of ["mix-download", "mix-curl"]) $(id).disabled = !on;
  }

  saveButtons("mix", $("mix-problem"), () => ({ request: shown, file: "dcgan-mix.png" }));
  store.on(["keep", "a", "b", "c", "view", "truncation", "edit"], render);
  render();
}
