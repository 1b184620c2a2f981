// Pages keep themselves fresh: when the site tells of something, the page is fetched again and its live part put in place.
// Everything works without this file; it only saves the reader from loading pages again.
"use strict";

const REST = 500; // milliseconds between two fetches at least: events come in flocks
const KINDS = ["machine", "deployment", "node", "cluster"];

const live = document.querySelector("#live[data-live]");
const told = document.querySelector("#following");
let stream = null;
let waiting = false;
let position = new URL(document.body.dataset.stream, location.href);

function say(text) {
  if (told) told.textContent = text;
}

async function refresh() {
  waiting = false;
  let answer;
  try {
    answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  } catch {
    return; // the stream begins again by itself, and brings us back
  }
  if (answer.redirected) {
    location.assign(answer.url); // not logged in any more
    return;
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.querySelector("#live");
  if (!answer.ok || !fresh) return;
  const held = document.activeElement && live.contains(document.activeElement) ? document.activeElement : null;
  const key = held && (held.id ? "#" + CSS.escape(held.id) : held.getAttribute("href") && `a[href="${CSS.escape(held.getAttribute("href"))}"]`);
  live.replaceChildren(...fresh.childNodes);
  const again = key && live.querySelector(key);
  if (again) again.focus({ preventScroll: true });
}

function heard(event) {
  position.searchParams.set("after", event.lastEventId);
  say(`Live, as of event ${event.lastEventId}.`);
  if (waiting) return;
  waiting = true;
  setTimeout(refresh, REST);
}

function follow() {
  if (stream || document.hidden) return;
  stream = new EventSource(position);
  for (const kind of KINDS) stream.addEventListener(kind, heard);
  stream.onopen = () => say("Live.");
  stream.onerror = () => {
    const over = stream && stream.readyState === EventSource.CLOSED;
    say(over ? "Not live any more: load the page again." : "Not live at the moment.");
  };
}

function rest() {
  if (stream) stream.close(); // browsers have few connections to one host, and nobody looks
  stream = null;
}

if (live) {
  follow();
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : follow()));
  addEventListener("pagehide", rest);
  addEventListener("pageshow", follow);
}
