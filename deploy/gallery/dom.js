// Small helpers for the page's elements.

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** A new element: properties by name, attributes under `attributes`, then its children. */
export function make(tag, { attributes = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const SHOWN_MS = 5_000;
let fading = 0;

/** Let screen readers tell what everybody else can see. */
export function say(text) {
  const status = $("status");
  const place = document.querySelector("dialog[open]") ?? document.body;
  if (status.parentNode !== place) place.append(status); // all else is inert beside a dialog
  status.textContent = text;
  status.classList.remove("fresh");
}

/** Tell what nobody could see otherwise: read out, and shown for a while. */
export function notify(text) {
  say(text);
  $("status").classList.add("fresh");
  clearTimeout(fading);
  fading = setTimeout(() => $("status").classList.remove("fresh"), SHOWN_MS);
}

/** Show a Problem in words: what is wrong, the field, the value seen, what is allowed. */
export function showProblem(place, problem, ...actions) {
  const facts = [["Field", problem.field], ["Seen", problem.seen], ["Allowed", problem.allowed]];
  place.replaceChildren(
    make("strong", { textContent: problem.title }),
    ...(problem.detail ? [make("p", { textContent: problem.detail })] : []),
    make("dl", {}, ...facts.filter(([, value]) => value).map(([name, value]) =>
      make("div", {},
        make("dt", { textContent: name }), make("dd", { textContent: value })))),
    ...actions,
  );
  place.hidden = false;
}

/** Take a problem away; focus that was in it goes to the pictures. */
export function hideProblem(place) {
  if (place.contains(document.activeElement)) $("pictures").focus();
  place.hidden = true;
  place.replaceChildren();
}

/** A runner of which only the latest task counts: a new one aborts the one before it. */
export function latest() {
  let current = null;
  return async (task) => {
    current?.abort();
    const mine = (current = new AbortController());
    try {
      return await task(mine.signal);
    } catch (error) {
      if (mine.signal.aborted) return undefined;
      throw error;
    }
  };
}
