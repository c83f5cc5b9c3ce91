"use strict";
// Everything that others wrote, names above all, becomes text and never markup: the only ways from
// here into the page are textContent and attributes of our own choosing.

const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes = {}, words = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (words !== "") made.textContent = words;
  return made;
}

function titled(made, words) {
  made.append(shape("title", {}, words));
  return made;
}

function chart(width, height, label) {
  const box = { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label };
  return shape("svg", box);
}

function put(id, words) {
  const place = at(id);
  if (place.textContent !== words) place.textContent = words;
}

// --- figures for people --------------------------------------------------------------------------

function size(count) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 1000) return `${count.toFixed(unit === "B" ? 0 : 1)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

function duration(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${seconds.toFixed(0)} s`;
  if (seconds < 3600) return `${(seconds / 60).toFixed(0)} min`;
  if (seconds < 86400) return `${(seconds / 3600).toFixed(0)} h`;
  return `${(seconds / 86400).toFixed(0)} d`;
}

function figure(value) {
  if (value === undefined || value === null) return "–";
  const large = Math.abs(value);
  return value === 0 || (large >= 1e-3 && large < 1e4) ? value.toFixed(4) : value.toExponential(2);
}

function plural(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

// About `wanted` round numbers from `low` to `high`.
function ticks(low, high, wanted = 4) {
  if (!(high > low)) return [low];
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((s) => s >= rough);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
  return found;
}

const short = (value) => String(Number(value.toPrecision(6)));
