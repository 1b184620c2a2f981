// Pages update themselves: at an event of the site, the page is fetched again and its live part replaced.
// Everything works without this file; it only saves the reader from reloading pages.
"use strict";

const REST = 500; // milliseconds between two fetches at least: events come in bursts
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
    return; // the stream reconnects by itself, and triggers the next refresh
  }
  if (answer.redirected) {
    location.assign(answer.url); // the session has expired
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
    say(over ? "No longer live; reload the page." : "Not live at the moment; reconnecting.");
  };
}

function rest() {
  if (stream) stream.close(); // browsers have few connections to one host, and the page is hidden
  stream = null;
}

if (live) {
  follow();
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : follow()));
  addEventListener("pagehide", rest);
  addEventListener("pageshow", follow);
}
