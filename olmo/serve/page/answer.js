// An answer as it is shown: its text, with a chip where it points.

import { colourOf } from "./picture.js";

const TAG = /<points?\b[^<>]*>([^<]*)<\/points?\s*>/gi;
const OPEN = /<(?:p(?:o(?:i(?:n(?:t(?:s?\b[^]*)?)?)?)?)?)?$/i;

/** Show a text that is still being written: tags as chips without points, one that is not whole as a sign of work. */
export function showUnfinished(place, text, isOver = false) {
  place.replaceChildren();
  let at = 0;
  for (const tag of text.matchAll(TAG)) {
    place.append(text.slice(at, tag.index), chip(tag[1].trim() || "here", []));
    at = tag.index + tag[0].length;
  }
  const rest = text.slice(at);
  const open = rest.match(OPEN);
  place.append(open ? rest.slice(0, open.index) : rest);
  if (isOver) return;
  const sign = document.createElement("span");
  sign.className = open && open[0].length > 5 ? "at-work pointing" : "at-work";
  if (sign.classList.contains("pointing")) sign.textContent = "pointing";
  place.append(sign);
}

/** Show a whole text; `points` tell where each stands in it. `link` is told of every chip and number with its points. */
export function showAnswer(place, text, points, link) {
  place.replaceChildren();
  const signs = Array.from(text); // the server counts characters, not halves of them
  let at = 0;
  for (const [start, numbers] of byTag(points)) {
    const first = points[numbers[0]];
    place.append(signs.slice(at, start).join(""), chip(first.label || "here", numbers, points, link));
    at = first.end;
  }
  place.append(signs.slice(at).join(""));
}

/** Numbers of the points of each tag, by the place where the tag begins. */
function byTag(points) {
  const tags = new Map();
  points.forEach((point, number) => {
    if (!tags.has(point.start)) tags.set(point.start, []);
    tags.get(point.start).push(number);
  });
  return tags;
}

function chip(label, numbers, points = [], link = null) {
  const whole = document.createElement("span");
  whole.className = "chip";
  if (numbers.length) whole.style.setProperty("--colour", colourOf(points, numbers[0]));
  const name = document.createElement(link ? "button" : "span");
  name.className = "chip-name";
  name.textContent = label;
  whole.append(name);
  if (!link) return whole;
  name.type = "button";
  name.setAttribute("aria-label", `${label}: show ${numbers.length === 1 ? "its point" : `its ${numbers.length} points`}`);
  link(name, numbers);
  for (const number of numbers) {
    const sign = document.createElement("button");
    sign.type = "button";
    sign.className = "chip-number";
    sign.textContent = String(number + 1);
    const { x, y } = points[number];
    sign.setAttribute("aria-label", `Point ${number + 1}, ${label}, at ${x} % from the left and ${y} % from the top`);
    link(sign, [number]);
    whole.append(sign);
  }
  return whole;
}
