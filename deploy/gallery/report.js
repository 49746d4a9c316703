// One way to run what asks the server: problems are shown, and a missing key is asked for.

import { apiKey, Problem, setApiKey } from "./api.js";
import { $, hideProblem, make, notify, say, showProblem } from "./dom.js";

const failed = new Set(); // what to do again

/**
 * Run a task. A Problem with a field is shown in `place`, where that field is; any other stands
 * between all tasks and the server, and is shown once. `again`, always the same function, is
 * called when the user wants to try again, and when a key has been entered that was missing.
 */
export async function attempt(place, again, task) {
  hideProblem(place);
  const key = apiKey();
  try {
    await task();
    forget(again);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(""); // nothing is under way any more
    $("viewer").close(); // it would cover the problem
    if (error.field) {
      showProblem(place, error);
      forget(again);
    } else if (error.status === 401 && apiKey() !== key) {
      again(); // the refusal is of a key that is no longer the user's
    } else {
      failed.add(again);
      const button = { type: "button", textContent: "Try again", onclick: tryAgain };
      showProblem($("problem"), error, make("button", button));
      if (error.status === 401) openKeyDialog(key ? "The server did not take this key." : "");
    }
  }
}

function forget(task) {
  failed.delete(task);
  if (failed.size === 0) hideProblem($("problem"));
}

function tryAgain() {
  for (const task of [...failed]) task();
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
    tryAgain();
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
