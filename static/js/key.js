/**
 * The way in with a key: from the fragment of the link, or typed. The server answers it with a cookie that scripts
 * cannot read; from then on every request carries that, and the key is forgotten here.
 *
 * Every page loads this, so that a key never stays in the address bar.
 */

/** A page of which somebody without the key sees less, or something else. */
const wanted = document.body.dataset.key === "wanted";
/** Remembers, for this tab, that the page was loaded anew on the word of the server. */
const TRIED = "omni-call-tried";

/** @param {string} text a link, or what follows its # @returns {string|null} */
function keyOf(text) {
  return new URLSearchParams(text.slice(text.indexOf("#") + 1)).get("key");
}

/** Show the key to the server, and the page to the person. @param {string} key */
async function enter(key) {
  say("");
  try {
    const answer = await fetch("/api/key", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ key }),
    });
    if (answer.ok) location.replace(location.pathname);
    else say((await answer.json()).error.message);
  } catch {
    say("The server does not answer. Check that it is running, then try again.");
  }
}

/** A link on another site opens the page without its cookie; asked from here, the server sees it. */
async function enterAgain() {
  const answer = await fetch("/api/key").catch(() => null);
  if (!answer?.ok || sessionStorage.getItem(TRIED)) return;
  sessionStorage.setItem(TRIED, "yes");
  location.replace(location.pathname);
}

/** @param {string} message */
function say(message) {
  const line = document.getElementById("key-error");
  if (!line) return;
  line.textContent = message;
  line.hidden = !message;
}

function readAddress() {
  const key = keyOf(location.hash);
  if (key === null) return false;
  history.replaceState(null, "", location.pathname + location.search);
  if (wanted) enter(key);
  return true;
}

const typed = /** @type {HTMLInputElement|null} */ (document.getElementById("key-input"));
typed?.form?.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = typed.value.trim();
  if (text) enter(keyOf(text) ?? text);
});
window.addEventListener("hashchange", readAddress);
if (!readAddress() && wanted) enterAgain();
