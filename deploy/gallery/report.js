// One way to run what asks the server: problems are shown, and a missing key is asked for.

import { apiKey, Problem, setApiKey } from "./api.js";
import { $, hideProblem, notify, showProblem } from "./dom.js";

const waiting = new Set(); // what to do again when there is a key

/**
 * Run a task; a Problem is shown in `place`. `again` is called once a key has been entered, if
 * that is what was missing.
 */
export async function attempt(place, again, task) {
  hideProblem(place);
  const key = apiKey();
  try {
    return await task();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(place, error);
    if (error.status === 401 && apiKey() !== key) {
      again(); // the refusal is of a key that is no longer the user's
    } else if (error.status === 401) {
      waiting.add(again);
      openKeyDialog(key ? "The server did not take this key." : "");
    }
    return undefined;
  }
}

/** Said while a request waits for a busy server. */
export const sayWait = (seconds) =>
  notify(`The server is busy. Trying again in ${seconds} s.`);

/** Make the dialog for the key work; `onKey` is awaited before anything is tried again. */
export function keyDialog(onKey) {
  const dialog = $("key-dialog");
  $("key-open").addEventListener("click", () => openKeyDialog(""));
  $("key-forget").addEventListener("click", () => {
    setApiKey("");
    dialog.close();
    notify("The key is forgotten.");
  });
  $("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const key = $("key").value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) {
      // A header takes nothing else.
      $("key-error").textContent = "A key is one or more printable ASCII characters, no blanks.";
      $("key").focus();
      return;
    }
    setApiKey(key);
    dialog.close();
    await onKey();
    const tasks = [...waiting];
    waiting.clear();
    for (const again of tasks) again();
  });
}

function openKeyDialog(error) {
  const open = $("key-dialog").open;
  // A late refusal has nothing to say to someone who is typing a first key.
  if (error || !open) $("key-error").textContent = error;
  if (open) return;
  $("key").value = apiKey();
  $("key-forget").hidden = !apiKey();
  $("key-dialog").showModal();
  $("key").select();
}
